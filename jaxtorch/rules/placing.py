"""Writing a block over a view: select_scatter, slice_scatter, diagonal_scatter, ..."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.placement import Inserted
from jaxtorch.rules.batching import batched_at_front, physical, rank_of
from jaxtorch.rules.record import Record
from jaxtorch.rules.strides import elements_reached

aten = torch.ops.aten


def select_scatter_batch(
    size: int, dims: Any, x: Tensor, src: Tensor, dim: int, index: int
) -> Any:
    """Write behind the batch dim."""
    dim = physical(dim, rank_of(x, dims[0]))
    x = batched_at_front(x, dims[0], size)
    src = batched_at_front(src, dims[1], size)
    return torch.select_scatter(x, src, dim, index), 0


def slice_scatter_batch(
    size: int, dims: Any, x: Tensor, src: Tensor, dim: int = 0, *bounds: Any
) -> Any:
    """Write behind the batch dim."""
    dim = physical(dim, rank_of(x, dims[0]))
    x = batched_at_front(x, dims[0], size)
    src = batched_at_front(src, dims[1], size)
    return torch.slice_scatter(x, src, dim, *bounds), 0


def diagonal_scatter_batch(
    size: int,
    dims: Any,
    x: Tensor,
    src: Tensor,
    offset: int = 0,
    dim1: int = 0,
    dim2: int = 1,
) -> Any:
    """Write behind the batch dim."""
    rank = rank_of(x, dims[0])
    x = batched_at_front(x, dims[0], size)
    src = batched_at_front(src, dims[1], size)
    first, second = physical(dim1, rank), physical(dim2, rank)
    return torch.diagonal_scatter(x, src, offset, first, second), 0


def written(write: Any, view: Any) -> Any:
    """Return the linearize rule of ``write``, linear in the target and the block."""

    def linearize(wanted: Any, x: Tensor, src: Tensor, *args: Any) -> Any:
        def cleared(t: Tensor) -> Tensor:
            return write(t, t.new_zeros(src.shape), *args)  # type: ignore[no-any-return]

        out = write(x, src, *args)
        return out, (Elementwise(cleared), Inserted(write, view, x.shape, args))

    return linearize


def as_strided_scatter_decompose(
    x: Tensor, src: Tensor, size: Any, stride: Any, storage_offset: int | None = None
) -> Any:
    """Write into the flattened tensor at the elements that the strides reach."""
    index = elements_reached(x, size, stride, storage_offset)
    return aten.index_put.default(x.reshape(-1), [index], src).reshape(x.shape)


RECORDS = (
    Record(
        aten.select_scatter.default,
        select_scatter_batch,
        written(torch.select_scatter, torch.select),
    ),
    Record(
        aten.slice_scatter.default,
        slice_scatter_batch,
        written(torch.slice_scatter, aten.slice.Tensor),
    ),
    Record(
        aten.diagonal_scatter.default,
        diagonal_scatter_batch,
        written(torch.diagonal_scatter, torch.diagonal),
    ),
    Record(
        aten.as_strided_scatter.default,
        decompose=as_strided_scatter_decompose,
        by_strides=True,
    ),
)
