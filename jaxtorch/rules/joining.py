"""Joining and repeating: cat, stack, repeat, block_diag."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.cast import cast_to, promoted
from jaxtorch.linear.operator import Joined, Zero
from jaxtorch.linear.placement import Segment, Slot, Tile
from jaxtorch.rules.batching import batched_at_front, pad_rank, physical, rank_of
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def is_empty_list(shape: Sequence[int]) -> bool:
    """Tell whether cat skips a tensor of this shape whatever the others' rank is."""
    return len(shape) == 1 and shape[0] == 0


def cat_batch(size: int, dims: Any, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Join along the dim behind the batch dim."""
    rank = max(rank_of(t, d) for t, d in zip(tensors, dims[0], strict=True))
    values = []
    for tensor, own in zip(tensors, dims[0], strict=True):
        value = batched_at_front(tensor, own, size)
        if rank > 1 and is_empty_list(value.shape[1:]):
            value = value.reshape(0)
        values.append(value)
    return torch.cat(values, physical(dim, rank)), 0


def cat_linearize(wanted: Any, tensors: list[Tensor], dim: int = 0) -> Any:
    """Each tensor becomes a segment of the result."""
    out = torch.cat(tensors, dim)
    dim = dim % out.dim()
    total = out.shape[dim]
    operators: list[Any] = []
    start = 0
    for tensor, own in zip(tensors, wanted[0], strict=True):
        if tensor.dim() != out.dim():
            operators.append(Zero())
            continue
        length = tensor.shape[dim]
        segment = Segment(dim, start, length, total)
        operators.append(own and promoted(segment, tensor, out))
        start += length

    def join(tangents: list[Tensor | None]) -> Tensor:
        return cast_to(torch.cat(with_zeros(tangents, tensors), dim), out.dtype)

    return out, (Joined(operators, join),)


def stack_batch(size: int, dims: Any, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Stack along a dim behind the batch dim."""
    values = [
        batched_at_front(t, d, size) for t, d in zip(tensors, dims[0], strict=True)
    ]
    return torch.stack(values, physical(dim, values[0].dim())), 0


def stack_linearize(wanted: Any, tensors: list[Tensor], dim: int = 0) -> Any:
    """Each tensor becomes an entry of the new dim."""
    out = torch.stack(tensors, dim)
    dim = dim % out.dim()
    total = len(tensors)
    operators = [
        own and promoted(Slot(dim, index, total), tensor, out)
        for index, (tensor, own) in enumerate(zip(tensors, wanted[0], strict=True))
    ]

    def join(tangents: list[Tensor | None]) -> Tensor:
        return cast_to(torch.stack(with_zeros(tangents, tensors), dim), out.dtype)

    return out, (Joined(operators, join),)


def with_zeros(
    tangents: Sequence[Tensor | None], tensors: Sequence[Tensor]
) -> list[Tensor]:
    """Put zeros in the place of the tangents that are None."""
    return [
        x.new_zeros(x.shape) if t is None else t
        for t, x in zip(tangents, tensors, strict=True)
    ]


def repeat_batch(size: int, dims: Any, x: Tensor, repeats: Sequence[int]) -> Any:
    """Repeat the dims behind the batch dim."""
    x = pad_rank(batched_at_front(x, dims[0], size), len(repeats))
    return x.repeat([1, *repeats]), 0


def repeat_linearize(wanted: Any, x: Tensor, repeats: Sequence[int]) -> Any:
    """Linear: the tangent is repeated alike."""
    return x.repeat(repeats), (Tile(repeats, x.shape),)


def block_diag_decompose(tensors: Sequence[Tensor]) -> Tensor:
    """Pad every block to the full width and join the rows."""
    blocks = [torch.atleast_2d(t) for t in tensors]
    width = sum(b.shape[1] for b in blocks)
    dtype = functools.reduce(torch.promote_types, (b.dtype for b in blocks))
    rows = []
    left = 0
    for block in blocks:
        right = width - left - block.shape[1]
        rows.append(torch.constant_pad_nd(block.to(dtype), [left, right], 0))
        left += block.shape[1]
    return torch.cat(rows)


RECORDS = (
    Record(aten.cat.default, cat_batch, cat_linearize),
    Record(aten.stack.default, stack_batch, stack_linearize),
    Record(aten.repeat.default, repeat_batch, repeat_linearize),
    Record(aten.block_diag.default, decompose=block_diag_decompose),
)
