"""Arithmetic: the elementwise operators of two operands, and sums of them."""

import math
from operator import mul, neg
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import Broadcast
from jaxtorch.linear.cast import promoted
from jaxtorch.linear.diagonal import Elementwise, elementwise
from jaxtorch.linear.operator import Identity, LinearOperator, Output
from jaxtorch.rules.batching import (
    align,
    batched_at_front,
    binary_batch,
    broadcasting_batch,
    unary_batch,
)
from jaxtorch.rules.makers import binary, no_derivatives, unary
from jaxtorch.rules.record import Record

aten = torch.ops.aten

IDENTITY = Identity()
mul_batch = binary_batch(torch.mul)


def passed_on(operand: Tensor, out: Tensor) -> LinearOperator:
    """Return the operator of a summand: broadcasting and promotion, mostly neither."""
    operator: LinearOperator = IDENTITY
    if operand.shape != out.shape:
        operator = Broadcast(operand.shape, out.shape)
    return operator if operand.dtype is out.dtype else promoted(operator, operand, out)


def add(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """``x + alpha y``, by the operator where it serves: it is quicker on wrappers."""
    return x + y if alpha == 1 else torch.add(x, y, alpha=alpha)


def sub(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """``x - alpha y``, by the operator where it serves."""
    return x - y if alpha == 1 else torch.sub(x, y, alpha=alpha)


def mul_linearize(wanted: Any, x: Any, y: Any) -> Any:
    """``d(xy) = y dx + x dy``."""
    out = x * y
    return out, (
        wanted[0] and elementwise(mul, x, out, y),
        wanted[1] and elementwise(mul, y, out, x),
    )


def add_linearize(wanted: Any, x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """``d(x + alpha y) = dx + alpha dy``."""
    out = add(x, y, alpha=alpha)
    left = right = None
    if wanted[0]:
        left = passed_on(x, out)
    if wanted[1]:
        right = passed_on(y, out) if alpha == 1 else elementwise(mul, y, out, alpha)
    return out, (left, right)


def sub_linearize(wanted: Any, x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """``d(x - alpha y) = dx - alpha dy``."""
    out = sub(x, y, alpha=alpha)
    left = right = None
    if wanted[0]:
        left = passed_on(x, out)
    if wanted[1]:
        if alpha == 1:
            right = elementwise(neg, y, out)
        else:
            right = elementwise(mul, y, out, -alpha)
    return out, (left, right)


def rsub_linearize(wanted: Any, x: Tensor, y: Any, alpha: Any = 1) -> Any:
    """``d(y - alpha x) = dy - alpha dx``."""
    out = torch.rsub(x, y, alpha=alpha)
    left = right = None
    if wanted[0]:
        left = elementwise(mul, x, out, -alpha)
    if wanted[1]:
        right = passed_on(y, out)
    return out, (left, right)


def add_scalar_linearize(wanted: Any, x: Tensor, y: Any, alpha: Any = 1) -> Any:
    """``d(x + alpha n) = dx``."""
    out = torch.add(x, y, alpha=alpha)
    return out, (passed_on(x, out),)


def sub_scalar_linearize(wanted: Any, x: Tensor, y: Any, alpha: Any = 1) -> Any:
    """``d(x - alpha n) = dx``."""
    out = torch.sub(x, y, alpha=alpha)
    return out, (passed_on(x, out),)


def div_left(t: Tensor, x: Any, y: Any, out: Tensor) -> Any:
    """``d(x / y) = dx / y``."""
    return t / y


def div_right(t: Tensor, x: Any, y: Any, out: Tensor) -> Any:
    """``d(x / y) = -(x / y) / y dy``."""
    return t * (out / -y)


def div_mode_linearize(
    wanted: Any, x: Any, y: Any, *, rounding_mode: str | None = None
) -> Any:
    """A rounded quotient is piecewise constant."""
    out = torch.div(x, y, rounding_mode=rounding_mode)
    if rounding_mode is not None:
        return out, ()
    return out, (
        wanted[0] and elementwise(div_left, x, out, x, y, out),
        wanted[1] and elementwise(div_right, y, out, x, y, out),
    )


def twice_times(t: Tensor, x: Tensor) -> Tensor:
    """``d(x^2) = 2 x dx``."""
    return t * (x + x)


def pow_scalar_linearize(wanted: Any, x: Tensor, exponent: Any) -> Any:
    """``d(x^n) = n x^(n-1) dx``; zero for n = 0."""
    out = torch.pow(x, exponent)
    if exponent == 2:
        return out, (elementwise(twice_times, x, out, x),)
    if exponent == 0:
        return out, ()

    def scale(t: Tensor, x: Tensor) -> Any:
        return t * (torch.pow(x, exponent - 1) * exponent)

    return out, (elementwise(scale, x, out, x),)


def pow_base(t: Tensor, x: Any, y: Any, out: Tensor) -> Tensor:
    """``d(x^y) = y x^(y-1) dx``; zero where y = 0, also at x = 0."""
    return t * torch.where(y == 0, 0, y * torch.pow(x, y - 1))


def pow_exponent(t: Tensor, x: Any, y: Any, out: Tensor) -> Tensor:
    """``d(x^y) = x^y log(x) dy``; zero where x = 0 and y >= 0."""
    real = torch.real(y) if y.is_complex() else y
    if not isinstance(x, Tensor):
        if x != 0:
            logarithm = math.log(x) if isinstance(x, (int, float)) and x > 0 else None
            if logarithm is not None:
                return t * (out * logarithm)
        x = torch.full_like(out, x)
    flat = (x == 0) & (real >= 0)
    return t * torch.where(flat, 0, out * torch.log(torch.where(flat, 1, x)))


def remainder_right(t: Tensor, x: Any, y: Any) -> Tensor:
    """``x mod y = x - y floor(x / y)``."""
    return -t * torch.div(x, y, rounding_mode="floor")


def fmod_right(t: Tensor, x: Any, y: Any) -> Tensor:
    """``fmod(x, y) = x - y trunc(x / y)``."""
    return -t * torch.div(x, y, rounding_mode="trunc")


def first(t: Tensor, *unused: Any) -> Tensor:
    """The derivative is one."""
    return t


def lerp_linearize(wanted: Any, x: Tensor, end: Tensor, weight: Any) -> Any:
    """``d(x + w (end - x)) = (1 - w) dx + w dend + (end - x) dw``."""
    out = torch.lerp(x, end, weight)
    return out, (
        wanted[0] and elementwise(lambda t, w: t * (1 - w), x, out, weight),
        wanted[1] and elementwise(mul, end, out, weight),
        wanted[2] and elementwise(lambda t, x, end: t * (end - x), weight, out, x, end),
    )


def addcmul_linearize(
    wanted: Any, x: Tensor, y: Tensor, z: Tensor, *, value: Any = 1
) -> Any:
    """``d(x + v y z) = dx + v z dy + v y dz``."""
    out = torch.addcmul(x, y, z, value=value)

    def scale(t: Tensor, factor: Tensor) -> Tensor:
        return t * factor if value == 1 else t * (factor * value)

    return out, (
        wanted[0] and passed_on(x, out),
        wanted[1] and elementwise(scale, y, out, z),
        wanted[2] and elementwise(scale, z, out, y),
    )


def addcdiv_linearize(
    wanted: Any, x: Tensor, y: Tensor, z: Tensor, *, value: Any = 1
) -> Any:
    """``d(x + v y / z) = dx + v dy / z - v y / z^2 dz``."""
    out = torch.addcdiv(x, y, z, value=value)
    return out, (
        wanted[0] and passed_on(x, out),
        wanted[1] and elementwise(lambda t, z: t * (value / z), y, out, z),
        wanted[2]
        and elementwise(lambda t, y, z: t * (y * -value / (z * z)), z, out, y, z),
    )


def copysign_left(t: Tensor, x: Any, y: Any, out: Tensor) -> Tensor:
    """``out / x``, one or minus one; zero at x = 0."""
    return t * (torch.sgn(x) * torch.sgn(out))


def hypot_side(t: Tensor, side: Tensor, out: Tensor) -> Tensor:
    """``d hypot = side / hypot``; zero at the origin."""
    return t * torch.where(out == 0, 0, side / out)


def ldexp_batch(size: int, dims: Any, x: Tensor, y: Tensor) -> Any:
    """A product with ``2^y``; the kernel for whole y does not broadcast x."""
    if y.is_floating_point() or y.is_complex():
        return mul_batch(size, dims, x, torch.pow(2.0, y))
    x, y = align((batched_at_front(x, dims[0], size), y), (0, dims[1]))
    return torch.ldexp(x.expand_as(x * y), y), 0


def ldexp_linearize(wanted: Any, x: Tensor, y: Tensor) -> Any:
    """``d(x 2^y) = 2^y dx + log(2) x 2^y dy``."""
    out = torch.ldexp(x, y)
    shape = out.shape

    def left(t: Tensor, y: Tensor) -> Tensor:
        return torch.ldexp(t.expand(shape), y)

    def right(t: Tensor, out: Tensor) -> Tensor:
        return t * (out * math.log(2))

    return out, (
        wanted[0] and elementwise(left, x, out, y),
        wanted[1] and elementwise(right, y, out, out),
    )


def xlogy_left(t: Tensor, x: Any, y: Any) -> Tensor:
    """``d(x log y) = log(y) dx``; zero where x = 0 and y <= 0."""
    return torch.xlogy(t, y).masked_fill((x == 0) & (y <= 0), 0)


def xlog1py_left(t: Tensor, x: Any, y: Any) -> Any:
    """``d(x log1p y) = log1p(y) dx``; zero where x = 0 and y <= -1."""
    return torch.special.xlog1py(t, y).masked_fill((x == 0) & (y <= -1), 0)


def atan2_left(t: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``d atan2(y, x) = x dy / (x^2 + y^2)``."""
    return t * (x / (x * x + y * y))


def atan2_right(t: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``d atan2(y, x) = -y dx / (x^2 + y^2)``."""
    return t * (-y / (x * x + y * y))


def logaddexp2_left(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``d log2(2^x + 2^y) = 2^x / (2^x + 2^y) dx``."""
    return t * torch.sigmoid((x - y) * math.log(2))


def nextafter_left(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """One where the step leads away from x, zero where x = y (as torch.autograd)."""
    return torch.masked_fill(t, x == y, 0)


def frexp_linearize(wanted: Any, x: Tensor) -> Any:
    """``d mantissa = 2^-exponent dx``; the exponent is piecewise constant."""
    mantissa, exponent = torch.frexp(x)
    scale = Elementwise(lambda t, e: t * torch.exp2(-e.to(t.dtype)), exponent)
    return (mantissa, exponent), (Output(scale, 0, 2),)


RECORDS = (
    Record(aten.mul.Tensor, binary_batch(mul), mul_linearize),
    Record(aten.mul.Scalar, unary_batch(torch.mul), mul_linearize),
    Record(aten.add.Tensor, binary_batch(add), add_linearize),
    Record(aten.add.Scalar, unary_batch(aten.add.Scalar), add_scalar_linearize),
    Record(aten.sub.Tensor, binary_batch(sub), sub_linearize),
    Record(aten.sub.Scalar, unary_batch(aten.sub.Scalar), sub_scalar_linearize),
    Record(aten.rsub.Tensor, binary_batch(torch.rsub), rsub_linearize),
    Record(aten.rsub.Scalar, unary_batch(aten.rsub.Scalar), rsub_linearize),
    binary(aten.div.Tensor, div_left, div_right, saves_output=True),
    binary(aten.div.Scalar, div_left, None, saves_output=True),
    Record(aten.div.Tensor_mode, binary_batch(torch.div), div_mode_linearize),
    Record(aten.div.Scalar_mode, unary_batch(torch.div), div_mode_linearize),
    Record(aten.pow.Tensor_Scalar, unary_batch(torch.pow), pow_scalar_linearize),
    binary(aten.pow.Tensor_Tensor, pow_base, pow_exponent, saves_output=True),
    binary(aten.pow.Scalar, None, pow_exponent, saves_output=True),
    unary(aten.neg.default, lambda t, x: -t),
    unary(aten.reciprocal.default, lambda t, y: t * (y * -y), "output"),
    binary(aten.remainder.Tensor, first, remainder_right),
    binary(aten.remainder.Scalar, first, None),
    binary(aten.remainder.Scalar_Tensor, None, remainder_right),
    binary(aten.fmod.Tensor, first, fmod_right),
    binary(aten.fmod.Scalar, first, None),
    *no_derivatives(aten.floor_divide, "default Scalar", binary_batch),
    Record(aten.lerp.Tensor, broadcasting_batch(torch.lerp), lerp_linearize),
    Record(aten.lerp.Scalar, broadcasting_batch(torch.lerp), lerp_linearize),
    Record(aten.addcmul.default, broadcasting_batch(torch.addcmul), addcmul_linearize),
    Record(aten.addcdiv.default, broadcasting_batch(torch.addcdiv), addcdiv_linearize),
    binary(aten.copysign.Tensor, copysign_left, None, saves_output=True),
    binary(aten.copysign.Scalar, copysign_left, None, saves_output=True),
    binary(
        aten.hypot.default,
        lambda t, x, y, out: hypot_side(t, x, out),
        lambda t, x, y, out: hypot_side(t, y, out),
        saves_output=True,
    ),
    Record(aten.ldexp.Tensor, ldexp_batch, ldexp_linearize),
    binary(aten.atan2.default, atan2_left, atan2_right),
    binary(aten.xlogy.Tensor, xlogy_left, lambda t, x, y: t * (x / y)),
    binary(aten.xlogy.Scalar_Other, xlogy_left, None),
    binary(aten.xlogy.Scalar_Self, None, lambda t, x, y: t * (x / y)),
    binary(
        aten.special_xlog1py.default, xlog1py_left, lambda t, x, y: t * (x / (y + 1))
    ),
    binary(aten.special_xlog1py.other_scalar, xlog1py_left, None),
    binary(aten.special_xlog1py.self_scalar, None, lambda t, x, y: t * (x / (y + 1))),
    binary(
        aten.logaddexp.default,
        lambda t, x, y: t * torch.sigmoid(x - y),
        lambda t, x, y: t * torch.sigmoid(y - x),
    ),
    binary(
        aten.logaddexp2.default,
        logaddexp2_left,
        lambda t, x, y: logaddexp2_left(t, y, x),
    ),
    binary(aten.nextafter.default, nextafter_left, None),
    Record(aten.frexp.Tensor, unary_batch(torch.frexp), frexp_linearize),
    *no_derivatives(aten.heaviside, "default", binary_batch),
    *no_derivatives(aten.gcd, "default", binary_batch),
    *no_derivatives(aten.lcm, "default", binary_batch),
)
