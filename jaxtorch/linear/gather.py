"""Gathers by index tensors and their transposes, the scatters that add."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import sum_to
from jaxtorch.linear.operator import LinearOperator


class AlongDim(LinearOperator):
    """Reads or writes at ``index`` along ``dim`` of a tensor of ``shape``."""

    __slots__ = ("dim", "index", "shape")

    def __init__(self, dim: int, index: Tensor, shape: torch.Size) -> None:
        self.dim = dim
        self.index = index
        self.shape = shape


class Gather(AlongDim):
    """``tangent.gather(dim, index)``; the transpose adds where it was read.

    ``shape`` is that of the tensor that is gathered from. ``Gather(...).transpose()``
    is the linear part of ``scatter_add``.
    """

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Tensor:
        return torch.gather(tangent, self.dim, self.index)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        zeros = cotangent.new_zeros(self.shape)
        return torch.scatter_add(zeros, self.dim, self.index, cotangent)


class SelectRows(AlongDim):
    """``tangent.index_select(dim, index)``; the transpose is ``index_add``."""

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Tensor:
        return torch.index_select(tangent, self.dim, self.index)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        zeros = cotangent.new_zeros(self.shape)
        return torch.index_add(zeros, self.dim, self.index, cotangent)


class TakeAt(LinearOperator):
    """``tangent[indices]``; the transpose is ``index_put`` that accumulates."""

    __slots__ = ("indices", "shape")

    def __init__(self, indices: Sequence[Any], shape: torch.Size) -> None:
        self.indices = indices
        self.shape = shape

    def apply(self, tangent: Tensor) -> Any:
        return torch.ops.aten.index.Tensor(tangent, self.indices)

    def apply_transpose(self, cotangent: Tensor) -> Any:
        zeros = cotangent.new_zeros(self.shape)
        return torch.ops.aten.index_put.default(zeros, self.indices, cotangent, True)


class Overwrite(AlongDim):
    """Zeros with ``tangent`` written where ``index`` says: the last writer wins.

    The transpose reads the cotangent back, for the entries that were not overwritten.
    """

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Tensor:
        zeros = tangent.new_zeros(self.shape)
        return torch.scatter(zeros, self.dim, self.index, tangent)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        index, dim = self.index, self.dim
        pulled = torch.gather(cotangent, dim, index)
        if index.dim() == 0 or index.shape[dim] <= 1:
            return pulled
        order = torch.arange(index.numel(), device=index.device).reshape(index.shape)
        writer = torch.scatter(order.new_zeros(self.shape), dim, index, order)
        lost = torch.gather(writer, dim, index) != order
        return torch.masked_fill(pulled, lost, 0)


class CopyRows(AlongDim):
    """Zeros with the slices of ``tangent`` written where ``index`` says.

    The transpose reads the slices back that were not overwritten.
    """

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Tensor:
        zeros = tangent.new_zeros(self.shape)
        return torch.index_copy(zeros, self.dim, self.index, tangent)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        index, dim = self.index, self.dim
        pulled = torch.index_select(cotangent, dim, index)
        count = index.numel()
        if count <= 1 or cotangent.dim() == 0:
            return pulled
        order = torch.arange(count, device=index.device)
        writer = order.new_zeros(cotangent.shape[dim])
        writer = torch.index_copy(writer, 0, index, order)
        lost = torch.index_select(writer, 0, index) != order
        after = cotangent.dim() - 1 - dim % cotangent.dim()
        return torch.masked_fill(pulled, lost.reshape(count, *[1] * after), 0)


class PutAt(LinearOperator):
    """Zeros with ``tangent`` written, or added, at ``indices``, as ``index_put`` does.

    The transpose reads the cotangent back, for the entries that were not overwritten.
    """

    __slots__ = ("indices", "in_shape", "shape", "accumulate")

    def __init__(
        self,
        indices: Sequence[Any],
        in_shape: torch.Size,
        shape: torch.Size,
        accumulate: bool,
    ) -> None:
        self.indices = indices
        self.in_shape = in_shape
        self.shape = shape
        self.accumulate = accumulate

    def apply(self, tangent: Tensor) -> Any:
        zeros = tangent.new_zeros(self.shape)
        return torch.ops.aten.index_put.default(
            zeros, self.indices, tangent, self.accumulate
        )

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        indices = self.indices
        place = lone_mask(indices)
        if place is not None:
            behind = cotangent.dim() - place - indices[place].dim()
            if is_shared(self.in_shape, behind):
                return self.sum_of_masked(cotangent, place, behind)
        read = torch.ops.aten.index.Tensor
        pulled = read(cotangent, indices)
        if not self.accumulate and may_repeat(indices):
            order = torch.arange(pulled.numel(), device=pulled.device)
            order = order.reshape(pulled.shape)
            writer = torch.ops.aten.index_put.default(
                order.new_zeros(self.shape), indices, order
            )
            lost = read(writer, indices) != order
            pulled = torch.masked_fill(pulled, lost, 0)
        return sum_to(pulled, self.in_shape)

    def sum_of_masked(self, cotangent: Tensor, place: int, behind: int) -> Tensor:
        """Sum what a mask selects, of a shape that does not depend on the mask."""
        mask = self.indices[place]
        wide = torch.logical_not(mask).reshape(*mask.shape, *[1] * behind)
        kept = torch.masked_fill(cotangent, wide, 0)
        before, after = kept.shape[:place], kept.shape[place + mask.dim() :]
        total = kept.reshape(*before, mask.numel(), *after).sum(place, keepdim=True)
        return sum_to(total, self.in_shape)


def lone_mask(indices: Sequence[Any]) -> int | None:
    """Return the place of a mask that is the only index, or None."""
    places = [p for p, index in enumerate(indices) if index is not None]
    return places[0] if len(places) == 1 and is_mask(indices[places[0]]) else None


def is_shared(shape: torch.Size, behind: int) -> bool:
    """Tell whether values have one entry for all that a mask selects."""
    return len(shape) <= behind or shape[-1 - behind] == 1


def may_repeat(indices: Sequence[Any]) -> bool:
    """Tell whether index tensors could name one entry twice."""
    return any(i is not None and i.numel() > 1 and not is_mask(i) for i in indices)


def is_mask(index: Tensor) -> bool:
    """Tell whether an index tensor is a mask: it names no entry twice."""
    return index.dtype in (torch.bool, torch.uint8)
