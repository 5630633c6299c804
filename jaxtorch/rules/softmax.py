"""Softmax and log_softmax, and the kernels of their derivatives."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.cast import promoted
from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.operator import General, LinearOperator
from jaxtorch.rules.batching import batched_at_front, physical, to_front
from jaxtorch.rules.fast import fused
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten
softmax_backward = aten._softmax_backward_data.default
log_softmax_backward = aten._log_softmax_backward_data.default


def forward_batch(overload: OpOverload) -> BatchRule:
    """Normalize along the same dim of the example."""

    def batch(size: int, dims: Any, x: Tensor, dim: int, wide: bool) -> Any:
        x = to_front(x, dims[0])
        rank = x.dim() - 1
        if rank == 0:
            return overload(x.unsqueeze(1), physical(dim, 0), wide).squeeze(1), 0
        return overload(x, physical(dim, rank), wide), 0

    return batch


def backward_batch(overload: OpOverload) -> BatchRule:
    """Fold the batch dim of the cotangent and of the output into the leading dims."""

    def batch(
        size: int, dims: Any, g: Tensor, y: Tensor, dim: int, dtype: torch.dtype
    ) -> Any:
        g = batched_at_front(g, dims[0], size)
        y = batched_at_front(y, dims[1], size)
        rank = y.dim() - 1
        if rank == 0:
            out = overload(g.unsqueeze(1), y.unsqueeze(1), 1, dtype)
            return out.squeeze(1), 0
        return overload(g, y, physical(dim, rank), dtype), 0

    return batch


def sum_along(x: Tensor, dim: int) -> Tensor:
    """Sum along ``dim`` and keep it."""
    return torch.sum(x, dim, True) if x.dim() else x


@fused
def log_softmax_tangent(t: Tensor, y: Tensor, dim: int) -> Tensor:
    """``t - sum(exp(y) t)``."""
    return t - sum_along(torch.exp(y) * t, dim)


@fused
def softmax_second(t: Tensor, g: Tensor, y: Tensor, dim: int) -> Tensor:
    """The derivative of ``y (g - sum(y g))`` by y."""
    return t * (g - sum_along(y * g, dim)) - y * sum_along(t * g, dim)


@fused
def softmax_second_adjoint(c: Tensor, g: Tensor, y: Tensor, dim: int) -> Tensor:
    """Its transpose."""
    return c * (g - sum_along(y * g, dim)) - g * sum_along(c * y, dim)


@fused
def log_softmax_second(t: Tensor, g: Tensor, y: Tensor, dim: int) -> Tensor:
    """The derivative of ``g - exp(y) sum(g)`` by y."""
    return -t * (torch.exp(y) * sum_along(g, dim))


class SoftmaxDerivative(LinearOperator):
    """``y (t - sum(y t))`` at the output ``y``: its own transpose."""

    __slots__ = ("y", "dim")

    def __init__(self, y: Tensor, dim: int) -> None:
        self.y = y
        self.dim = dim

    def apply(self, tangent: Tensor) -> Tensor:
        return softmax_backward(tangent, self.y, self.dim, self.y.dtype)  # type: ignore[no-any-return]

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return self.apply(cotangent)


class LogSoftmaxDerivative(LinearOperator):
    """``t - sum(exp(y) t)`` at the output ``y``; transposed ``g - exp(y) sum(g)``."""

    __slots__ = ("y", "dim")

    def __init__(self, y: Tensor, dim: int) -> None:
        self.y = y
        self.dim = dim

    def apply(self, tangent: Tensor) -> Tensor:
        return log_softmax_tangent(tangent, self.y, self.dim)  # type: ignore[no-any-return]

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return log_softmax_backward(cotangent, self.y, self.dim, self.y.dtype)  # type: ignore[no-any-return]


def softmax_linearize(wanted: Any, x: Tensor, dim: int, wide: bool) -> Any:
    """``dy = y (dx - sum(y dx))``."""
    y = aten._softmax.default(x, dim, wide)
    return y, (promoted(SoftmaxDerivative(y, dim), x, y),)


def log_softmax_linearize(wanted: Any, x: Tensor, dim: int, wide: bool) -> Any:
    """``dy = dx - sum(exp(y) dx)``."""
    y = aten._log_softmax.default(x, dim, wide)
    return y, (promoted(LogSoftmaxDerivative(y, dim), x, y),)


def softmax_backward_linearize(
    wanted: Any, g: Tensor, y: Tensor, dim: int, dtype: torch.dtype
) -> Any:
    """``z = y (g - sum(y g))``, bilinear in g and quadratic in y."""
    z = softmax_backward(g, y, dim, dtype)

    def apply(t: Tensor) -> Any:
        return softmax_second(t, g, y, dim)

    def transpose(c: Tensor) -> Any:
        return softmax_second_adjoint(c, g, y, dim)

    return z, (
        promoted_back(SoftmaxDerivative(y, dim), z, g),
        promoted_back(General(apply, transpose), z, y),
    )


def log_softmax_backward_linearize(
    wanted: Any, g: Tensor, y: Tensor, dim: int, dtype: torch.dtype
) -> Any:
    """``z = g - exp(y) sum(g)``."""
    z = log_softmax_backward(g, y, dim, dtype)
    return z, (
        promoted_back(LogSoftmaxDerivative(y, dim).transpose(), z, g),
        promoted_back(Elementwise(log_softmax_second, g, y, dim), z, y),
    )


def promoted_back(
    operator: LinearOperator, z: Tensor, source: Tensor
) -> LinearOperator:
    """Put the cast to the dtype of the kernel's result behind ``operator``."""
    if z.dtype == source.dtype:
        return operator
    return promoted(operator.transpose(), z, source).transpose()


def safe_softmax_decompose(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """A row that is -inf throughout becomes zeros, without a derivative."""
    empty = torch.all(x == -torch.inf, dim, True) if x.dim() else x == -torch.inf
    out = torch.softmax(torch.where(empty, 0, x), dim, dtype=dtype)
    return torch.where(empty, 0, out)


RECORDS = (
    Record(
        aten._softmax.default, forward_batch(aten._softmax.default), softmax_linearize
    ),
    Record(
        aten._log_softmax.default,
        forward_batch(aten._log_softmax.default),
        log_softmax_linearize,
    ),
    Record(
        softmax_backward, backward_batch(softmax_backward), softmax_backward_linearize
    ),
    Record(
        log_softmax_backward,
        backward_batch(log_softmax_backward),
        log_softmax_backward_linearize,
    ),
    Record(aten._safe_softmax.default, decompose=safe_softmax_decompose),
)
