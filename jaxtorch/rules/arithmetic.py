"""Arithmetic: the elementwise operators of two operands, and sums of them."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import Broadcast
from jaxtorch.linear.cast import promoted
from jaxtorch.linear.diagonal import BroadcastElementwise, Scale
from jaxtorch.rules.batching import broadcasting_batch
from jaxtorch.rules.makers import binary, unary
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def mul_linearize(wanted: Any, x: Any, y: Any) -> Any:
    """``d(xy) = y dx + x dy``."""
    out = torch.mul(x, y)
    shape = out.shape
    return out, (
        wanted[0] and promoted(Scale(y, x.shape, shape), x, out),
        wanted[1] and promoted(Scale(x, y.shape, shape), y, out),
    )


def add_linearize(wanted: Any, x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """``d(x + alpha y) = dx + alpha dy``."""
    return _sum_linearize(torch.add(x, y, alpha=alpha), wanted, x, y, alpha)


def sub_linearize(wanted: Any, x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """``d(x - alpha y) = dx - alpha dy``."""
    return _sum_linearize(torch.sub(x, y, alpha=alpha), wanted, x, y, -alpha)


def _sum_linearize(out: Tensor, wanted: Any, x: Any, y: Any, factor: Any) -> Any:
    shape = out.shape
    left = right = None
    if wanted[0]:
        left = promoted(Broadcast(x.shape, shape), x, out)
    if wanted[1]:
        if factor == 1:
            right = promoted(Broadcast(y.shape, shape), y, out)
        else:
            right = promoted(Scale(factor, y.shape, shape), y, out)
    return out, (left, right)


def pow_scalar_linearize(wanted: Any, x: Tensor, exponent: Any) -> Any:
    """``d(x^n) = n x^(n-1) dx``; zero for n = 0."""
    out = torch.pow(x, exponent)

    def scale(t: Tensor, x: Tensor) -> Tensor:
        if exponent == 0:
            return torch.zeros_like(t)
        if exponent == 2:
            return t * (x * 2)
        return t * (torch.pow(x, exponent - 1) * exponent)

    return out, (promoted(BroadcastElementwise(scale, x.shape, x.shape, x), x, out),)


RECORDS = (
    Record(aten.mul.Tensor, broadcasting_batch(torch.mul), mul_linearize),
    Record(aten.add.Tensor, broadcasting_batch(torch.add), add_linearize),
    Record(aten.sub.Tensor, broadcasting_batch(torch.sub), sub_linearize),
    Record(
        aten.pow.Tensor_Scalar,
        lambda size, dims, x, n: (torch.pow(x, n), dims[0]),
        pow_scalar_linearize,
    ),
    binary(aten.div.Tensor, lambda t, x, y: t / y, lambda t, x, y: -t * ((x / y) / y)),
    unary(aten.sin.default, lambda t, x: t * torch.cos(x)),
    unary(aten.cos.default, lambda t, x: -t * torch.sin(x)),
    unary(aten.tanh.default, lambda t, y: aten.tanh_backward.default(t, y), "output"),
)
