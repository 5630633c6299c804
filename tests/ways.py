"""By which way a case runs under a transform, seen while a law is checked.

The table of ``tests.coverage`` and the comparison of ``tests.against_torch_func`` are
made of this.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch

import jaxtorch
from jaxtorch.core import fallback
from tests.law_cases import Case, NotApplicableError
from tests.laws import LAWS
from tests.laws.comparing import close, coarseness, inner, oracle, random_like, refused
from tests.laws.library import LIBRARY
from tests.laws.slopes import autograd_vjp, random_cotangents, real_function

LawsOf = dict[str, tuple[str, ...]]

# The laws that are checked of each transform: the next one where one says nothing.
LAWS_OF: LawsOf = {
    "vmap": ("batch",),
    "jvp": ("pushed", "difference", "transpose"),
    "vjp": ("vjp", "transpose"),
    "vjp of vjp": ("vjp_vjp",),
    "vmap of vjp": ("vmap_vjp",),
}
TRANSFORMS = tuple(LAWS_OF)

# Those that need an answer of the oracle, and nothing of what they check.
LAWS_BY_ORACLE = {**LAWS_OF, "jvp": ("difference", "pushed"), "vjp": ("vjp",)}

# Where torch.autograd differs from finite differences, and other laws are checked.
LAWS_WITHOUT_ORACLE: LawsOf = {
    "jvp": ("difference",),
    "vjp": ("transpose",),
    "vjp of vjp": (),
    "vmap of vjp": (),
}
LAWS_OF_CONSTANTS: LawsOf = {"jvp": ("pushed",)}
OTHER_LAWS: dict[str, LawsOf] = {
    # The derivative by what is overwritten is not zero.
    "as_strided_scatter": LAWS_WITHOUT_ORACLE,
    "aten::as_strided_scatter": LAWS_WITHOUT_ORACLE,
    # One by a weight is missing; so is the second derivative.
    "nn.functional.linear_cross_entropy.chunked": LAWS_WITHOUT_ORACLE,
    "nn.functional.linear_cross_entropy.chunked_none": LAWS_WITHOUT_ORACLE,
    # Something counts as a constant: the input, a draw, a row, the factor of a norm.
    "aten::detach": LAWS_OF_CONSTANTS,
    "normal": LAWS_OF_CONSTANTS,
    "normal.number_mean": LAWS_OF_CONSTANTS,
    "nn.functional.embedding": LAWS_OF_CONSTANTS,
    "nn.functional.embedding_bag": {**LAWS_OF_CONSTANTS, "vjp of vjp": ()},
    # Of an index that occurs twice the kernel keeps one, the derivative serves both.
    "nn.functional.max_unpool1d": {"vjp of vjp": ()},
    "nn.functional.max_unpool2d": {"vjp of vjp": ()},
    "nn.functional.max_unpool3d": {"vjp of vjp": ()},
}

NO_WORD = "-"
WORDS = ("rule", "decomposition", "loop", "no")
"""From the best to the worst."""


class Watch:
    """Notes, while it is on, what stood in for rules that are missing."""

    def __init__(self) -> None:
        self.decomposed = False
        self.looped = False

    @property
    def word(self) -> str:
        """The worst that happened."""
        if self.looped:
            return "loop"
        return "decomposition" if self.decomposed else "rule"

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Watch the fall-backs of the core."""
        decompose, loop = fallback.decompose, fallback.loop

        def watched_decompose(*args: Any) -> Any:
            out = decompose(*args)
            if out is not NotImplemented:
                self.decomposed = True
            return out

        def watched_loop(*args: Any) -> Any:
            self.looped = True
            return loop(*args)

        with (
            mock.patch.object(fallback, "decompose", watched_decompose),
            mock.patch.object(fallback, "loop", watched_loop),
        ):
            yield


def law_pushed(case: Case) -> None:
    """``<J v, w> = <v, J^T w>`` with ``J^T w`` by torch.autograd."""
    func, inputs = real_function(case, case.examples[0])
    if not all(torch.isfinite(out).all() for out in func(*inputs)):
        raise NotApplicableError("not finite here")
    cotangents = oracle(random_cotangents, func, inputs, 3)
    pulled = oracle(autograd_vjp, func, inputs, cotangents)
    tangents = random_like(inputs, 2)
    _, pushed = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
    left, right = inner(pushed, cotangents), inner(tangents, pulled)
    own = coarseness([*pushed, *pulled])
    close([left], [right], rtol=max(1e-6, own), atol=max(1e-8, own))


CHECKS = {**LAWS, "pushed": law_pushed}

Outcome = tuple[str, str]
"""A word, and the reason of "no" or "-"."""


def held(case: Case, transform: str, laws_of: LawsOf) -> None:
    """Check the first of a transform's laws that says anything about a case."""
    laws_of = laws_of | OTHER_LAWS.get(case.name.partition("[")[0], {})
    reasons = []
    for name in laws_of[transform]:
        try:
            return CHECKS[name](case)
        except NotApplicableError as error:
            reasons.append(str(error))
    raise NotApplicableError("; ".join(reasons))


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def says_nothing(case: Case, error: Exception) -> bool:
    """Tell whether an error is no failure: both libraries refuse what was tried."""
    if isinstance(error, NotApplicableError) or refused(case, error):
        return True
    return case.rng and "randomness" in str(error)


def our_way(case: Case, transform: str, laws_of: LawsOf = LAWS_OF) -> Outcome:
    """Return how jaxtorch runs a case under a transform."""
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with watch.on():
                held(case, transform, laws_of)
        except Exception as error:
            word = NO_WORD if says_nothing(case, error) else "no"
            return word, first_line(error)
    return watch.word, ""


def their_way(case: Case, transform: str) -> Outcome:
    """Return "rule", "loop" or "no" of ``torch.func``."""
    peer = {"vmap": torch_vmap, "vjp": torch.func.vjp, "jvp": torch.func.jvp}
    if transform == "vjp of vjp":
        peer["jvp"] = jaxtorch.jvp  # The oracle of what vjp gives.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with mock.patch.dict(vars(LIBRARY), peer):
                held(case, transform, LAWS_BY_ORACLE)
        except Exception as error:
            word = NO_WORD if says_nothing(case, error) else "no"
            return word, first_line(error)
    if any("performance drop" in str(own.message) for own in caught):
        return "loop", "runs once per example"
    return "rule", ""


def torch_vmap(func: Any, in_dims: Any, randomness: str, strict: bool) -> Any:
    """Call ``torch.func.vmap`` as the laws call ours."""
    return torch.func.vmap(func, in_dims=in_dims, randomness=randomness)


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the worst of the outcomes; "-" where none has a word."""
    told = [own for own in outcomes if own[0] != NO_WORD]
    if not told:
        return outcomes[0] if outcomes else (NO_WORD, "no case")
    return max(told, key=lambda own: WORDS.index(own[0]))


Way = Callable[[Case, str], Outcome]


def row(cases: Sequence[Case], way: Way) -> dict[str, Outcome]:
    """Return the worst outcome of the cases under each transform."""
    return {t: worst([way(case, t) for case in cases]) for t in TRANSFORMS}
