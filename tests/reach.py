"""Which records the cases of the laws reach. No law is checked here."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch._ops import OpOverload

import jaxtorch
from jaxtorch.core import primitive
from jaxtorch.rules.table import TABLE
from tests.law_cases import NAMES, Case, NotApplicableError, cases
from tests.laws.comparing import random_like
from tests.laws.mapping import batches, mapped
from tests.laws.slopes import partial_call

# Overloads with a record that no case reaches: why.
COMPOSITE = "PyTorch writes it with other operators before it is dispatched"
CUDA = "a kernel of CUDA"
ALL_EXAMPLES = "all examples have one answer; tests/test_distributions.py"
UNREACHED = {
    "aten.__or__.Scalar": COMPOSITE,
    "aten.__xor__.Scalar": COMPOSITE,
    "aten.__xor__.Tensor": COMPOSITE,
    "aten._is_all_true.default": ALL_EXAMPLES,
    "aten._is_any_true.default": ALL_EXAMPLES,
    "aten._fused_rms_norm.default": COMPOSITE,
    "aten._fused_rms_norm_backward.default": COMPOSITE,
    "aten._scaled_dot_product_cudnn_attention.default": CUDA,
    "aten._scaled_dot_product_efficient_attention.default": CUDA,
    "aten._scaled_dot_product_flash_attention.default": CUDA,
    "aten.argsort.default": COMPOSITE,
    "aten.argsort.stable": COMPOSITE,
    "aten.cudnn_batch_norm.default": CUDA,
    "aten.cudnn_grid_sampler.default": CUDA,
    "aten.mkldnn_rnn_layer.default": "of float32 only; tests/models/test_lstm.py",
}


@contextlib.contextmanager
def dispatched() -> Iterator[set[OpOverload]]:
    """Yield the set of the overloads that reach a level from here on."""
    kept = dict(primitive.PRIMITIVES)
    seen: set[OpOverload] = set()
    primitive.PRIMITIVES.clear()
    try:
        yield seen
    finally:
        seen.update(primitive.PRIMITIVES)
        primitive.PRIMITIVES.update(kept)


def exercise(case: Case) -> None:
    """Run a case under vmap, and under the derivative of its pull-back under vmap."""
    _, args, dims = batches(case)[1]
    with contextlib.suppress(Exception):
        mapped(case, case.func, dims)(*args)
    for nest in (jaxtorch.vjp, jaxtorch.jvp):
        with contextlib.suppress(Exception):
            mapped(case, lambda *own, n=nest: second(case, own, n), dims)(*args)


def second(case: Case, example: Sequence[Tensor], nest: object) -> Tensor:
    """Differentiate a pull-back, or push a tangent through it."""
    inputs = [example[i] for i in case.wanted]

    def pull(*inputs: Tensor) -> list[Tensor]:
        outs, back = jaxtorch.vjp(lambda *x: partial_call(case, example, *x), *inputs)
        return list(back([o * 0 + 1 for o in outs])[: len(inputs)])

    if nest is jaxtorch.jvp:
        directions = [x * 0 + 1 for x in inputs]
        return jaxtorch.jvp(pull, tuple(inputs), tuple(directions))[1][0]
    outs, back = jaxtorch.vjp(pull, *inputs)
    return back(random_like(outs, 0))[0]


def unreached(samples: int) -> list[str]:
    """Return the names of the records that no case reaches.

    Those of kernels have cases of their own, in tests/kernels.
    """
    with warnings.catch_warnings(), dispatched() as seen:
        warnings.simplefilter("ignore")
        for name in NAMES:
            with contextlib.suppress(NotApplicableError):
                for case in cases(name, samples):
                    with contextlib.suppress(NotApplicableError):
                        exercise(case)
    return sorted(str(o) for o in TABLE if o not in seen and o.namespace != "jaxtorch")
