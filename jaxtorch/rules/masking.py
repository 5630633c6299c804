"""Masks: masked_fill, masked_scatter, masked_select, tril, triu, nonzero."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import DataDependentError, explain
from jaxtorch.linear.diagonal import Elementwise, drop_if, elementwise, keep_if
from jaxtorch.rules.batching import align, to_front
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def masked_fill_linearize(wanted: Any, x: Tensor, mask: Tensor, value: Any) -> Any:
    """Linear in ``x`` where it is kept, in the value where it is written."""
    out = torch.masked_fill(x, mask, value)
    filled: Any = None
    if wanted[2]:
        filled = elementwise(keep_if, value, out, mask)
    return out, (wanted[0] and elementwise(drop_if, x, out, mask), None, filled)


def masked_fill_batch(size: int, dims: Any, x: Tensor, mask: Tensor, value: Any) -> Any:
    """Fill with one value, or with the value of each example."""
    if dims[2] is None:
        x, mask = align((x, mask), dims[:2])
        return torch.masked_fill(x, mask, value), 0
    x, mask, value = align((x, mask, value), dims)
    return torch.where(mask, value.to(x.dtype), x), 0


def masked_scatter_decompose(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The n-th place that the mask selects gets the n-th element of the source."""
    x, mask = torch.broadcast_tensors(x, mask)
    if source.numel() == 0:
        return x.clone()
    order = torch.cumsum(mask.reshape(-1), 0) - 1
    order = torch.clamp(order, 0, source.numel() - 1).reshape(mask.shape)
    return torch.where(mask, aten.index.Tensor(source.reshape(-1), [order]), x)


def masked_select_decompose(x: Tensor, mask: Tensor) -> Any:
    """Index with the mask."""
    x, mask = torch.atleast_1d(x, mask)
    x, mask = torch.broadcast_tensors(x, mask)
    return aten.index.Tensor(x, [mask])


def nonzero_batch(size: int, dims: Any, x: Tensor) -> Any:
    """Refuse: the number of rows differs between the examples."""
    raise DataDependentError(
        explain(
            "vmap",
            "nonzero (argwhere, where(condition), a boolean mask) of a batched tensor "
            "has a data-dependent shape (dynamic shape).",
            "use torch.nonzero_static(x, size=...) or torch.where(condition, x, y)",
        )
    )


def nonzero_static_decompose(x: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """Sort the places of nonzero elements to the front by their running count."""
    found = (x != 0).reshape(-1)
    order = torch.cumsum(found, 0) - 1
    slot = torch.where(found & (order < size), order, size)
    place = torch.arange(found.numel(), device=x.device)
    rows = place.new_full((size + 1,), -1)
    rows = torch.scatter(rows, 0, slot, place)[:size]
    columns = []
    stride = x.numel()
    for length in x.shape:
        stride = stride // max(length, 1)
        column = torch.div(rows, max(stride, 1), rounding_mode="floor") % max(length, 1)
        columns.append(torch.where(rows < 0, fill_value, column))
    return torch.stack(columns, 1) if columns else rows.new_zeros((size, 0))


def triangle(call: Any, overload: Any) -> Record:
    """Make the record of tril or triu, which keep a part of the last two dims."""

    def batch(size: int, dims: Any, x: Tensor, diagonal: int = 0) -> Any:
        return call(to_front(x, dims[0]), diagonal), 0

    def linearize(wanted: Any, x: Tensor, diagonal: int = 0) -> Any:
        return call(x, diagonal), (Elementwise(call, diagonal),)

    return Record(overload, batch, linearize)


RECORDS = (
    Record(aten.masked_fill.Scalar, masked_fill_batch, masked_fill_linearize),
    Record(aten.masked_fill.Tensor, masked_fill_batch, masked_fill_linearize),
    Record(aten.masked_scatter.default, decompose=masked_scatter_decompose),
    Record(aten.masked_select.default, decompose=masked_select_decompose),
    Record(aten.nonzero.default, nonzero_batch, zero_derivative(torch.nonzero)),
    Record(
        aten.nonzero_static.default,
        linearize=zero_derivative(torch.nonzero_static),
        decompose=nonzero_static_decompose,
    ),
    triangle(torch.tril, aten.tril.default),
    triangle(torch.triu, aten.triu.default),
)
