"""Whole slices along one dim, named by an index vector: index_select, index_add, ..."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import Elementwise, Scale
from jaxtorch.linear.gather import CopyRows, SelectRows
from jaxtorch.linear.operator import Composition, Identity, LinearOperator
from jaxtorch.rules.batching import batched_at_front, pad_rank, physical, rank_of
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten


def index_select_batch(size: int, dims: Any, x: Tensor, dim: int, index: Tensor) -> Any:
    """Select from the batch; a batched index flattens, or gathers where both are."""
    own, index_dim = dims[0], dims[2]
    rank = rank_of(x, own)
    dim = physical(dim, rank) - 1
    if rank == 0:
        return batched_at_front(x, own, size), 0
    if index_dim is None:
        return torch.index_select(x, dim + (own <= dim), index), own
    index = index.movedim(index_dim, 0)
    if own is None:
        rows = torch.index_select(x, dim, index.reshape(-1))
        shape = x.shape
        count = index.shape[1] if index.dim() > 1 else 1
        return rows.reshape(*shape[:dim], size, count, *shape[dim + 1 :]), dim
    x = x.movedim(own, 0)
    return torch.gather(x, dim + 1, spread(index, dim + 1, x.shape)), 0


def spread(index: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Expand an index ``[batch, count]`` to ``shape`` with ``count`` at ``dim``."""
    count = index.shape[1] if index.dim() > 1 else 1
    view = [shape[0]] + [1] * (len(shape) - 1)
    view[dim] = count
    return index.reshape(view).expand(*shape[:dim], count, *shape[dim + 1 :])


def written_batch(
    call: Callable[..., Tensor], scatter: Callable[..., Tensor]
) -> BatchRule:
    """Batch ``call(x, dim, index, source, ...)`` that writes slices.

    With a batched index it becomes ``scatter`` with the index spread over the slices.
    """

    def batch(
        size: int,
        dims: Any,
        x: Tensor,
        dim: int,
        index: Tensor,
        source: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        rank = rank_of(x, dims[0])
        dim = physical(dim, rank)
        x = pad_rank(batched_at_front(x, dims[0], size), max(1, rank))
        if isinstance(source, Tensor):
            own = dims[3]
            source = batched_at_front(source, own, size)
            source = pad_rank(source, x.dim() - 1)
        if dims[2] is None:
            out = call(x, dim, index, source, *args, **kwargs)
        else:
            wide = spread(index.movedim(dims[2], 0), dim, x.shape)
            out = scatter(x, dim, wide, source, *args, **kwargs)
        return (out if rank else out.squeeze(1)), 0

    return batch


def scatter_scaled(
    x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1
) -> Tensor:
    """Write ``index_add`` as ``scatter_add``."""
    return torch.scatter_add(x, dim, index, source if alpha == 1 else source * alpha)


def index_select_linearize(wanted: Any, x: Tensor, dim: int, index: Tensor) -> Any:
    """Linear in ``x``."""
    return torch.index_select(x, dim, index), (SelectRows(dim, index, x.shape),)


def index_add_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1
) -> Any:
    """Linear in both; the transpose of ``index_select`` in the source."""
    out = torch.index_add(x, dim, index, source, alpha=alpha)
    added: LinearOperator = SelectRows(dim, index, x.shape).transpose()
    if alpha != 1:
        added = Composition(added, Scale(alpha, source.shape, source.shape))
    return out, (Identity(), None, None, added)


def cleared(dim: int, index: Tensor) -> LinearOperator:
    """Return the operator that sets to zero the slices that ``index`` names."""
    return Elementwise(lambda t, index: torch.index_fill(t, dim, index, 0), index)


def index_copy_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, source: Tensor
) -> Any:
    """Linear in ``x`` where it is kept, in the source where it is written."""
    out = torch.index_copy(x, dim, index, source)
    copied = CopyRows(dim, index, x.shape)
    return out, (cleared(dim, index), None, None, copied)


def index_fill_linearize(
    wanted: Any, x: Tensor, dim: int, index: Tensor, value: Any
) -> Any:
    """Linear in ``x`` where it is kept."""
    return torch.index_fill(x, dim, index, value), (cleared(dim, index),)


def index_fill_tensor_decompose(
    x: Tensor, dim: int, index: Tensor, value: Tensor
) -> Tensor:
    """Select the value where a mask made from the index is set."""
    if x.dim() == 0:
        return value.to(x.dtype).clone()
    length = x.shape[dim]
    mask = torch.zeros(length, dtype=torch.bool, device=index.device)
    mask = torch.index_fill(mask, 0, index, True)
    after = x.dim() - 1 - dim % x.dim()
    return torch.where(mask.reshape(length, *[1] * after), value.to(x.dtype), x)


def index_reduce_decompose(
    x: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """Spread the index over the slices and use ``scatter_reduce``."""
    target = x if x.dim() else x.reshape(1)
    source = source.reshape(1) if source.dim() == 0 else source
    shape = [1] * target.dim()
    shape[dim] = index.numel()
    wide = index.reshape(shape).expand(source.shape)
    out = torch.scatter_reduce(
        target, dim, wide, source, reduce, include_self=include_self
    )
    return out if x.dim() else out.reshape(())


RECORDS = (
    Record(aten.index_select.default, index_select_batch, index_select_linearize),
    Record(
        aten.index_add.default,
        written_batch(torch.index_add, scatter_scaled),
        index_add_linearize,
    ),
    Record(
        aten.index_copy.default,
        written_batch(torch.index_copy, torch.scatter),
        index_copy_linearize,
    ),
    Record(
        aten.index_fill.int_Scalar,
        written_batch(torch.index_fill, torch.scatter),
        index_fill_linearize,
    ),
    Record(aten.index_reduce.default, decompose=index_reduce_decompose),
    Record(aten.index_fill.int_Tensor, decompose=index_fill_tensor_decompose),
)
