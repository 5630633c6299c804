"""Comparison, logic, selection by a condition, and rounding: piecewise linear ops."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import Elementwise, drop_if, elementwise, keep_if
from jaxtorch.linear.operator import General
from jaxtorch.rules.batching import (
    align,
    align_promoted,
    binary_batch,
    promote,
    unary_batch,
)
from jaxtorch.rules.makers import binary, no_derivatives, unary
from jaxtorch.rules.record import Record

aten = torch.ops.aten

# Since torch 2.14 what clamp finds on a bound has no derivative where the bound is a
# number, and half of it where it is a tensor, which has the rest; before it has all.
SHARED = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)


def where_batch(size: int, dims: Any, condition: Tensor, x: Tensor, y: Tensor) -> Any:
    """Align the three; only ``x`` and ``y`` take part in type promotion."""
    if x.dtype is not y.dtype:
        x, y = promote((x, y), dims[1:])
    dim = dims[0]
    if dim == dims[1] == dims[2] and condition.dim() == x.dim() == y.dim():
        return torch.where(condition, x, y), dim
    return torch.where(*align((condition, x, y), dims)), 0


def where_linearize(wanted: Any, condition: Tensor, x: Tensor, y: Tensor) -> Any:
    """The tangent of the operand that was chosen."""
    out = torch.where(condition, x, y)
    if condition.dtype is not torch.bool:
        condition = condition != 0
    return out, (
        None,
        wanted[1] and elementwise(keep_if, x, out, condition),
        wanted[2] and elementwise(drop_if, y, out, condition),
    )


def larger(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Keep ``t`` where x > y, half of it at a tie (as torch.autograd does)."""
    return torch.where(x == y, t * 0.5, t).masked_fill(x < y, 0)


def chosen_first(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Keep ``t`` where fmax takes x: also at a tie, and where y is NaN."""
    return keep_if(t, (x >= y) | torch.isnan(y))


def chosen_second(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Keep ``t`` where fmax takes y."""
    return drop_if(t, (x >= y) | torch.isnan(y))


def chosen_first_min(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Keep ``t`` where fmin takes x: also at a tie, and where y is NaN."""
    return keep_if(t, (x <= y) | torch.isnan(y))


def chosen_second_min(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Keep ``t`` where fmin takes y."""
    return drop_if(t, (x <= y) | torch.isnan(y))


def unchanged(t: Tensor, x: Tensor, bound: Any, out: Tensor) -> Tensor:
    """Keep ``t`` where clamping did not change x, so also on the bound."""
    return torch.masked_fill(t, x != out, 0)


def clamp_batch(
    size: int, dims: Any, x: Tensor, low: Any = None, high: Any = None
) -> Any:
    """Numbers leave the batch dim in place; tensors broadcast."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.clamp(*align_promoted((x, low, high)[: len(dims)], dims)), 0
    return torch.clamp(x, low, high), dims[0]


def clamp_linearize(wanted: Any, x: Tensor, low: Any = None, high: Any = None) -> Any:
    """The tangent passes where x lies in the interval; ``SHARED`` says which."""
    out = torch.clamp(x, low, high)
    if SHARED:
        return out, (elementwise(inside, x, out, x, low, high),)
    if low is not None and high is not None and low > high:
        return out, ()
    return out, (elementwise(unchanged, x, out, x, None, out),)


def inside(t: Tensor, x: Tensor, low: Any, high: Any) -> Tensor:
    """Keep ``t`` in the open interval."""
    if low is not None:
        t = keep_if(t, x > low)
    return t if high is None else keep_if(t, x < high)


def clamp_tensor_linearize(
    wanted: Any, x: Tensor, low: Any = None, high: Any = None
) -> Any:
    """The tangent passes in the closed interval, that of a bound where it is taken."""
    out = torch.clamp(x, low, high)
    return out, [
        own and elementwise(scale, operand, out, x, low, high)
        for own, scale, operand in zip(wanted, CLAMP, (x, low, high), strict=False)
    ]


def clamp_pass(t: Tensor, x: Tensor, low: Any, high: Any) -> Tensor:
    """Keep ``t`` inside the interval, bounds included."""
    if low is None:
        return keep_if(t, x <= high)
    return keep_if(t, x >= low if high is None else (x >= low) & (x <= high))


def clamp_low(t: Tensor, x: Tensor, low: Tensor, high: Any) -> Tensor:
    """Keep ``t`` where the lower bound is the result."""
    below = x < low
    return keep_if(t, below if high is None else below & (low < high))


def clamp_high(t: Tensor, x: Tensor, low: Any, high: Tensor) -> Tensor:
    """Keep ``t`` where the upper bound is the result, also where the bounds cross."""
    above = x > high
    return keep_if(t, above if low is None else above | (high < low))


def shared_pass(t: Tensor, x: Tensor, low: Any, high: Any) -> Tensor:
    """Keep ``t`` inside the interval, half of it on one of the bounds."""
    if low is None or high is None:
        return larger(t, x, low) if high is None else larger(t, high, x)
    t = torch.where((x == low) ^ (x == high), t * 0.5, t)
    return drop_if(t, (x < low) | (x > high))


def shared_low(t: Tensor, x: Tensor, low: Tensor, high: Any) -> Tensor:
    """Keep ``t`` where the lower bound is the result, half of it where x is as well."""
    if high is None:
        return larger(t, low, x)
    t = torch.where(x == low, t * 0.5, t)
    return keep_if(t, (x < low) & (low <= high) | (x == low) & (low < high))


def shared_high(t: Tensor, x: Tensor, low: Any, high: Tensor) -> Tensor:
    """Keep ``t`` where the upper bound is the result, half of it where x is as well."""
    if low is None:
        return larger(t, x, high)
    tie = (x == high) & (low < high)
    t = torch.where(tie, t * 0.5, t)
    return keep_if(t, (x > high) | (high < low) | tie)


CLAMP = (clamp_pass, clamp_low, clamp_high)
if SHARED:
    CLAMP = (shared_pass, shared_low, shared_high)


def below_bound(t: Tensor, x: Tensor, high: Any, out: Tensor) -> Tensor:
    """Keep ``t`` where x is less than a number."""
    return inside(t, x, None, high) if SHARED else unchanged(t, x, high, out)


def above_bound(t: Tensor, x: Tensor, low: Any, out: Tensor) -> Tensor:
    """Keep ``t`` where x is greater than a number."""
    return inside(t, x, low, None) if SHARED else unchanged(t, x, low, out)


def abs_linearize(wanted: Any, x: Tensor) -> Any:
    """``d|x| = sgn(x) dx``; complex: ``Re(conj(sgn x) dx)``, adjoint ``sgn(x) ct``."""
    out = torch.abs(x)
    if not x.is_complex():
        return out, (Elementwise(abs_scale, x),)
    return out, (
        General(
            lambda t: torch.real(t * torch.conj_physical(torch.sgn(x))),
            lambda ct: ct * torch.sgn(x),
        ),
    )


def abs_scale(t: Tensor, x: Tensor) -> Tensor:
    """Multiply by the sign."""
    return t * torch.sgn(x)


def sgn_linearize(wanted: Any, x: Tensor) -> Any:
    """Zero for real x; ``(dx - s Re(conj(s) dx)) / |x|`` for complex, self-adjoint."""
    out = torch.sgn(x)
    if not x.is_complex():
        return out, ()

    def project(t: Tensor) -> Tensor:
        tangential = t - out * torch.real(torch.conj_physical(out) * t)
        size = torch.abs(x)
        origin = size == 0
        return torch.where(origin, 0, tangential / torch.where(origin, 1, size))

    return out, (General(project, project),)


def angle_linearize(wanted: Any, x: Tensor) -> Any:
    """Zero for real x; for complex ``Im(conj(x) dx) / |x|^2``, zero at the origin."""
    out = torch.angle(x)
    if not x.is_complex():
        return out, ()

    def direction() -> Tensor:
        square = torch.real(x) ** 2 + torch.imag(x) ** 2
        return 1j * torch.where(x == 0, 0, x / torch.where(x == 0, 1, square))

    return out, (
        General(
            lambda t: torch.real(torch.conj_physical(direction()) * t),
            lambda ct: ct * direction(),
        ),
    )


def nan_to_num_scale(t: Tensor, x: Tensor, *unused: Any) -> Tensor:
    """Zero where a number was put in the place of NaN or infinity."""
    return keep_if(t, torch.isfinite(x))


def pass_through(t: Tensor, x: Tensor, *unused: Any) -> Tensor:
    """The derivative is one."""
    return t


COMPARISONS = (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge)
LOGICAL = (aten.logical_and, aten.logical_or, aten.logical_xor)
BITWISE = (aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor)
SHIFTS = (aten.bitwise_left_shift, aten.bitwise_right_shift)
OPERATOR_FORMS = (
    aten.__and__,
    aten.__or__,
    aten.__xor__,
    aten.__lshift__,
    aten.__rshift__,
)
TESTS = (
    aten.logical_not,
    aten.bitwise_not,
    aten.isnan,
    aten.isinf,
    aten.isposinf,
    aten.isneginf,
    aten.signbit,
    aten.sign,
    aten.floor,
    aten.ceil,
    aten.trunc,
)

RECORDS = (
    *(r for p in COMPARISONS for r in no_derivatives(p, "Tensor Scalar", binary_batch)),
    *(r for p in LOGICAL for r in no_derivatives(p, "default", binary_batch)),
    *(
        r
        for p in BITWISE
        for r in no_derivatives(p, "Tensor Scalar Scalar_Tensor", binary_batch)
    ),
    *(
        r
        for p in SHIFTS
        for r in no_derivatives(p, "Tensor Tensor_Scalar Scalar_Tensor", binary_batch)
    ),
    *(
        r
        for p in OPERATOR_FORMS
        for r in no_derivatives(p, "Tensor Scalar", binary_batch)
    ),
    *(r for p in TESTS for r in no_derivatives(p, "default", unary_batch)),
    *no_derivatives(aten.round, "default decimals", unary_batch),
    unary(aten.frac.default, pass_through),
    Record(aten.where.self, where_batch, where_linearize),
    binary(aten.maximum.default, larger, lambda t, x, y: larger(t, y, x)),
    binary(
        aten.minimum.default,
        lambda t, x, y: larger(t, y, x),
        larger,
    ),
    binary(aten.fmax.default, chosen_first, chosen_second),
    binary(aten.fmin.default, chosen_first_min, chosen_second_min),
    Record(aten.clamp.default, clamp_batch, clamp_linearize),
    Record(aten.clamp.Tensor, clamp_batch, clamp_tensor_linearize),
    binary(aten.clamp_min.default, above_bound, None, saves_output=True),
    binary(aten.clamp_max.default, below_bound, None, saves_output=True),
    binary(
        aten.clamp_min.Tensor,
        lambda t, x, low: CLAMP[0](t, x, low, None),
        lambda t, x, low: CLAMP[1](t, x, low, None),
    ),
    binary(
        aten.clamp_max.Tensor,
        lambda t, x, high: CLAMP[0](t, x, None, high),
        lambda t, x, high: CLAMP[2](t, x, None, high),
    ),
    Record(aten.abs.default, unary_batch(torch.abs), abs_linearize),
    Record(aten.sgn.default, unary_batch(torch.sgn), sgn_linearize),
    Record(aten.angle.default, unary_batch(torch.angle), angle_linearize),
    unary(aten.nan_to_num.default, nan_to_num_scale),
)
