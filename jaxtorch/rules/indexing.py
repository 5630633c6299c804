"""Indexing with lists of index tensors: index, index_put, take, put."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch.errors import DataDependentError, explain
from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.gather import PutAt, TakeAt, is_mask
from jaxtorch.linear.operator import Identity
from jaxtorch.rules.batching import batched_at_front, pad_rank, rank_of, to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten


class Layout(NamedTuple):
    """Where the dims of an indexed tensor lie.

    The result of one example has the dims ``[before, indexed, after]``; ``rank`` is
    their number. Dims that are not indexed ``together`` put the indexed ones first.
    """

    before: int
    indexed: int
    rank: int
    together: bool


def layout_of(x_rank: int, indices: Sequence[Any], dims: Sequence[Any]) -> Layout:
    """Read off where the indexed dims of one example's result are."""
    places = [p for p, index in enumerate(indices) if index is not None]
    together = places[-1] - places[0] == len(places) - 1
    indexed = consumed = 0
    for place in places:
        index = indices[place]
        mask = is_mask(index)
        consumed += index.dim() if mask else 1
        indexed = max(indexed, 1 if mask else rank_of(index, dims[place]))
    before = places[0] if together else 0
    return Layout(before, indexed, x_rank + indexed - consumed, together)


def without_masks(
    indices: Sequence[Any], dims: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Replace masks by the index tensors of what they select."""
    out: list[Any] = []
    out_dims: list[Any] = []
    for index, dim in zip(indices, dims, strict=True):
        if index is None or not is_mask(index):
            out.append(index)
            out_dims.append(dim)
        elif dim is not None:
            raise batched_mask(
                "x[mask]", "torch.where(mask, x, fill), or (x * mask).sum()"
            )
        else:
            found = torch.nonzero(index).unbind(1)
            out.extend(found)
            out_dims.extend([None] * len(found))
    return out, out_dims


def batched_mask(what: str, fix: str) -> DataDependentError:
    """Return the error for a result whose shape depends on a batched mask."""
    return DataDependentError(
        explain(
            "vmap",
            f"{what} with a batched boolean mask has a data-dependent shape: each "
            "example would select a different number of elements (dynamic shape).",
            f"use {fix}",
        )
    )


def with_batch_index(
    size: int, indices: Sequence[Any], dims: Sequence[Any], indexed: int, device: Any
) -> list[Any]:
    """Return the indices of a value whose batch dim, in front, is indexed as well."""
    rows = torch.arange(size, device=device).reshape(size, *[1] * indexed)
    return [rows, *batched_indices(indices, dims, indexed)]


def batched_indices(
    indices: Sequence[Any], dims: Sequence[Any], indexed: int
) -> list[Any]:
    """Bring batched index tensors to a leading batch dim and one rank."""
    return [
        i if d is None else pad_rank(i.movedim(d, 0), indexed)
        for i, d in zip(indices, dims, strict=True)
    ]


def index_batch(size: int, dims: Any, x: Tensor, indices: Sequence[Any]) -> Any:
    """Index the batch; a batched index tensor goes along with the batch's own index."""
    dim, inner = dims
    if all(d is None for d in inner):
        layout = layout_of(x.dim() - 1, indices, inner)
        out = aten.index.Tensor(to_front(x, dim), [None, *indices])
        return out, 0 if layout.together else layout.indexed
    indices, inner = without_masks(indices, inner)
    layout = layout_of(rank_of(x, dim), indices, inner)
    if dim is None:
        out = aten.index.Tensor(x, batched_indices(indices, inner, layout.indexed))
        return out, layout.before
    rows = with_batch_index(size, indices, inner, layout.indexed, x.device)
    out = aten.index.Tensor(to_front(x, dim), rows)
    return move_indexed(out, 1, layout.before + 1, layout), 0


def move_indexed(value: Tensor, source: int, target: int, layout: Layout) -> Tensor:
    """Move the indexed dims from ``source`` to ``target``."""
    count = layout.indexed
    if source == target or not count:
        return value
    return value.movedim(
        list(range(source, source + count)), list(range(target, target + count))
    )


def index_put_batch(
    size: int,
    dims: Any,
    x: Tensor,
    indices: Sequence[Any],
    values: Tensor,
    accumulate: bool = False,
) -> Any:
    """Write all examples at once; a batched mask becomes a selection."""
    inner = dims[1]
    masked = [
        i is not None and d is not None and is_mask(i)
        for i, d in zip(indices, inner, strict=True)
    ]
    if any(masked):
        return masked_put(size, dims, x, indices, values, accumulate)
    shared = all(d is None for d in inner)
    if not shared:
        indices, inner = without_masks(indices, inner)
    layout = layout_of(rank_of(x, dims[0]), indices, inner)
    x = batched_at_front(x, dims[0], size)
    values = pad_rank(batched_at_front(values, dims[2], size), layout.rank)
    if shared:
        if not layout.together:
            values = values.movedim(0, layout.indexed)
        indices = [None, *indices]
    else:
        indices = with_batch_index(size, indices, inner, layout.indexed, x.device)
        values = move_indexed(values, layout.before + 1, 1, layout)
    return aten.index_put.default(x, indices, values, accumulate), 0


def masked_put(
    size: int, dims: Any, x: Tensor, indices: Sequence[Any], values: Tensor, add: bool
) -> Any:
    """Write ``x[mask] = values`` for a batched mask as a selection.

    Possible where one mask is the only index and the values don't count its elements.
    """
    places = [p for p, index in enumerate(indices) if index is not None]
    place = places[0]
    mask = batched_at_front(indices[place], dims[1][place], size)
    after = rank_of(x, dims[0]) - place - (mask.dim() - 1)
    values = batched_at_front(values, dims[2], size)
    counted = values.dim() - 1 > after and values.shape[-1 - after] != 1
    if len(places) > 1 or counted:
        raise batched_mask(
            "x[mask] = values", "a value that broadcasts, or torch.where"
        )
    mask = mask.to(torch.bool)
    mask = mask.reshape(size, *[1] * place, *mask.shape[1:], *[1] * after)
    values = pad_rank(values, place + 1 + after)
    values = values.reshape(
        *values.shape[: place + 1],
        *[1] * (mask.dim() - 1 - place - after),
        *values.shape[place + 2 :],
    )
    x = batched_at_front(x, dims[0], size)
    return torch.where(mask, x + values if add else values, x), 0


def index_linearize(wanted: Any, x: Tensor, indices: Sequence[Any]) -> Any:
    """Linear in ``x``."""
    return aten.index.Tensor(x, indices), (TakeAt(indices, x.shape),)


def index_put_linearize(
    wanted: Any,
    x: Tensor,
    indices: Sequence[Any],
    values: Tensor,
    accumulate: bool = False,
) -> Any:
    """Linear in ``x`` where it is kept, in the values where they are written."""
    out = aten.index_put.default(x, indices, values, accumulate)
    kept = Identity() if accumulate else Elementwise(clear, indices)
    return out, (kept, None, PutAt(indices, values.shape, x.shape, accumulate))


def clear(t: Tensor, indices: Sequence[Any]) -> Any:
    """Set to zero what ``indices`` name."""
    return aten.index_put.default(t, indices, t.new_zeros(()))


def take_decompose(x: Tensor, index: Tensor) -> Any:
    """Index the flattened tensor."""
    return aten.index.Tensor(x.reshape(-1), [index])


def put_decompose(
    x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False
) -> Any:
    """Write into the flattened tensor."""
    flat = x.reshape(-1)
    out = aten.index_put.default(
        flat, [index.reshape(-1)], source.reshape(-1), accumulate
    )
    return out.reshape(x.shape)


RECORDS = (
    Record(aten.index.Tensor, index_batch, index_linearize),
    Record(aten.index_put.default, index_put_batch, index_put_linearize),
    Record(aten._unsafe_index.Tensor, index_batch, index_linearize),
    Record(aten._unsafe_index_put.default, index_put_batch, index_put_linearize),
    Record(aten.take.default, decompose=take_decompose),
    Record(aten.put.default, decompose=put_decompose),
)
