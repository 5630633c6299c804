"""Derivatives of ``(x - mean) * rstd * weight + bias``, for every shape of statistics.

``mean`` and ``rstd`` are outputs of the primitive like any other: their own derivatives
are what makes the second and higher orders right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import expand_to
from jaxtorch.linear.cast import cast_to
from jaxtorch.linear.operator import LinearOperator

BackwardKernel = Callable[[Tensor, list[bool]], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the statistics and the affine parameters lie along an input.

    Attributes:
        split: shape of the input in which both broadcast with it.
        stats: shape of the statistics for broadcasting with ``split``.
        affine: shape of weight and bias for broadcasting with ``split``.
        stats_dims: dims of ``split`` over which the statistics are taken.
        affine_dims: dims of ``split`` along which weight and bias are constant.
    """

    split: Any
    stats: Any
    affine: Any
    stats_dims: list[int]
    affine_dims: list[int]

    def sum_stats(self, x: Tensor) -> Tensor:
        """Average over what the statistics are taken of."""
        return average(x, self.stats_dims)

    def sum_affine(self, x: Tensor, shape: Any) -> Tensor:
        """Sum over what a weight or bias of ``shape`` is constant along."""
        if self.affine_dims:
            x = torch.sum(x, self.affine_dims)
        return shaped(x, shape)

    def count(self) -> int:
        """Return how many elements one statistic is taken of."""
        total = 1
        for d in self.stats_dims:
            total *= self.split[d]
        return total


def shaped(x: Tensor, shape: Any) -> Tensor:
    """Reshape, if the shape is another one."""
    return x if x.shape == shape else x.reshape(shape)


def average(x: Tensor, dims: Any) -> Tensor:
    """Average over ``dims``, which are kept."""
    return torch.mean(x, dims, True) if dims else x


def push_input(
    t: Tensor,
    x: Tensor,
    rstd: Tensor,
    mean: Tensor | None,
    weight: Tensor | None,
    dims: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return the tangents of the output, of ``rstd`` and of the mean if there is one.

    ``dout = rstd (dx - avg(dx) - z avg(z dx)) w``, ``drstd = -rstd^2 avg(z dx)``; all
    in shapes that broadcast, and averaged over ``dims``.
    """
    z = (x if mean is None else x - mean) * rstd
    slope = average(t * z, dims)
    out = t - z * slope
    others = [-slope * (rstd * rstd)]
    if mean is not None:
        others.append(average(t, dims))
        out = out - others[1]
    out = out * rstd
    if weight is not None:
        out = out * weight
    return cast_to(out, x.dtype), *others


@dataclass(slots=True)
class Normalized:
    """The residuals that the operators of one normalization share.

    Without a ``mean`` (rms norm) the outputs are only the result and ``rstd``.
    """

    layout: Layout
    x: Tensor
    mean: Tensor | None
    rstd: Tensor
    weight: Tensor | None
    kernel: BackwardKernel
    dtype: torch.dtype
    wanted: list[bool]
    push: Callable[..., tuple[Tensor, ...]] = push_input
    pulled: list[Any] | None = None

    def pull_back(self, g: Tensor, place: int) -> Any:
        """Return the cotangent of input, weight or bias for the output's ``g``.

        One call of the kernel makes all that are wanted; the others pick theirs up.
        """
        pulled = self.pulled
        if pulled is None or pulled[0] is not g:
            pulled = [g, self.kernel(g, self.wanted), sum(self.wanted)]
        pulled[2] -= 1
        self.pulled = pulled if pulled[2] > 0 else None
        return pulled[1][place]

    def standard(self) -> Tensor:
        """Return ``(x - mean) * rstd`` in the split shape."""
        return standardized(self.layout, self.x, self.mean, self.rstd)

    def finish(self, out: Tensor) -> Tensor:
        """Return a result in the shape of the input."""
        return cast_to(shaped(out, self.x.shape), self.dtype)

    def only_result(self, out: Tensor) -> tuple[Any, ...]:
        """Return the tangents of the outputs where that of the statistics is zero."""
        done = self.finish(out)
        return (done, None) if self.mean is None else (done, None, None)


def standardized(
    layout: Layout, x: Tensor, mean: Tensor | None, rstd: Tensor
) -> Tensor:
    """Return ``(x - mean) * rstd`` in the split shape."""
    x = shaped(x, layout.split)
    if mean is not None:
        x = x - shaped(mean, layout.stats)
    return x * shaped(rstd, layout.stats)


class InputDerivative(LinearOperator):
    """From the input to the output, its mean and its reciprocal standard deviation."""

    __slots__ = ("own",)

    def __init__(self, own: Normalized) -> None:
        self.own = own

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        own, layout = self.own, self.own.layout
        mean, weight = own.mean, own.weight
        out, *stats = own.push(
            shaped(tangent, layout.split),
            shaped(own.x, layout.split),
            shaped(own.rstd, layout.stats),
            None if mean is None else shaped(mean, layout.stats),
            None if weight is None else shaped(weight, layout.affine),
            tuple(layout.stats_dims),
        )
        shape, dtype = own.rstd.shape, own.rstd.dtype
        stats = [cast_to(shaped(s, shape), dtype) for s in reversed(stats)]
        return own.finish(out), *stats

    def apply_transpose(self, cotangent: Any) -> Any:
        own, layout = self.own, self.own.layout
        g, g_rstd = cotangent[0], cotangent[-1]
        g_mean = None if own.mean is None else cotangent[1]
        total = None if g is None else own.pull_back(g, 0)
        if g_mean is None and g_rstd is None:
            return total
        part: Any = None
        if g_rstd is not None:
            scaled = shaped(g_rstd * (own.rstd * own.rstd), layout.stats)
            part = own.standard() * (scaled / -layout.count())
        if g_mean is not None:
            even = shaped(g_mean, layout.stats) / layout.count()
            part = even if part is None else part + even
        part = cast_to(shaped(expand_to(part, layout.split), own.x.shape), own.x.dtype)
        return part if total is None else total + part


class FixedInputDerivative(LinearOperator):
    """From the input to the output, where the statistics are not the input's."""

    __slots__ = ("own",)

    def __init__(self, own: Normalized) -> None:
        self.own = own

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        own = self.own
        factor = own.rstd if own.weight is None else own.rstd * own.weight
        return own.only_result(tangent * shaped(factor, own.layout.affine))

    def apply_transpose(self, cotangent: Any) -> Any:
        g = cotangent[0]
        return None if g is None else self.own.pull_back(g, 0)


class WeightDerivative(LinearOperator):
    """From the weight to the output."""

    __slots__ = ("own",)

    def __init__(self, own: Normalized) -> None:
        self.own = own

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        own = self.own
        out = own.standard() * shaped(tangent, own.layout.affine)
        return own.only_result(out)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        g = cotangent[0]
        return None if g is None else self.own.pull_back(g, 1)


class BiasDerivative(LinearOperator):
    """From the bias to the output."""

    __slots__ = ("own", "shape", "dtype")

    def __init__(self, own: Normalized, bias: Tensor) -> None:
        self.own = own
        self.shape = bias.shape
        self.dtype = bias.dtype

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        layout = self.own.layout
        out = expand_to(shaped(tangent, layout.affine), layout.split)
        return self.own.only_result(out)

    def apply_transpose(self, cotangent: Any) -> Any:
        own, g = self.own, cotangent[0]
        if g is None:
            return None
        if sum(own.wanted) > 1:
            return own.pull_back(g, 2)
        layout = own.layout
        total = layout.sum_affine(shaped(g, layout.split), self.shape)
        return cast_to(total, self.dtype)


def backward_by_parts(
    layout: Layout,
    g: Tensor,
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    mask: list[bool],
    parameter: Any,
    fixed: bool = False,
) -> tuple[Any, Any, Any]:
    """Write the fused backward kernel with plain operators, so that it has derivatives.

    With ``h = g weight`` and ``z = (x - mean) rstd``: ``dx = rstd (h - avg(h) - z
    avg(h z))``, ``dweight = sum g z``, ``dbias = sum g``; ``parameter`` is the shape of
    the last two. Where the statistics are ``fixed``, ``dx = rstd h``.
    """
    shape = x.shape
    g = shaped(g, layout.split)
    standard = standardized(layout, x, mean, rstd)
    dx = dw = db = None
    if mask[0]:
        h = g if weight is None else g * shaped(weight, layout.affine)
        dx = h
        if not fixed:
            dx = dx - standard * layout.sum_stats(h * standard)
        if not fixed and mean is not None:
            dx = dx - layout.sum_stats(h)
        dx = dx * shaped(rstd, layout.stats)
        dx = cast_to(shaped(dx, shape), x.dtype)
    dtype = x.dtype if weight is None else weight.dtype
    if mask[1]:
        dw = cast_to(layout.sum_affine(g * standard, parameter), dtype)
    if mask[2]:
        db = cast_to(layout.sum_affine(g, parameter), dtype)
    return dx, dw, db


def push_backward(
    g: Tensor,
    x: Tensor,
    rstd: Tensor,
    mean: Tensor | None,
    weight: Tensor | None,
    tg: Tensor | None,
    tx: Tensor | None,
    trstd: Tensor | None,
    tmean: Tensor | None,
    tweight: Tensor | None,
    dims: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Return ``dx`` of ``backward_by_parts`` and how it moves: one pass over the rows.

    The tangents are of the first five arguments, in shapes that broadcast; None is a
    zero.
    """
    centered = x if mean is None else x - mean
    z, h = centered * rstd, g if weight is None else g * weight
    dz: Any = None
    dh: Any = None
    if tx is not None or tmean is not None:
        dx: Any = tx if tmean is None else -tmean if tx is None else tx - tmean
        dz = dx * rstd
    if trstd is not None:
        dz = added(dz, centered * trstd)
    if tg is not None:
        dh = tg if weight is None else tg * weight
    if tweight is not None:
        dh = added(dh, g * tweight)
    slope = average(h * z, dims)
    inner = h - z * slope
    moved: Any = None
    if dh is not None:
        moved = dh - z * average(dh * z, dims)
    if dz is not None:
        moved = added(moved, -(dz * slope) - z * average(h * dz, dims))
    if mean is not None:
        inner = inner - average(h, dims)
        moved = moved if dh is None else moved - average(dh, dims)
    out: Any = None if moved is None else moved * rstd
    if trstd is not None:
        out = added(out, inner * trstd)
    return cast_to(inner * rstd, x.dtype), cast_to(out, x.dtype)


def added(x: Tensor | None, y: Tensor) -> Tensor:
    """Add to what may be a zero."""
    return y if x is None else x + y
