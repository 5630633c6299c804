"""Elementwise operators: scaling by a factor, and by the derivative of a function."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import expand_to, sum_to
from jaxtorch.linear.cast import promoted
from jaxtorch.linear.operator import LinearOperator


class Scale(LinearOperator):
    """``tangent * factor``, broadcast to the output; the factor may be a number."""

    __slots__ = ("factor", "in_shape", "out_shape")

    def __init__(
        self, factor: Any, in_shape: torch.Size, out_shape: torch.Size
    ) -> None:
        self.factor = factor
        self.in_shape = in_shape
        self.out_shape = out_shape

    def apply(self, tangent: Tensor) -> Tensor:
        return expand_to(tangent * self.factor, self.out_shape)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        factor = self.factor
        if isinstance(factor, Tensor):
            if factor.is_complex():
                factor = factor.conj_physical()
        elif isinstance(factor, complex):
            factor = factor.conjugate()
        return sum_to(cotangent * factor, self.in_shape)


class Elementwise(LinearOperator):
    """``scale(tangent, *residuals)``: multiplication by a derivative, in one call.

    ``scale`` multiplies its first argument by the elementwise derivative of a function
    at the residuals; nothing is computed before a tangent or cotangent arrives.
    """

    __slots__ = ("scale", "residuals")

    def __init__(self, scale: Callable[..., Tensor], *residuals: Any) -> None:
        self.scale = scale
        self.residuals = residuals

    def apply(self, tangent: Tensor) -> Tensor:
        return self.scale(tangent, *self.residuals)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        if cotangent.is_complex():
            return self.scale(
                cotangent.conj_physical(), *self.residuals
            ).conj_physical()
        return self.scale(cotangent, *self.residuals)


class BroadcastElementwise(LinearOperator):
    """As ``Elementwise``, for an input that was broadcast to the output's shape."""

    __slots__ = ("scale", "in_shape", "out_shape", "residuals")

    def __init__(
        self,
        scale: Callable[..., Tensor],
        in_shape: torch.Size,
        out_shape: torch.Size,
        *residuals: Any,
    ) -> None:
        self.scale = scale
        self.in_shape = in_shape
        self.out_shape = out_shape
        self.residuals = residuals

    def apply(self, tangent: Tensor) -> Tensor:
        return expand_to(self.scale(tangent, *self.residuals), self.out_shape)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        if cotangent.is_complex():
            pulled = self.scale(
                cotangent.conj_physical(), *self.residuals
            ).conj_physical()
        else:
            pulled = self.scale(cotangent, *self.residuals)
        return sum_to(pulled, self.in_shape)


def elementwise(
    scale: Callable[..., Tensor], operand: Tensor, out: Tensor, *residuals: Any
) -> LinearOperator:
    """Make the operator from ``operand`` to ``out``, with broadcasting and cast."""
    operator: LinearOperator
    if operand.shape == out.shape:
        operator = Elementwise(scale, *residuals)
    else:
        operator = BroadcastElementwise(scale, operand.shape, out.shape, *residuals)
    return operator if operand.dtype is out.dtype else promoted(operator, operand, out)


def keep_if(t: Tensor, condition: Tensor) -> Tensor:
    """Keep ``t`` where the condition holds, zero elsewhere."""
    return torch.masked_fill(t, torch.logical_not(condition), 0)


def drop_if(t: Tensor, condition: Tensor) -> Tensor:
    """Keep ``t`` where the condition does not hold, zero elsewhere."""
    return torch.masked_fill(t, condition, 0)
