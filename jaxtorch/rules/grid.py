"""Sampling of planes at the points of a grid, written with taps.

A tap is one of the neighbours that a point reads in one dim: one for nearest, two for
linear, four for cubic. The sample is the sum over all combinations of taps of the
product of their weights and the element there.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.operator import LinearOperator
from jaxtorch.linear.reindex import Reindex
from jaxtorch.rules.planes import fold, unfold
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten

LINEAR, NEAREST, CUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2
CUBIC_A = -0.75


class Tap(NamedTuple):
    """One neighbour in one dim; all are [N, *out].

    Attributes:
        spot: which element is read.
        weight: its weight; zero outside of the plane where the padding is zeros.
        slope: the derivative of the weight with respect to the grid's coordinate.
    """

    spot: Tensor
    weight: Tensor
    slope: Tensor


def reflect(x: Tensor, length: int, align: bool) -> tuple[Tensor, Tensor]:
    """Fold positions back into the plane at its borders; also the slope of that."""
    low, span = (0.0, length - 1.0) if align else (-0.5, float(length))
    if span == 0:
        return torch.zeros_like(x), torch.zeros_like(x)
    away = torch.abs(x - low)
    flips = torch.floor(away / span)
    rest = away - flips * span
    even = torch.remainder(flips, 2) == 0
    sign = torch.where((x < low) == even, -1.0, 1.0).to(x.dtype)
    return torch.where(even, rest + low, span - rest + low), sign


def inside(
    x: Tensor, length: int, padding: int, align: bool
) -> tuple[Tensor, Tensor | None]:
    """Bring positions into the plane as the padding says; also the slope of that."""
    if padding == ZEROS:
        return x, None
    slope = None
    if padding == REFLECTION:
        x, slope = reflect(x, length, align)
    within = (x > 0) & (x < length - 1)
    x = torch.clamp(x, 0, length - 1)
    slope = within.to(x.dtype) if slope is None else slope * within
    return x, slope


def read(x: Tensor, length: int, weight: Tensor, slope: Tensor) -> Tap:
    """Make a tap at whole positions; outside of the plane it weighs nothing."""
    there = (x >= 0) & (x <= length - 1)
    index = torch.clamp(x, 0, max(length - 1, 0)).to(torch.int64)
    return Tap(index, weight * there, slope * there)


def taps_of(
    grid: Tensor, length: int, mode: int, padding: int, align: bool
) -> list[Tap]:
    """Return the taps of one dim for coordinates in [-1, 1]."""
    scale = (length - 1) / 2 if align else length / 2
    x = (grid + 1) * scale - (0.0 if align else 0.5)
    if mode == CUBIC:
        return cubic_taps(x, scale, length, padding, align)
    x, slope = inside(x, length, padding, align)
    if mode == NEAREST:
        return [read(torch.round(x), length, torch.ones_like(x), torch.zeros_like(x))]
    lower = torch.floor(x)
    part = x - lower
    step = torch.full_like(x, scale) if slope is None else slope * scale
    return [
        read(lower, length, 1 - part, -step),
        read(lower + 1, length, part, step),
    ]


def cubic_taps(
    x: Tensor, scale: float, length: int, padding: int, align: bool
) -> list[Tap]:
    """Return four taps with the weights of Keys (1981), a = -0.75."""
    lower = torch.floor(x)
    part = x - lower
    taps = []
    for offset in (-1, 0, 1, 2):
        distance = part - offset if offset <= 0 else offset - part
        sign = 1.0 if offset <= 0 else -1.0
        near = offset in (0, 1)
        c3, c2, c1, c0 = NEAR_CUBIC if near else FAR_CUBIC
        weight = ((c3 * distance + c2) * distance + c1) * distance + c0
        slope = (3 * c3 * distance + 2 * c2) * distance + c1
        place, _ = inside(lower + offset, length, padding, align)
        taps.append(read(place, length, weight, slope * (sign * scale)))
    return taps


NEAR_CUBIC = (CUBIC_A + 2, -(CUBIC_A + 3), 0.0, 1.0)
FAR_CUBIC = (CUBIC_A, -5 * CUBIC_A, 8 * CUBIC_A, -4 * CUBIC_A)


def corners(
    x_shape: torch.Size, grid: Tensor, mode: int, padding: int, align: bool
) -> Iterator[tuple[Tensor, tuple[Tap, ...]]]:
    """Go through all combinations of taps: the index in the flat plane, and the taps.

    The coordinates of the grid are in the reversed order of the spatial dims.
    """
    lengths = x_shape[2:]
    rank = len(lengths)
    taps = [
        taps_of(grid[..., rank - 1 - k], lengths[k], mode, padding, align)
        for k in range(rank)
    ]
    for combination in itertools.product(*taps):
        index = combination[0].spot
        for length, tap in zip(lengths[1:], combination[1:], strict=True):
            index = index * length + tap.spot
        yield index, combination


def elements(x: Tensor, index: Tensor) -> Tensor:
    """Read [N, C, *out] from the flat planes of ``x`` at ``index`` [N, *out]."""
    spots = index.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    return torch.gather(x.flatten(2), 2, spots).reshape(*x.shape[:2], *index.shape[1:])


def slope_along(combination: tuple[Tap, ...], dim: int) -> Tensor:
    """Return the derivative of the product of weights with respect to one dim."""
    factors = [t.slope if k == dim else t.weight for k, t in enumerate(combination)]
    return math.prod(factors[1:], start=factors[0])


def total_weight(combination: tuple[Tap, ...]) -> Tensor:
    """Return the product of the weights."""
    weights = [t.weight for t in combination]
    return math.prod(weights[1:], start=weights[0])


def grid_tangent(
    tangent: Tensor, x: Tensor, grid: Tensor, mode: int, padding: int, align: bool
) -> Tensor:
    """Push a tangent of the grid forward."""
    rank = grid.shape[-1]
    out: Any = 0
    for index, combination in corners(x.shape, grid, mode, padding, align):
        change: Any = 0
        for k in range(rank):
            change = change + slope_along(combination, k) * tangent[..., rank - 1 - k]
        out = out + elements(x, index) * change.unsqueeze(1)
    return out  # type: ignore[no-any-return]


def backward_decompose(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    mode: int,
    padding: int,
    align: bool,
    output_mask: Any,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the backward kernel with operators that have derivatives of every order."""
    rank = grid.shape[-1]
    planes: Any = grad.new_zeros(x.shape).flatten(2) if output_mask[0] else None
    slopes: list[Any] = [0] * rank
    for index, combination in corners(x.shape, grid, mode, padding, align):
        if output_mask[0]:
            spots = index.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
            part = grad * total_weight(combination).unsqueeze(1)
            planes = torch.scatter_add(planes, 2, spots, part.flatten(2))
        if output_mask[1]:
            along = torch.sum(elements(x, index) * grad, 1)
            for k in range(rank):
                own = slope_along(combination, k) * along
                slopes[rank - 1 - k] = slopes[rank - 1 - k] + own
    return (
        planes.reshape(x.shape) if output_mask[0] else None,
        torch.stack(slopes, -1) if output_mask[1] else None,
    )


class GridMove(LinearOperator):
    """The derivative of a sample with respect to the grid."""

    __slots__ = ("backward", "args")

    def __init__(self, backward: OpOverload, *args: Any) -> None:
        self.backward = backward
        self.args = args

    def apply(self, tangent: Tensor) -> Tensor:
        return grid_tangent(tangent, *self.args)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        out: Tensor = self.backward(cotangent, *self.args, [False, True])[1]
        return out


def grid_pair(
    forward: OpOverload, backward: OpOverload, rank: int
) -> tuple[Record, Record]:
    """Make the records of the sampling at a grid and of its fused backward."""

    def to_planes(grad: Tensor, *args: Any) -> Tensor:
        out: Tensor = backward(grad, *args, [True, False])[0]
        return out

    def linearize(wanted: Any, x: Tensor, grid: Tensor, *args: Any) -> Any:
        return forward(x, grid, *args), (
            Reindex(forward, (grid, *args), to_planes, (x, grid, *args)),
            GridMove(backward, x, grid, *args),
        )

    return (
        Record(forward, grid_batch(forward, (rank, rank)), linearize),
        Record(
            backward,
            grid_batch(backward, (rank, rank, rank)),
            decompose=backward_decompose,
        ),
    )


def grid_batch(call: OpOverload, ranks: tuple[int, ...]) -> BatchRule:
    """Fold the examples of all tensors into N."""

    def batch(size: int, dims: Any, *args: Any) -> Any:
        count = len(ranks)
        folded = [
            fold(a, d, size, r) for a, d, r in zip(args, dims, ranks, strict=False)
        ]
        out = call(*folded, *args[count:])
        if isinstance(out, Tensor):
            return unfold(out, args[0], dims[0], size, ranks[0]), 0
        return tuple(
            o if o is None else unfold(o, args[0], dims[0], size, ranks[0]) for o in out
        ), 0

    return batch


def cudnn_decompose(x: Tensor, grid: Tensor) -> Tensor:
    """Sample linearly, zeros outside, corners aligned, as cuDNN does."""
    return torch.grid_sampler_2d(x, grid, LINEAR, ZEROS, True)


RECORDS = (
    *grid_pair(aten.grid_sampler_2d.default, aten.grid_sampler_2d_backward.default, 2),
    *grid_pair(aten.grid_sampler_3d.default, aten.grid_sampler_3d_backward.default, 3),
    Record(aten.cudnn_grid_sampler.default, decompose=cudnn_decompose),
)
