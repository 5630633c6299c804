"""The laws that every rule obeys, as pure functions of a case.

``python -m tests.laws`` checks them for chosen operators.
"""

import warnings
from collections.abc import Callable

import torch

from jaxtorch.errors import MissingRuleError
from tests.law_cases import Case, NotApplicableError, cases
from tests.laws.comparing import note, refused
from tests.laws.of_batching import law_batch, law_rule, law_sizes, law_vmap_vmap
from tests.laws.of_both import (
    law_autograd_vmap,
    law_vjp_vmap,
    law_vmap_jvp,
    law_vmap_pull,
    law_vmap_vjp,
)
from tests.laws.of_derivatives import (
    law_autograd_vjp,
    law_difference,
    law_jvp_vjp,
    law_linearize,
    law_transpose,
    law_vjp,
    law_vjp_vjp,
)
from tests.laws.slopes import has_oracle

LAWS: dict[str, Callable[[Case], None]] = {
    "batch": law_batch,
    "rule": law_rule,
    "vjp": law_vjp,
    "transpose": law_transpose,
    "vmap_vjp": law_vmap_vjp,
    "vmap_pull": law_vmap_pull,
    "sizes": law_sizes,
    "difference": law_difference,
    "linearize": law_linearize,
    "jvp_vjp": law_jvp_vjp,
    "vjp_vjp": law_vjp_vjp,
    "vmap_jvp": law_vmap_jvp,
    "vjp_vmap": law_vjp_vmap,
    "vmap_vmap": law_vmap_vmap,
    "autograd_vmap": law_autograd_vmap,
    "autograd_vjp": law_autograd_vjp,
}
BATCHING = ("batch", "rule", "sizes", "vmap_vmap")
QUICK = ("batch", "vjp", "transpose", "vmap_vjp")


def check(name: str, law: str, samples: int, dtype: torch.dtype | None = None) -> str:
    """Check one law on some cases of one operator.

    Returns "ok", or "-" where it says nothing about any case. Raises what the law does.
    """
    held = 0
    reason = "no case"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases(name, samples, dtype):
            try:
                LAWS[law](case)
                held += 1
            except NotApplicableError as error:
                reason = str(error)
            except Exception as error:
                if refused(case, error):
                    reason = "refused, as in torch.func"
                    continue
                unknown = law not in BATCHING and not has_oracle(case)
                if isinstance(error, MissingRuleError) and unknown:
                    reason = "no derivative here, nor in PyTorch"
                    continue
                note(error, f"law {law} on {case.name}")
                raise
    if not held:
        raise NotApplicableError(reason)
    return "ok"
