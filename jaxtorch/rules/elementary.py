"""Elementary functions: exponentials, logarithms, powers of one half, trigonometry."""

import math
from typing import Any

import torch
from torch import Tensor

from jaxtorch.rules.makers import unary

aten = torch.ops.aten
tanh_backward = aten.tanh_backward.default
sigmoid_backward = aten.sigmoid_backward.default
LOG2 = math.log(2)
LOG10 = math.log(10)


def tanh_scale(t: Tensor, y: Tensor) -> Any:
    """``d tanh(x) = (1 - y^2) dx``; the fused kernel conjugates complex factors."""
    if t.is_complex():
        return t * (1 - y * y)
    return tanh_backward(t, y)


def sigmoid_scale(t: Tensor, y: Tensor) -> Any:
    """``d sigmoid(x) = y (1 - y) dx``; the fused kernel conjugates complex factors."""
    if t.is_complex():
        return t * (y * (1 - y))
    return sigmoid_backward(t, y)


def rsqrt_scale(t: Tensor, y: Tensor) -> Tensor:
    """``d x^(-1/2) = -x^(-3/2) / 2 dx``."""
    return t * (y * y * y * -0.5)


def acosh_scale(t: Tensor, x: Tensor) -> Tensor:
    """``d acosh(x) = dx / (sqrt(x - 1) sqrt(x + 1))``."""
    if x.is_complex():
        return t * (torch.rsqrt(x - 1) * torch.rsqrt(x + 1))
    return t * torch.rsqrt(x * x - 1)


def sinc_scale(t: Tensor, x: Tensor) -> Tensor:
    """``d sinc(x) = (cos(a) - sin(a) / a) / x dx`` with ``a = pi x``; a series at 0."""
    origin = x == 0
    safe = torch.where(origin, 1, x)
    angle = safe * math.pi
    slope = (torch.cos(angle) - torch.sin(angle) / angle) / safe
    series = x * (x * x * (math.pi**4 / 30) - math.pi**2 / 3)
    return t * torch.where(origin, series, slope)


RECORDS = (
    unary(aten.exp.default, torch.mul, "output"),
    unary(aten.exp2.default, lambda t, y: t * (y * LOG2), "output"),
    unary(aten.expm1.default, lambda t, y: t * (y + 1), "output"),
    unary(aten.log.default, torch.div),
    unary(aten.log2.default, lambda t, x: t / (x * LOG2)),
    unary(aten.log10.default, lambda t, x: t / (x * LOG10)),
    unary(aten.log1p.default, lambda t, x: t / (x + 1)),
    unary(aten.sqrt.default, lambda t, y: t / (y + y), "output"),
    unary(aten.rsqrt.default, rsqrt_scale, "output"),
    unary(aten.sin.default, lambda t, x: t * torch.cos(x)),
    unary(aten.cos.default, lambda t, x: t * -torch.sin(x)),
    unary(aten.tan.default, lambda t, y: t * (y * y + 1), "output"),
    unary(aten.sinh.default, lambda t, x: t * torch.cosh(x)),
    unary(aten.cosh.default, lambda t, x: t * torch.sinh(x)),
    unary(aten.tanh.default, tanh_scale, "output"),
    unary(aten.asin.default, lambda t, x: t * torch.rsqrt(1 - x * x)),
    unary(aten.acos.default, lambda t, x: t * -torch.rsqrt(1 - x * x)),
    unary(aten.atan.default, lambda t, x: t / (x * x + 1)),
    unary(aten.asinh.default, lambda t, x: t * torch.rsqrt(x * x + 1)),
    unary(aten.acosh.default, acosh_scale),
    unary(aten.atanh.default, lambda t, x: t / (1 - x * x)),
    unary(aten.sigmoid.default, sigmoid_scale, "output"),
    unary(aten.sinc.default, sinc_scale),
    unary(aten.deg2rad.default, lambda t, x: t * (math.pi / 180)),
    unary(aten.rad2deg.default, lambda t, x: t * (180 / math.pi)),
)
