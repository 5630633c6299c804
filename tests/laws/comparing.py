"""What the laws compare with: closeness, refusals, oracles that have no answer."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import MutationError, RandomnessError
from tests.law_cases import Case, NotApplicableError
from tests.laws.library import Tensors

COARSENESS = {
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
    torch.complex32: 1e-2,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
}


def close(actual: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Refuse values that differ; a NaN is expected where the oracle has one."""
    if len(actual) != len(expected):
        raise AssertionError(f"{len(actual)} results, expected {len(expected)}")
    if not expected:
        raise NotApplicableError("no result to compare")
    rtol, atol = max(rtol, coarseness(expected)), max(atol, coarseness(expected) / 10)
    if any(e.layout is not torch.strided for e in expected):
        raise NotApplicableError("sparse output")
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape:
            raise AssertionError(f"shape {list(a.shape)}, expected {list(e.shape)}")
        torch.testing.assert_close(
            a.resolve_conj().resolve_neg(), e, rtol=rtol, atol=atol, equal_nan=True
        )


def close_where_known(
    actual: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-8
) -> None:
    """As ``close``; a NaN of the oracle says nothing."""
    known = [~torch.isnan(e) for e in expected]
    if any(e.numel() for e in expected) and not any(k.any() for k in known):
        raise NotApplicableError("the oracle has only NaN")
    if [a.shape for a in actual] == [e.shape for e in expected]:
        actual = [a[k] for a, k in zip(actual, known, strict=True)]
        expected = [e[k] for e, k in zip(expected, known, strict=True)]
    close(actual, expected, rtol, atol)


def coarseness(tensors: Sequence[Tensor]) -> float:
    """Return the relative error that the dtypes allow."""
    return max((COARSENESS.get(t.dtype, 0.0) for t in tensors), default=0.0)


def oracle(func: Callable[..., Any], *args: Any) -> Any:
    """Call what only PyTorch answers for; where it can't, the law says nothing."""
    try:
        return func(*args)
    except NotApplicableError:
        raise
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise NotApplicableError(f"oracle: {type(error).__name__}: {first}") from error


def random_like(tensors: Sequence[Tensor], seed: int) -> Tensors:
    """Draw a direction for each tensor."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, dtype=t.dtype, generator=made) for t in tensors]


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the real inner product of two lists of tensors."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(left, right, strict=True):
        total = total + torch.sum((a * b.conj()).real if a.is_complex() else a * b)
    return total


def refused(case: Case, error: Exception) -> bool:
    """Tell whether an error is a refusal that torch.func shares."""
    if case.rng and isinstance(error, RandomnessError):
        return True
    return case.writes and isinstance(error, MutationError)


def note(error: Exception, text: str) -> None:
    """Add a line to an error that goes on; Python 3.10 has no way to."""
    if sys.version_info >= (3, 11):
        error.add_note(text)
