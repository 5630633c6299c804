"""Sorting and order statistics: sort, topk, max with index, median, search."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.errors import DataDependentError, explain
from jaxtorch.linear.gather import Gather
from jaxtorch.linear.operator import Output
from jaxtorch.linear.pick import Pick
from jaxtorch.linear.reduction import ReducedElementwise
from jaxtorch.rules.batching import batched_at_front, entry_point, rank_of, to_front
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import BatchRule, Record
from jaxtorch.rules.reducing import (
    Places,
    along_dim_batch,
    full_reduction_batch,
    reduction_batch,
)

aten = torch.ops.aten


def sorting(overload: OpOverload) -> Record:
    """Make the record of an op that returns (values, indices) along a dim it keeps."""
    call = entry_point(overload)
    places = Places(overload)

    def linearize(wanted: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = call(x, *args, **kwargs)
        dim = places.dim_of([x, *args], kwargs)
        return out, (Output(Gather(dim, out[1], x.shape), 0, 2),)

    return Record(overload, along_dim_batch(overload), linearize)


def picking(overload: OpOverload) -> Record:
    """Make the record of an op that returns (value, index) along a dim it reduces."""
    call = entry_point(overload)
    places = Places(overload)

    def linearize(wanted: Any, x: Tensor, *args: Any) -> Any:
        out = call(x, *args)
        dim = places.dim_of([x, *args], {})
        keepdim = len(args) >= places.keepdim and args[places.keepdim - 1]
        return out, (Output(Pick(dim, out[1], x.shape, keepdim), 0, 2),)

    return Record(overload, reduction_batch(overload), linearize)


def whole_median(overload: OpOverload) -> Record:
    """Make the record of a median of all elements; those that tie share it evenly."""
    call = entry_point(overload)

    def flat(x: Tensor, dims: list[int]) -> Tensor:
        return call(x.flatten(1), 1)[0]  # type: ignore[no-any-return]

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        ties = ((x == out) | (torch.isnan(x) & torch.isnan(out))).to(x.dtype)
        return t * (ties / torch.sum(ties))

    def linearize(wanted: Any, x: Tensor) -> Any:
        out = call(x)
        dims = list(range(x.dim()))
        return out, (ReducedElementwise(scale, x, out, dims, False),)

    return Record(overload, full_reduction_batch(flat), linearize)


def search_batch(
    size: int, dims: Any, boundaries: Tensor, x: Tensor, **kwargs: Any
) -> Any:
    """Search each example's values in its own boundaries, or all in shared ones."""
    sorter = kwargs.pop("sorter", None)
    if sorter is not None:
        boundaries = in_order(boundaries, dims[0], sorter)
        dims = (None if dims[0] is None else 0, dims[1])
    if dims[0] is None and boundaries.dim() == 1:
        return torch.searchsorted(boundaries, x, **kwargs), dims[1]
    single = rank_of(boundaries, dims[0]) == 1
    boundaries = batched_at_front(boundaries, dims[0], size).contiguous()
    x = batched_at_front(x, dims[1], size)
    flat = x
    if single:
        flat = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    out = torch.searchsorted(boundaries, flat.contiguous(), **kwargs)
    return out.reshape(x.shape), 0


def in_order(boundaries: Tensor, dim: int | None, sorter: Tensor) -> Tensor:
    """Sort the boundaries of every example by an order that they share."""
    if dim is None:
        return torch.gather(boundaries, -1, sorter)
    boundaries = to_front(boundaries, dim)
    return torch.gather(boundaries, -1, sorter.expand(boundaries.shape))


def search_named_batch(
    size: int, dims: Any, named: Any, boundaries: Tensor, x: Any, **kwargs: Any
) -> Any:
    """Put the boundaries of each example in its own order first."""
    sorter = to_front(kwargs.pop("sorter"), named["sorter"])
    boundaries = batched_at_front(boundaries, dims[0], size)
    ordered = torch.gather(boundaries, -1, sorter)
    search = search_batch if isinstance(x, Tensor) else search_scalar_batch
    return search(size, (0, *dims[1:]), ordered, x, **kwargs)


def search_scalar_batch(
    size: int, dims: Any, boundaries: Tensor, x: Any, **kwargs: Any
) -> Any:
    """Search one number in the boundaries of every example."""
    sorter = kwargs.pop("sorter", None)
    boundaries = to_front(boundaries, dims[0])
    if sorter is not None:
        boundaries = in_order(boundaries, 0, sorter)
    boundaries = boundaries.contiguous()
    values = torch.full(
        (boundaries.shape[0], 1), x, dtype=boundaries.dtype, device=boundaries.device
    )
    return torch.searchsorted(boundaries, values, **kwargs).squeeze(1), 0


def bucketize_batch(
    size: int, dims: Any, x: Any, boundaries: Tensor, **kwargs: Any
) -> Any:
    """As a search with the operands in the other order."""
    if not isinstance(x, Tensor):
        return search_scalar_batch(size, (dims[1],), boundaries, x, **kwargs)
    return search_batch(size, (dims[1], dims[0]), boundaries, x, **kwargs)


def without_derivative(overload: OpOverload, batch: BatchRule | None) -> Record:
    """Make the record of an op whose result has no derivative."""
    return Record(overload, batch, zero_derivative(overload))


def dynamic_shape(overload: OpOverload) -> Record:
    """Make the record of an op whose results differ in shape between examples."""

    def batch(*unused: Any, **kwargs: Any) -> Any:
        raise DataDependentError(
            explain(
                "vmap",
                f"the dynamic shape of {overload} differs between the examples.",
                "call it outside vmap, or count in a fixed range with torch.bincount "
                "or a sum of comparisons",
            )
        )

    return Record(overload, batch)


SORTING: tuple[OpOverload, ...] = (
    aten.sort.default,
    aten.sort.stable,
    aten.topk.default,
)
PICKING: tuple[OpOverload, ...] = (
    aten.max.dim,
    aten.min.dim,
    aten.median.dim,
    aten.nanmedian.dim,
    aten.kthvalue.default,
    aten.mode.default,
)
DYNAMIC: tuple[OpOverload, ...] = (
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
)
RECORDS: tuple[Record, ...] = (
    *map(sorting, SORTING),
    *map(picking, PICKING),
    *map(dynamic_shape, DYNAMIC),
    whole_median(aten.median.default),
    whole_median(aten.nanmedian.default),
    without_derivative(aten.argsort.default, along_dim_batch(aten.argsort.default)),
    without_derivative(aten.argsort.stable, along_dim_batch(aten.argsort.stable)),
    Record(
        aten.searchsorted.Tensor,
        search_batch,
        zero_derivative(aten.searchsorted.Tensor),
        named_batch=search_named_batch,
    ),
    Record(
        aten.searchsorted.Scalar,
        search_scalar_batch,
        zero_derivative(aten.searchsorted.Scalar),
        named_batch=search_named_batch,
    ),
    without_derivative(aten.bucketize.Tensor, bucketize_batch),
    without_derivative(aten.bucketize.Scalar, bucketize_batch),
)
