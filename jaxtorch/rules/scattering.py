"""Gather and scatter along one dim, with an index of the shape of the result."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.gather import Gather, Overwrite
from jaxtorch.linear.operator import Composition, Identity, LinearOperator
from jaxtorch.linear.placement import Pad
from jaxtorch.rules.batching import batched_at_front, pad_rank, physical, rank_of
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten


def gather_batch(
    size: int, dims: Any, x: Tensor, dim: int, index: Tensor, **kwargs: Any
) -> Any:
    """Gather from the dim behind the batch dim; both operands get a batch dim."""
    scalar = rank_of(index, dims[2]) == 0
    dim = physical(dim, rank_of(x, dims[0]))
    x = pad_rank(batched_at_front(x, dims[0], size), max(1, rank_of(x, dims[0])))
    index = batched_at_front(index, dims[2], size)
    index = index.unsqueeze(1) if scalar else index
    out = torch.gather(x, dim, index, **kwargs)
    return (out.squeeze(1) if scalar else out), 0


def scatter_batch(call: Callable[..., Tensor]) -> BatchRule:
    """Batch ``call(x, dim, index, src, ...)``, where ``src`` is a tensor or a number."""

    def batch(
        size: int, dims: Any, x: Tensor, dim: int, index: Tensor, src: Any, *args: Any,
        **kwargs: Any,
    ) -> Any:
        scalar = rank_of(x, dims[0]) == 0
        dim = physical(dim, rank_of(x, dims[0]))
        operands = [
            pad_rank(batched_at_front(t, d, size), max(1, rank_of(t, d)))
            if isinstance(t, Tensor)
            else t
            for t, d in ((x, dims[0]), (index, dims[2]), (src, dims[3]))
        ]
        out = call(operands[0], dim, operands[1], operands[2], *args, **kwargs)
        return (out.squeeze(1) if scalar else out), 0

    return batch


def gather_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False
) -> Any:
    """Linear in ``x``."""
    return torch.gather(x, dim, index), (Gather(dim, index, x.shape),)


def from_source(operator: LinearOperator, index: Tensor, src: Tensor) -> LinearOperator:
    """Let ``operator`` act on the part of ``src`` that ``index`` covers."""
    if src.shape == index.shape:
        return operator
    missing = [i - s for i, s in zip(index.shape, src.shape, strict=True)]
    return Composition(operator, Pad([p for m in reversed(missing) for p in (0, m)]))


def cleared(dim: int, index: Tensor) -> LinearOperator:
    """Return the operator that sets to zero what ``index`` names."""
    return Elementwise(lambda t, index: torch.scatter(t, dim, index, 0), index)


def scatter_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, src: Tensor
) -> Any:
    """Linear in ``x`` where it is kept, in ``src`` where it is written."""
    operator = wanted[3] and from_source(Overwrite(dim, index, x.shape), index, src)
    return torch.scatter(x, dim, index, src), (cleared(dim, index), None, None, operator)


def scatter_value_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, value: Any
) -> Any:
    """Linear in ``x`` where it is kept."""
    return torch.scatter(x, dim, index, value), (cleared(dim, index),)


def scatter_add_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, src: Tensor
) -> Any:
    """Linear in both; the transpose of a gather in ``src``."""
    operator = wanted[3] and from_source(
        Gather(dim, index, x.shape).transpose(), index, src
    )
    return torch.scatter_add(x, dim, index, src), (Identity(), None, None, operator)


def scatter_reduce_method_decompose(
    x: Tensor, dim: int, index: Tensor, src: Tensor, *, reduce: str
) -> Tensor:
    """Write ``scatter(reduce="add" | "multiply")`` with the newer operators."""
    if reduce == "add":
        return torch.scatter_add(x, dim, index, src)
    return torch.scatter_reduce(x, dim, index, src, "prod")


def scatter_value_reduce_decompose(
    x: Tensor, dim: int, index: Tensor, value: Any, *, reduce: str
) -> Tensor:
    """As ``scatter_reduce_method_decompose``, with a number."""
    src = x.new_full(index.shape, value)
    return scatter_reduce_method_decompose(x, dim, index, src, reduce=reduce)


RECORDS = (
    Record(aten.gather.default, gather_batch, gather_linearize),
    Record(aten.scatter.src, scatter_batch(torch.scatter), scatter_linearize),
    Record(aten.scatter.value, scatter_batch(torch.scatter), scatter_value_linearize),
    Record(aten.scatter_add.default, scatter_batch(torch.scatter_add), scatter_add_linearize),
    Record(aten.scatter.reduce, decompose=scatter_reduce_method_decompose),
    Record(aten.scatter.value_reduce, decompose=scatter_value_reduce_decompose),
)
