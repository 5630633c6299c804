"""Cumulative operators along one dim: cumsum, cumprod, logcumsumexp, cummax, cummin."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.cast import promoted
from jaxtorch.linear.gather import Gather
from jaxtorch.linear.operator import Identity, Output
from jaxtorch.linear.scan import CumulativeSum, Recurrence, shifted
from jaxtorch.rules.batching import entry_point
from jaxtorch.rules.record import Record
from jaxtorch.rules.reducing import along_dim_batch

aten = torch.ops.aten


def trivial(x: Tensor) -> bool:
    """Tell whether there is nothing to accumulate."""
    return x.dim() == 0 or x.numel() == 0


def cumsum_linearize(wanted: Any, x: Tensor, dim: int, *, dtype: Any = None) -> Any:
    """Linear."""
    out = torch.cumsum(x, dim, dtype=dtype)
    return out, (promoted(CumulativeSum(dim), x, out),)


def cumprod_linearize(wanted: Any, x: Tensor, dim: int, *, dtype: Any = None) -> Any:
    """``dy[k] = x[k] dy[k-1] + y[k-1] dx[k]``, right where elements are zero."""
    out = torch.cumprod(x, dim, dtype=dtype)
    if trivial(x):
        return out, (promoted(Identity(), x, out),)

    def coefficients() -> tuple[Tensor, Tensor]:
        return x.to(out.dtype), shifted(out, dim, 1)

    return out, (promoted(Recurrence(coefficients, dim), x, out),)


def logcumsumexp_linearize(wanted: Any, x: Tensor, dim: int) -> Any:
    """``dy[k] = exp(y[k-1] - y[k]) dy[k-1] + exp(x[k] - y[k]) dx[k]``."""
    out = torch.logcumsumexp(x, dim)
    if trivial(x):
        return out, (Identity(),)

    def coefficients() -> tuple[Tensor, Tensor]:
        whole = torch.where(out == -torch.inf, 0, out)
        before = shifted(out, dim, -torch.inf)
        return torch.exp(before - whole), torch.exp(x - whole)

    return out, (Recurrence(coefficients, dim),)


def running_extremum(overload: OpOverload) -> Record:
    """Make the record of cummax or cummin: each value is read at its index."""
    call = entry_point(overload)

    def linearize(wanted: Any, x: Tensor, dim: int) -> Any:
        out = call(x, dim)
        return out, (Output(Gather(dim, out[1], x.shape), 0, 2),)

    return Record(overload, along_dim_batch(overload), linearize)


RECORDS = (
    Record(aten.cumsum.default, along_dim_batch(aten.cumsum.default), cumsum_linearize),
    Record(
        aten.cumprod.default, along_dim_batch(aten.cumprod.default), cumprod_linearize
    ),
    Record(
        aten.logcumsumexp.default,
        along_dim_batch(aten.logcumsumexp.default),
        logcumsumexp_linearize,
    ),
    running_extremum(aten.cummax.default),
    running_extremum(aten.cummin.default),
)
