"""Gather and scatter along one dim, with an index tensor of the rank of the others."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    """Batch ``call(x, dim, index, src, ...)``; ``src`` is a tensor or a number."""

    def batch(
        size: int,
        dims: Any,
        x: Tensor,
        dim: int,
        index: Tensor,
        src: Any,
        *args: Any,
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
    out = torch.scatter(x, dim, index, src)
    written = wanted[3] and from_source(Overwrite(dim, index, x.shape), index, src)
    return out, (cleared(dim, index), None, None, written)


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


class Place:
    """Where a scatter writes, and whether what was there takes part."""

    __slots__ = ("dim", "index", "include_self")

    def __init__(self, dim: int, index: Tensor, include_self: bool) -> None:
        self.dim = dim
        self.index = index
        self.include_self = include_self

    def own(self, x: Tensor, neutral: Any) -> Tensor:
        """Put ``neutral`` where the target is written but does not take part."""
        if self.include_self:
            return x
        return torch.scatter(x, self.dim, self.index, neutral)

    def add(self, x: Tensor, src: Tensor) -> Tensor:
        """Add up what takes part in each entry of the target."""
        return torch.scatter_add(self.own(x, 0), self.dim, self.index, src)

    def read(self, x: Tensor) -> Tensor:
        """Return the entry of the target that each element of the source goes to."""
        return torch.gather(x, self.dim, self.index)


def scatter_reduce_linearize(
    wanted: Any,
    x: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Any:
    """A diagonal operator in ``x``; one that is then scattered in the source."""
    out = torch.scatter_reduce(x, dim, index, src, reduce, include_self=include_self)
    place = Place(dim, index, include_self)
    read = src
    for d, length in enumerate(index.shape):
        read = read if read.shape[d] == length else read.narrow(d, 0, length)
    on_x, on_src = REDUCTIONS[reduce]
    residuals = (place, x, read, out)
    added = Composition(
        Gather(dim, index, x.shape).transpose(), Elementwise(on_src, *residuals)
    )
    source = wanted[3] and from_source(added, index, src)
    return out, (Elementwise(on_x, *residuals), None, None, source)


def sum_on_target(t: Tensor, place: Place, x: Any, src: Any, out: Any) -> Tensor:
    """The target takes part where it is included or not written."""
    return place.own(t, 0)


def sum_on_source(t: Tensor, place: Place, x: Any, src: Any, out: Any) -> Tensor:
    """Every element of the source counts once."""
    return t


def count(place: Place, x: Tensor, src: Tensor) -> Tensor:
    """Return how many elements take part in each entry."""
    return place.add(x.new_ones(x.shape), src.new_ones(src.shape))


def mean_on_target(t: Tensor, place: Place, x: Tensor, src: Tensor, out: Any) -> Tensor:
    """The sum's, divided by the number of elements."""
    return place.own(t, 0) / count(place, x, src)


def mean_on_source(t: Tensor, place: Place, x: Tensor, src: Tensor, out: Any) -> Tensor:
    """The sum's, divided by the number of elements."""
    return t / place.read(count(place, x, src))


def product_of_others(place: Place, x: Tensor, src: Tensor, on_source: bool) -> Tensor:
    """Return for each element the product of all others of its entry.

    That is the product of those that are not zero, divided by the element itself, times
    the zeros among the others; more than one of them makes nought to second order.
    """
    one = x.new_ones(())
    no_zero_x, no_zero_src = (torch.where(v == 0, one, v) for v in (x, src))
    product = torch.scatter_reduce(
        place.own(no_zero_x, 1), place.dim, place.index, no_zero_src, "prod"
    )
    zeros = place.add((x == 0).to(x.dtype), (src == 0).to(x.dtype))
    zero_sum = place.add(x * (x == 0), src * (src == 0))
    value, divisor = x, no_zero_x
    if on_source:
        value, divisor = src, no_zero_src
        product, zeros, zero_sum = map(place.read, (product, zeros, zero_sum))
    is_zero = value == 0
    others = zeros - is_zero.to(x.dtype)
    single = torch.where(others == 1, zero_sum - value * is_zero, x.new_zeros(()))
    return product / divisor * torch.where(others == 0, one, single)


def product_on_target(t: Tensor, place: Place, x: Any, src: Any, out: Any) -> Tensor:
    """Times the product of the other elements."""
    return place.own(t, 0) * product_of_others(place, x, src, on_source=False)


def product_on_source(t: Tensor, place: Place, x: Any, src: Any, out: Any) -> Tensor:
    """Times the product of the other elements."""
    return t * product_of_others(place, x, src, on_source=True)


def ties(place: Place, x: Tensor, src: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return which elements of the source are extreme, and how many tie."""
    extreme = (src == place.read(out)).to(x.dtype)
    return extreme, place.add((x == out).to(x.dtype), extreme)


def extremum_on_target(t: Tensor, place: Place, x: Any, src: Any, out: Any) -> Any:
    """Elements that tie share the derivative equally."""
    return place.own(t, 0) * (x == out) / ties(place, x, src, out)[1]


def extremum_on_source(t: Tensor, place: Place, x: Any, src: Any, out: Any) -> Tensor:
    """Elements that tie share the derivative equally."""
    extreme, shared = ties(place, x, src, out)
    return t * extreme / place.read(shared)


def segment_reduce_decompose(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Any = None,
) -> Tensor:
    """Scatter into the segments; what is in none goes to one that is cut off.

    The ends are not checked, whatever ``unsafe`` says.
    """
    if offsets is None:
        if lengths is None:
            return torch.segment_reduce(data, reduce, indices=indices, axis=axis)
        offsets = pad(torch.cumsum(lengths, -1), (1, 0))
    sizes = torch.diff(offsets)
    axis = sizes.dim() - 1
    outer, count, inner = data.shape[:axis], data.shape[axis], data.shape[axis + 1 :]
    segments = sizes.shape[-1]
    places = torch.arange(count, device=data.device).expand(*outer, count)
    index = torch.searchsorted(offsets, places.contiguous(), right=True) - 1
    index = index % (segments + 1)
    spread = [1] * len(inner)
    call, neutral = SEGMENT_REDUCTIONS[reduce]
    start = data.new_full(
        (*outer, segments + 1, *inner), neutral if initial is None else initial
    )
    index = index.reshape(*outer, count, *spread).expand(data.shape)
    out = torch.scatter_reduce(start, axis, index, data, call)
    out = out.narrow(axis, 0, segments)
    if reduce == "mean":
        sizes = sizes.reshape(*outer, segments, *spread)
        empty = math.nan if initial is None else out
        out = torch.where(sizes > 0, out / sizes, empty)
    return out


REDUCTIONS = {
    "sum": (sum_on_target, sum_on_source),
    "mean": (mean_on_target, mean_on_source),
    "prod": (product_on_target, product_on_source),
    "amax": (extremum_on_target, extremum_on_source),
    "amin": (extremum_on_target, extremum_on_source),
}

# How a segment's elements are scattered, and what a segment without any holds.
SEGMENT_REDUCTIONS = {
    "sum": ("sum", 0),
    "mean": ("sum", 0),
    "prod": ("prod", 1),
    "max": ("amax", -math.inf),
    "min": ("amin", math.inf),
}

RECORDS = (
    Record(aten.gather.default, gather_batch, gather_linearize),
    Record(aten.scatter.src, scatter_batch(torch.scatter), scatter_linearize),
    Record(aten.scatter.value, scatter_batch(torch.scatter), scatter_value_linearize),
    Record(
        aten.scatter_add.default,
        scatter_batch(torch.scatter_add),
        scatter_add_linearize,
    ),
    Record(
        aten.scatter_reduce.two,
        scatter_batch(torch.scatter_reduce),
        scatter_reduce_linearize,
    ),
    Record(aten.segment_reduce.default, decompose=segment_reduce_decompose),
    Record(aten.scatter.reduce, decompose=scatter_reduce_method_decompose),
    Record(aten.scatter.value_reduce, decompose=scatter_value_reduce_decompose),
)
