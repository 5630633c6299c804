"""Smooth activations and their fused backward kernels, one call per derivative."""

import math
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.operator import General, Output
from jaxtorch.rules.batching import batched_at_front, physical, to_front
from jaxtorch.rules.makers import gradient_kernel, unary, with_autograd
from jaxtorch.rules.record import Record

aten = torch.ops.aten

gelu_backward = aten.gelu_backward.default


def tanh_second(t: Tensor, g: Tensor, y: Tensor) -> Tensor:
    """``d (g (1 - y^2)) = -2 g y dy``."""
    return t * (g * y * -2)


def sigmoid_second(t: Tensor, g: Tensor, y: Tensor) -> Tensor:
    """``d (g y (1 - y)) = g (1 - 2 y) dy``."""
    return t * (g * (1 - 2 * y))


def silu_formula(t: Tensor, x: Tensor) -> Tensor:
    """``silu' = s (1 + x (1 - s))`` with ``s = sigmoid(x)``."""
    s = torch.sigmoid(x)
    return t * (s * (1 + x * (1 - s)))


silu_backward = with_autograd(aten.silu_backward.default, silu_formula)


def silu_scale(t: Tensor, x: Tensor) -> Any:
    """``silu'``; the fused kernel is for real numbers."""
    return silu_formula(t, x) if t.is_complex() else silu_backward(t, x)


def silu_second(t: Tensor, g: Tensor, x: Tensor) -> Tensor:
    """``silu'' = s (1 - s) (2 + x (1 - 2 s))`` with ``s = sigmoid(x)``."""
    s = torch.sigmoid(x)
    return t * (g * s * (1 - s) * (2 + x * (1 - 2 * s)))


def gelu_scale(t: Tensor, x: Tensor, *, approximate: str = "none") -> Any:
    """``gelu'`` by the fused kernel."""
    return gelu_backward(t, x, approximate=approximate)


def gelu_second(
    t: Tensor, g: Tensor, x: Tensor, *, approximate: str = "none"
) -> Tensor:
    """``gelu'' = pdf(x) (2 - x^2)``; for tanh the derivative of that form."""
    if approximate == "none":
        density = torch.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return t * (g * density * (2 - x * x))
    beta = math.sqrt(2 / math.pi)
    square = x * x
    u = torch.tanh(x * (beta + beta * 0.044715 * square))
    slope = beta + (3 * beta * 0.044715) * square
    curve = (3 * beta * 0.044715) * square
    return t * (g * (1 - u * u) * (slope + curve - x * u * slope * slope))


def mish_formula(t: Tensor, x: Tensor) -> Tensor:
    """``mish' = w + x s (1 - w^2)``, ``w = tanh(softplus x)``, ``s = sigmoid(x)``."""
    w = torch.tanh(torch.nn.functional.softplus(x))
    return t * (w + x * torch.sigmoid(x) * (1 - w * w))


mish_backward = with_autograd(aten.mish_backward.default, mish_formula)


def mish_second(t: Tensor, g: Tensor, x: Tensor) -> Tensor:
    """``(1 - w^2) s (2 + x (1 - s - 2 w s))``, ``w = tanh(softplus x)``."""
    s = torch.sigmoid(x)
    w = torch.tanh(torch.nn.functional.softplus(x))
    return t * (g * (1 - w * w) * s * (2 + x * (1 - s - 2 * w * s)))


def softplus_second(
    t: Tensor, g: Tensor, x: Tensor, beta: float, threshold: float
) -> Tensor:
    """``beta s (1 - s)`` with ``s = sigmoid(beta x)``; zero beyond the threshold."""
    z = x * beta
    s = torch.sigmoid(z)
    return torch.where(z > threshold, 0, t * (g * s * (1 - s) * beta))


def softplus_scale(t: Tensor, x: Tensor, beta: float = 1, threshold: float = 20) -> Any:
    """``sigmoid(beta x)`` by the fused kernel."""
    return aten.softplus_backward.default(t, x, beta, threshold)


def elu_scale(
    t: Tensor, x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Any:
    """``elu'`` by the fused kernel."""
    return aten.elu_backward.default(t, alpha, scale, input_scale, False, x)


def elu_second(
    t: Tensor,
    g: Tensor,
    alpha: float,
    scale: float,
    input_scale: float,
    is_result: bool,
    x: Tensor,
) -> Tensor:
    """Below zero ``g k x' + ...`` of ``g k a exp(k x)``, or of ``g k (y + a)``."""
    if is_result:
        return torch.where(x <= 0, t * (g * input_scale), 0)
    factor = alpha * scale * input_scale * input_scale
    curved = g * torch.exp(torch.clamp_max(x, 0) * input_scale) * factor
    return torch.where(x <= 0, t * curved, 0)


def elu_backward_batch(size: int, dims: Any, g: Tensor, *args: Any) -> Any:
    """Both tensors are batched at the front; the second is the last argument."""
    g = batched_at_front(g, dims[0], size)
    x = batched_at_front(args[-1], dims[-1], size)
    return aten.elu_backward.default(g, *args[:-1], x), 0


def celu_scale(t: Tensor, x: Tensor, alpha: float = 1) -> Any:
    """``celu`` is ``elu`` with the input scaled by ``1 / alpha``."""
    return aten.elu_backward.default(t, alpha, 1, 1 / alpha, False, x)


def logit_formula(t: Tensor, x: Tensor, eps: float | None = None) -> Tensor:
    """``logit' = 1 / (x (1 - x))``; zero where clamped, NaN where not defined."""
    low, rest = (0.0, math.nan) if eps is None else (eps, 0.0)
    return torch.where((x >= low) & (x <= 1 - low), t / (x * (1 - x)), rest)


logit_backward = with_autograd(aten.logit_backward.default, logit_formula)


def logit_second(t: Tensor, g: Tensor, x: Tensor, eps: float | None = None) -> Tensor:
    """``d 1 / (x (1 - x)) = (2 x - 1) / (x (1 - x))^2 dx``; zero where clamped."""
    square = x * (1 - x)
    curved = t * (g * (2 * x - 1) / (square * square))
    if eps is None:
        return curved
    return torch.where((x >= eps) & (x <= 1 - eps), curved, 0)


def log_sigmoid_linearize(wanted: Any, x: Tensor) -> Any:
    """``d log sigmoid(x) = sigmoid(-x) dx``; the second output is a buffer."""
    out, buffer = aten.log_sigmoid_forward.default(x)
    scale = Elementwise(aten.log_sigmoid_backward.default, x, buffer)
    return (out, buffer), (Output(scale, 0, 2),)


def log_sigmoid_batch(size: int, dims: Any, x: Tensor) -> Any:
    """The buffer is empty on CUDA and then not batched."""
    out, buffer = aten.log_sigmoid_forward.default(x)
    return (out, buffer), (dims[0], dims[0] if buffer.numel() == out.numel() else None)


def log_sigmoid_second(t: Tensor, g: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    """``d sigmoid(-x) = -s (1 - s) dx``."""
    s = torch.sigmoid(x)
    return t * (g * s * (s - 1))


def log_sigmoid_backward_batch(
    size: int, dims: Any, g: Tensor, x: Tensor, buffer: Tensor
) -> Any:
    """The buffer has the shape of ``x``, or on CUDA is empty and not batched."""
    if buffer.numel() or dims[2] is not None:
        buffer = batched_at_front(buffer, dims[2], size)
    g = batched_at_front(g, dims[0], size)
    x = batched_at_front(x, dims[1], size)
    return aten.log_sigmoid_backward.default(g, x, buffer), 0


def glu_linearize(wanted: Any, x: Tensor, dim: int = -1) -> Any:
    """``d (a s(b)) = s(b) da + a s(b) (1 - s(b)) db``; fused kernels for both ways."""
    out = torch.nn.functional.glu(x, dim)
    return out, (
        General(
            lambda t: glu_tangent(out, x, t, dim),
            lambda ct: aten.glu_backward.default(ct, x, dim),
        ),
    )


def glu_batch(size: int, dims: Any, x: Tensor, dim: int = -1) -> Any:
    """The dim moves with the batch dim."""
    x = to_front(x, dims[0])
    return torch.nn.functional.glu(x, physical(dim, x.dim() - 1)), 0


def glu_backward_decompose(g: Tensor, x: Tensor, dim: int) -> Tensor:
    """``g s`` and ``g a s (1 - s)`` side by side."""
    a, b = x.chunk(2, dim)
    s = torch.sigmoid(b)
    scaled = g * s
    return torch.cat((scaled, scaled * a * (1 - s)), dim)


def glu_tangent(out: Tensor, x: Tensor, t: Tensor, dim: int) -> Tensor:
    """``s(b) da + out (1 - s(b)) db``."""
    b = x.chunk(2, dim)[1]
    da, db = t.chunk(2, dim)
    s = torch.sigmoid(b)
    return da * s + db * (out - out * s)


def glu_backward_batch(size: int, dims: Any, g: Tensor, x: Tensor, dim: int) -> Any:
    """Both are batched at the front; the dim moves."""
    g = batched_at_front(g, dims[0], size)
    x = batched_at_front(x, dims[1], size)
    return aten.glu_backward.default(g, x, physical(dim, x.dim() - 1)), 0


RECORDS = (
    gradient_kernel(aten.tanh_backward.default, tanh_second),
    gradient_kernel(aten.sigmoid_backward.default, sigmoid_second),
    unary(aten.logit.default, logit_backward),
    unary(aten.silu.default, silu_scale),
    gradient_kernel(aten.silu_backward.default, silu_second, call=silu_backward),
    unary(aten.gelu.default, gelu_scale),
    gradient_kernel(aten.gelu_backward.default, gelu_second),
    unary(aten.mish.default, mish_backward),
    gradient_kernel(aten.mish_backward.default, mish_second, call=mish_backward),
    unary(aten.softplus.default, softplus_scale),
    gradient_kernel(aten.softplus_backward.default, softplus_second),
    unary(aten.elu.default, elu_scale),
    gradient_kernel(
        aten.elu_backward.default,
        None,
        None,
        None,
        None,
        elu_second,
        batch=elu_backward_batch,
    ),
    unary(aten.celu.default, celu_scale),
    gradient_kernel(aten.logit_backward.default, logit_second, call=logit_backward),
    Record(aten.log_sigmoid_forward.default, log_sigmoid_batch, log_sigmoid_linearize),
    gradient_kernel(
        aten.log_sigmoid_backward.default,
        log_sigmoid_second,
        None,
        batch=log_sigmoid_backward_batch,
    ),
    Record(aten.glu.default, glu_batch, glu_linearize),
    Record(
        aten.glu_backward.default, glu_backward_batch, decompose=glu_backward_decompose
    ),
)
