"""Which elements of a tensor given strides reach; no rule lives here."""

import itertools
from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import UsageError, explain


class Readings:
    """Counts how often Python read a layout: who stages that depends on it."""

    strides = 0
    offsets = 0


def elements_reached(x: Tensor, size: Any, stride: Any, start: Any) -> Tensor:
    """Return the index into the flattened ``x`` of what ``as_strided`` would show.

    ``start`` is the offset in the storage; None is that of ``x``.
    """
    Readings.strides += 1
    first = 0 if start is None else start - x.storage_offset()
    if not reaches_elements(x, size, stride, first):
        raise UsageError(
            explain(
                "as_strided",
                f"size {list(size)}, stride {list(stride)} and offset {start} show "
                f"storage that is no element of the tensor of shape {list(x.shape)} "
                f"and stride {list(x.stride())}.",
                "call it on x.clone(memory_format=torch.contiguous_format), or index "
                "the tensor (unfold, select, slices); inside a transform a tensor has "
                "no storage around its elements",
            )
        )
    places = torch.arange(span(x), device=x.device)
    given = strided_places(x.shape, x.stride(), 0, x.device).reshape(-1)
    count = torch.arange(x.numel(), device=x.device)
    element_of = torch.index_put(torch.zeros_like(places), (given,), count)
    taken = strided_places(size, stride, first, x.device)
    flat = element_of.index_select(0, taken.reshape(-1))
    return flat.reshape(size)


def reach(size: Any, stride: Any) -> int:
    """Return how far the last element lies behind the first."""
    return sum((n - 1) * s for n, s in zip(size, stride, strict=True) if n)


def span(x: Tensor) -> int:
    """Return how many places of its storage lie between the ends of ``x``."""
    return reach(x.shape, x.stride()) + 1


def reaches_elements(x: Tensor, size: Any, stride: Any, first: int) -> bool:
    """Tell whether given strides show only elements of ``x``, from ``first`` on."""
    if not all(size):
        return True
    if not x.numel() or first < 0 or first + reach(size, stride) >= span(x):
        return False
    if span(x) == x.numel():
        return True
    own = sorted(zip(x.stride(), x.shape, strict=True), reverse=True)
    steps = [
        range(0, n * s, s) if s else [0] for n, s in zip(size, stride, strict=True)
    ]
    for parts in itertools.product(*steps):
        place = first + sum(parts)
        for step, length in own:
            if step and length > 1:
                place -= step * min(place // step, length - 1)
        if place:
            return False
    return True


def strided_places(size: Any, stride: Any, start: Any, device: torch.device) -> Tensor:
    """Return the place in a storage of every element of a strided tensor."""
    places = torch.full([1] * len(size), start, device=device)
    for dim, (length, step) in enumerate(zip(size, stride, strict=True)):
        shape = [1] * len(size)
        shape[dim] = length
        places = places + (torch.arange(length, device=device) * step).reshape(shape)
    return places
