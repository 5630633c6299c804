"""Elements moved or laid out anew: flip, roll, as_strided, diag_embed."""

import math
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.reindex import Reindex
from jaxtorch.rules.batching import physical, to_front
from jaxtorch.rules.record import Record
from jaxtorch.rules.strides import elements_reached

aten = torch.ops.aten


def flip_batch(size: int, dims: Any, x: Tensor, which: Any) -> Any:
    """Flip dims of the example."""
    x = to_front(x, dims[0])
    rank = x.dim() - 1
    chosen = [physical(d, rank) for d in which]
    return torch.flip(x, chosen) if rank else x, 0


def flip_linearize(wanted: Any, x: Tensor, which: Any) -> Any:
    """Flipping is its own transpose."""
    return torch.flip(x, which), (Reindex(torch.flip, (which,), torch.flip, (which,)),)


def roll_batch(size: int, dims: Any, x: Tensor, shifts: Any, which: Any = ()) -> Any:
    """Roll dims of the example; without dims its elements in order."""
    x = to_front(x, dims[0])
    rank = x.dim() - 1
    chosen = [physical(d, rank) for d in which]
    if chosen and rank:
        return torch.roll(x, shifts, chosen), 0
    flat = x.reshape(size, math.prod(x.shape[1:]))
    return torch.roll(flat, shifts, 1).reshape(x.shape), 0


def roll_linearize(wanted: Any, x: Tensor, shifts: Any, which: Any = ()) -> Any:
    """The transpose rolls back."""
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    back = [-s for s in shifts]
    return torch.roll(x, shifts, which), (
        Reindex(torch.roll, (shifts, which), torch.roll, (back, which)),
    )


def diag_embed_batch(
    size: int, dims: Any, x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1
) -> Any:
    """Embed the last dim of the example as a diagonal."""
    x = to_front(x, dims[0])
    rank = x.dim()
    return torch.diag_embed(x, offset, physical(dim1, rank), physical(dim2, rank)), 0


def diag_embed_linearize(
    wanted: Any, x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1
) -> Any:
    """The transpose takes the diagonal."""
    where = (offset, dim1, dim2)
    return torch.diag_embed(x, *where), (
        Reindex(torch.diag_embed, where, torch.diagonal, where),
    )


def trace_decompose(x: Tensor) -> Tensor:
    """The sum of the diagonal."""
    return torch.diagonal(x).sum()


def as_strided_decompose(
    x: Tensor, size: Any, stride: Any, storage_offset: Any = None
) -> Any:
    """Gather the elements that the strides reach, by their places in the storage."""
    index = elements_reached(x, size, stride, storage_offset)
    return x.reshape(-1).index_select(0, index.reshape(-1)).reshape(size)


RECORDS = (
    Record(aten.flip.default, flip_batch, flip_linearize),
    Record(aten.roll.default, roll_batch, roll_linearize),
    Record(aten.diag_embed.default, diag_embed_batch, diag_embed_linearize),
    Record(aten.trace.default, decompose=trace_decompose),
    Record(aten.as_strided.default, decompose=as_strided_decompose, by_strides=True),
)
