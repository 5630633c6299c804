"""Sums and weighted sums over dims; the transpose spreads over them again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import expand_to, sum_to
from jaxtorch.linear.operator import LinearOperator


def example_dims(dims: Any, rank: int) -> list[int]:
    """Return dims counted from the front; none given means all."""
    if isinstance(dims, int):
        dims = [dims]
    if not dims:
        return list(range(rank))
    return [d % rank for d in dims] if rank else []


def aligned(reduced: Tensor, shape: Any, dims: list[int], keepdim: bool) -> Tensor:
    """Give a reduced tensor the dims of size one with which it broadcasts to shape."""
    if keepdim or not dims or len(dims) == len(shape):
        return reduced
    if len(dims) == 1:
        return reduced.unsqueeze(dims[0]) if dims[0] else reduced
    return reduced.reshape([1 if i in dims else n for i, n in enumerate(shape)])


class Sum(LinearOperator):
    """``sum(tangent, dims, keepdim)``; the transpose expands. Divides by ``count``."""

    __slots__ = ("shape", "dims", "keepdim", "mean")

    def __init__(
        self, shape: torch.Size, dims: list[int], keepdim: bool, mean: bool = False
    ) -> None:
        self.shape = shape
        self.dims = dims
        self.keepdim = keepdim
        self.mean = mean

    def apply(self, tangent: Tensor) -> Tensor:
        dims = self.dims
        if not dims:
            return tangent
        call = torch.mean if self.mean else torch.sum
        if len(dims) == len(self.shape) and not self.keepdim:
            return call(tangent)
        return call(tangent, dims, self.keepdim)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        shape = self.shape
        if self.mean:
            count = 1
            for d in self.dims:
                count *= shape[d]
            cotangent = cotangent / count
        return expand_to(aligned(cotangent, shape, self.dims, self.keepdim), shape)


class ReducedElementwise(LinearOperator):
    """``sum(scale(tangent, x, out), dims, keepdim)``: the derivative of a reduction.

    ``scale`` multiplies its first argument, which broadcasts with ``x``, by the
    derivative of ``out`` with respect to each element of ``x``; it gets ``out`` with
    the reduced dims kept. Of a complex ``x`` with a real ``out`` the real part counts.
    """

    __slots__ = ("scale", "x", "out", "dims", "keepdim")

    def __init__(
        self,
        scale: Callable[..., Tensor],
        x: Tensor,
        out: Tensor,
        dims: list[int],
        keepdim: bool,
    ) -> None:
        self.scale = scale
        self.x = x
        self.out = out
        self.dims = dims
        self.keepdim = keepdim

    def align(self, reduced: Tensor) -> Tensor:
        return aligned(reduced, self.x.shape, self.dims, self.keepdim)

    def apply(self, tangent: Tensor) -> Tensor:
        product = self.scale(tangent, self.x, self.align(self.out))
        if product.is_complex() and not self.out.is_complex():
            product = torch.real(product)
        if not self.dims:
            return product
        return torch.sum(product, self.dims, self.keepdim)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        out = self.align(self.out)
        cotangent = self.align(cotangent)
        if self.x.is_complex():
            return self.scale(cotangent.conj_physical(), self.x, out).conj_physical()
        return self.scale(cotangent, self.x, out)


class ReducedBroadcast(LinearOperator):
    """``scale(tangent, *residuals)``, broadcast to ``shape`` and then reduced whole.

    ``reduction`` is 0 for none, 1 for the mean, 2 for the sum, as in losses; all is
    multiplied by ``factor``.
    """

    __slots__ = ("scale", "in_shape", "shape", "reduction", "factor", "residuals")

    def __init__(
        self,
        scale: Callable[..., Tensor],
        in_shape: torch.Size,
        shape: torch.Size,
        reduction: int,
        factor: float,
        *residuals: Any,
    ) -> None:
        self.scale = scale
        self.in_shape = in_shape
        self.shape = shape
        self.reduction = reduction
        self.factor = factor
        self.residuals = residuals

    def apply(self, tangent: Tensor) -> Tensor:
        out = expand_to(self.scale(tangent, *self.residuals), self.shape)
        if self.reduction == 1:
            out = torch.mean(out)
        elif self.reduction == 2:
            out = torch.sum(out)
        return out if self.factor == 1 else out * self.factor

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        factor = self.factor
        if self.reduction == 1:
            factor = factor / max(self.shape.numel(), 1)
        if factor != 1:
            cotangent = cotangent * factor
        pulled = self.scale(cotangent, *self.residuals)
        return sum_to(expand_to(pulled, self.shape), self.in_shape)
