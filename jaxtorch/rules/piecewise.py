"""Piecewise linear activations (relu and its kin) and their backward kernels."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import elementwise
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.makers import gradient_kernel, unary, with_autograd
from jaxtorch.rules.record import Record

aten = torch.ops.aten

threshold_backward = aten.threshold_backward.default


def relu_scale(t: Tensor, y: Tensor) -> Any:
    """Keep ``t`` where the output is positive."""
    return threshold_backward(t, y, 0)


def leaky_relu_scale(t: Tensor, x: Tensor, slope: float = 0.01) -> Any:
    """One or the slope."""
    return aten.leaky_relu_backward.default(t, x, slope, False)


def hardtanh_scale(t: Tensor, x: Tensor, low: float = -1, high: float = 1) -> Any:
    """One strictly inside the interval."""
    return aten.hardtanh_backward.default(t, x, low, high)


def hardswish_second(t: Tensor, g: Tensor, x: Tensor) -> Tensor:
    """One third inside the curved piece."""
    return torch.where((x > -3) & (x < 3), t * (g * (1 / 3)), 0)


def softshrink_scale(t: Tensor, x: Tensor, lambd: float = 0.5) -> Any:
    """One outside the interval."""
    return aten.softshrink_backward.default(t, x, lambd)


def hardshrink_scale(t: Tensor, x: Tensor, lambd: float = 0.5) -> Any:
    """One outside the interval."""
    return aten.hardshrink_backward.default(t, x, lambd)


def hardsigmoid_formula(t: Tensor, x: Tensor) -> Tensor:
    """One sixth inside the sloping piece."""
    return torch.where((x > -3) & (x < 3), t * (1 / 6), 0)


hardsigmoid_backward = with_autograd(
    aten.hardsigmoid_backward.default, hardsigmoid_formula
)


def prelu_left(t: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """One or the weight."""
    return torch.where(x > 0, t, weight * t)


def prelu_right(t: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``x`` where it is not positive."""
    return torch.where(x > 0, 0, x * t)


def prelu_linearize(wanted: Any, x: Tensor, weight: Tensor) -> Any:
    """One or the weight for ``x``; for the weight ``x`` where it is negative."""
    out = torch._prelu_kernel(x, weight)
    return out, (
        wanted[0] and elementwise(prelu_left, x, out, x, weight),
        wanted[1] and elementwise(prelu_right, weight, out, x, weight),
    )


def expanding_batch(call: Any) -> Any:
    """Batch a kernel whose operands have one rank; the first has the output's shape."""

    def batch(size: int, dims: Any, *args: Tensor) -> Any:
        moved = [
            batched_at_front(arg, dim, size)
            for arg, dim in zip(args, dims, strict=True)
        ]
        return call(*moved), 0

    return batch


def prelu_backward_decompose(g: Tensor, x: Tensor, weight: Tensor) -> Any:
    """Both gradients, of the shape of ``x``."""
    return prelu_left(g, x, weight), prelu_right(g, x, weight)


def rrelu_with_noise_decompose(
    x: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Tensor:
    """The functional form, whose noise is then written."""
    out, drawn = aten.rrelu_with_noise_functional.default(
        x, noise, lower, upper, training, generator
    )
    if training:
        noise.copy_(drawn)
    return out  # type: ignore[no-any-return]


def rrelu_with_noise_backward_decompose(
    g: Tensor,
    x: Tensor,
    noise: Tensor,
    lower: float,
    upper: float,
    training: bool,
    self_is_result: bool,
) -> Any:
    """``g`` times the slopes that were drawn, or their mean when not training."""
    if training and upper - lower > 1e-6:
        return g * noise
    slope = (lower + upper) / 2
    return aten.leaky_relu_backward.default(g, x, slope, self_is_result)


RECORDS = (
    unary(aten.relu.default, relu_scale, "output"),
    gradient_kernel(aten.threshold_backward.default, None),
    unary(
        aten.threshold.default, lambda t, x, bound, _: threshold_backward(t, x, bound)
    ),
    unary(aten.leaky_relu.default, leaky_relu_scale),
    gradient_kernel(aten.leaky_relu_backward.default, None),
    unary(aten.hardtanh.default, hardtanh_scale),
    gradient_kernel(aten.hardtanh_backward.default, None),
    unary(aten.hardswish.default, lambda t, x: aten.hardswish_backward.default(t, x)),
    gradient_kernel(aten.hardswish_backward.default, hardswish_second),
    unary(aten.hardsigmoid.default, hardsigmoid_backward),
    gradient_kernel(aten.hardsigmoid_backward.default, None, call=hardsigmoid_backward),
    unary(aten.softshrink.default, softshrink_scale),
    gradient_kernel(aten.softshrink_backward.default, None),
    unary(aten.hardshrink.default, hardshrink_scale),
    gradient_kernel(aten.hardshrink_backward.default, None),
    Record(
        aten._prelu_kernel.default,
        expanding_batch(torch._prelu_kernel),
        prelu_linearize,
    ),
    Record(
        aten._prelu_kernel_backward.default,
        expanding_batch(aten._prelu_kernel_backward.default),
        decompose=prelu_backward_decompose,
    ),
    Record(aten.rrelu_with_noise.default, decompose=rrelu_with_noise_decompose),
    Record(
        aten.rrelu_with_noise_backward.default,
        decompose=rrelu_with_noise_backward_decompose,
    ),
)
