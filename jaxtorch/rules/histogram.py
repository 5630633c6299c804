"""Histograms: histc, histogram and histogramdd, between given edges or the extrema."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def widened(low: Tensor, high: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the bounds of a range, moved apart by ``margin`` where they are equal."""
    extra = torch.where(low == high, margin, 0)
    return low - extra, high + extra


def histc_decompose(x: Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> Tensor:
    """Count what lies between two bounds, by default the extrema, in equal bins."""
    flat = x.reshape(-1)
    low, high = flat.new_full((), min), flat.new_full((), max)
    if min == max and flat.numel():
        low, high = torch.aminmax(flat)
    low, high = widened(low, high, 1)
    inside = torch.logical_and(flat >= low, flat <= high)
    place = torch.nan_to_num((flat - low) * bins / (high - low)).long()
    place = torch.clamp(place, 0, bins - 1)
    return torch.scatter_add(flat.new_zeros(bins), 0, place, inside.to(flat.dtype))


def edges_decompose(
    x: Tensor,
    bins: Sequence[int],
    *,
    range: Any = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> list[Tensor]:
    """The edges of equal bins in each dim, between the extrema if no range is given."""
    points = x.reshape(-1, x.shape[-1])
    if range is not None:
        bounds = x.new_tensor(range).reshape(-1, 2).unbind(1)
    elif points.shape[0]:
        bounds = torch.aminmax(points, dim=0)
    else:
        bounds = x.new_zeros(x.shape[-1]), x.new_ones(x.shape[-1])
    low, high = bounds
    low, high = widened(low, high, 0.5)
    return [evenly(low[d], high[d], count) for d, count in enumerate(bins)]


def evenly(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Return the edges of equal bins; like linspace, counted from the nearer end."""
    count = torch.arange(bins + 1, device=low.device)
    step = (high - low) / bins
    return torch.where(
        count < (bins + 1) // 2, low + step * count, high - step * (bins - count)
    )


def counted(
    x: Tensor, edges: Sequence[Tensor], weight: Tensor | None, density: bool
) -> Tensor:
    """Count the points between edges; the last edge belongs to the last bin."""
    points = x.reshape(-1, x.shape[-1])
    sizes = [edge.shape[0] - 1 for edge in edges]
    place = x.new_zeros(points.shape[0], dtype=torch.long)
    inside = x.new_ones(points.shape[0], dtype=torch.bool)
    for column, edge, size in zip(points.unbind(1), edges, sizes, strict=True):
        own = torch.searchsorted(edge, column.contiguous(), right=True) - 1
        own = torch.where(column == edge[-1], size - 1, own)
        inside = inside & (own >= 0) & (own < size)
        place = place * size + torch.clamp(own, 0, size - 1)
    amount = x.new_ones(()) if weight is None else weight.reshape(-1)
    amount = torch.where(inside, amount, 0)
    zeros = amount.new_zeros(torch.Size(sizes).numel())
    hist = torch.scatter_add(zeros, 0, place, amount).reshape(sizes)
    if density:
        hist = hist / torch.sum(hist)
        for dim, edge in enumerate(edges):
            shape = [1] * len(sizes)
            shape[dim] = -1
            hist = hist / torch.diff(edge).reshape(shape)
    return hist


def from_edges_decompose(
    x: Tensor,
    bins: Sequence[Tensor],
    *,
    weight: Tensor | None = None,
    density: bool = False,
) -> Tensor:
    """Count between given edges."""
    return counted(x, bins, weight, density)


def from_counts_decompose(
    x: Tensor,
    bins: Sequence[int],
    *,
    range: Any = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> Tensor:
    """Count in equal bins."""
    return counted(x, edges_decompose(x, bins, range=range), weight, density)


def histogram_decompose(
    x: Tensor,
    bins: int = 100,
    *,
    range: Any = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> Any:
    """The histogram of one dim and its edges."""
    column = x.reshape(-1, 1)
    edges = edges_decompose(column, [bins], range=range)
    return counted(column, edges, weight, density), edges[0]


def histogram_edges_decompose(
    x: Tensor, bins: Tensor, *, weight: Tensor | None = None, density: bool = False
) -> Any:
    """The histogram of one dim between given edges, and the edges."""
    return counted(x.reshape(-1, 1), [bins], weight, density), bins.clone()


RECORDS = (
    Record(
        aten.histc.default,
        linearize=zero_derivative(aten.histc.default),
        decompose=histc_decompose,
    ),
    Record(aten.histogram.bin_ct, decompose=histogram_decompose),
    Record(aten.histogram.bins_tensor, decompose=histogram_edges_decompose),
    Record(aten._histogramdd_bin_edges.default, decompose=edges_decompose),
    Record(aten._histogramdd_from_bin_cts.default, decompose=from_counts_decompose),
    Record(aten._histogramdd_from_bin_tensors.default, decompose=from_edges_decompose),
)
