"""Special functions: error functions, gamma, Bessel and their relatives."""

import math
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.errors import MissingRuleError, explain
from jaxtorch.linear.diagonal import Elementwise, elementwise
from jaxtorch.rules.batching import binary_batch
from jaxtorch.rules.makers import ZERO, unary
from jaxtorch.rules.record import Record

aten = torch.ops.aten
ROOT_PI = math.sqrt(math.pi)


def erf_scale(t: Tensor, x: Tensor) -> Tensor:
    """``d erf(x) = 2 / sqrt(pi) exp(-x^2) dx``."""
    return t * (torch.exp(-(x * x)) * (2 / ROOT_PI))


def erfc_scale(t: Tensor, x: Tensor) -> Tensor:
    """``d erfc(x) = -2 / sqrt(pi) exp(-x^2) dx``."""
    return t * (torch.exp(-(x * x)) * (-2 / ROOT_PI))


def erfinv_scale(t: Tensor, y: Tensor) -> Tensor:
    """``d erfinv(x) = sqrt(pi) / 2 exp(y^2) dx``."""
    return t * (torch.exp(y * y) * (ROOT_PI / 2))


def erfcx_scale(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``d erfcx(x) = (2 x y - 2 / sqrt(pi)) dx``."""
    return t * (x * y * 2 - 2 / ROOT_PI)


def ndtri_scale(t: Tensor, y: Tensor) -> Tensor:
    """``d ndtri(x) = sqrt(2 pi) exp(y^2 / 2) dx``."""
    return t * (torch.exp(y * y * 0.5) * math.sqrt(2 * math.pi))


def log_ndtr_scale(t: Tensor, x: Tensor) -> Any:
    """``d log ndtr(x) = sqrt(2 / pi) / erfcx(-x / sqrt(2)) dx``."""
    tail = torch.special.erfcx(x * -math.sqrt(0.5))
    return t * (math.sqrt(2 / math.pi) / tail)


def entr_scale(t: Tensor, x: Tensor) -> Tensor:
    """``d (-x log x) = -(log x + 1) dx``."""
    return t * (-1 - torch.log(x))


def polygamma_linearize(wanted: Any, order: int, x: Tensor) -> Any:
    """``d polygamma(n, x) = polygamma(n + 1, x) dx``."""
    out = torch.polygamma(order, x)
    return out, (
        None,
        Elementwise(lambda t, x: t * torch.polygamma(order + 1, x), x),
    )


def polygamma_inplace_decompose(x: Tensor, order: int) -> Tensor:
    """The out-of-place form takes its arguments in the other order."""
    return x.copy_(torch.polygamma(order, x))


def mvlgamma_scale(t: Tensor, x: Tensor, p: int) -> Tensor:
    """``d mvlgamma_p(x) = sum_j digamma(x - j / 2) dx``."""
    total = torch.digamma(x)
    for j in range(1, p):
        total = total + torch.digamma(x - j / 2)
    return t * total


def over_argument(numerator: Tensor, x: Tensor, limit: Any) -> Tensor:
    """``numerator / x``, and ``limit`` at x = 0."""
    origin = x == 0
    return torch.where(origin, limit, numerator / torch.where(origin, 1, x))


def i0e_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d exp(-|x|) I0(x) = (i1e - sgn(x) i0e) dx``."""
    return t * (torch.special.i1e(x) - torch.sgn(x) * y)


def i1_scale(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``d I1(x) = (I0 - I1 / x) dx``; a series at 0."""
    return t * (torch.i0(x) - over_argument(y, x, 0.5 - x * x * (1 / 16)))


def i1e_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d exp(-|x|) I1(x) = (i0e - i1e (sgn(x) + 1 / x)) dx``."""
    ratio = over_argument(y, x, 0.5)
    return t * (torch.special.i0e(x) - torch.sgn(x) * y - ratio)


def j1_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d J1(x) = (J0 - J1 / x) dx``; a series at 0."""
    ratio = over_argument(y, x, 0.5 - x * x * (1 / 16))
    return t * (torch.special.bessel_j0(x) - ratio)


def y1_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d Y1(x) = (Y0 - Y1 / x) dx``."""
    return t * (torch.special.bessel_y0(x) - y / x)


def modified_i1_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d I1(x) = (I0 - I1 / x) dx``; a series at 0."""
    ratio = over_argument(y, x, 0.5 + x * x * (1 / 16))
    return t * (torch.special.modified_bessel_i0(x) - ratio)


def k1_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d K1(x) = -(K0 + K1 / x) dx``."""
    return t * -(torch.special.modified_bessel_k0(x) + y / x)


def scaled_k0_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d exp(x) K0(x) = (scaled K0 - scaled K1) dx``."""
    return t * (y - torch.special.scaled_modified_bessel_k1(x))


def scaled_k1_scale(t: Tensor, x: Tensor, y: Tensor) -> Any:
    """``d exp(x) K1(x) = (scaled K1 (1 - 1 / x) - scaled K0) dx``."""
    return t * (y - y / x - torch.special.scaled_modified_bessel_k0(x))


def spherical_j0_scale(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``d (sin(x) / x) = (cos(x) - y) / x dx``; a series at 0."""
    return t * over_argument(torch.cos(x) - y, x, x * (-1 / 3))


def refuse(overload: OpOverload, argument: str) -> MissingRuleError:
    """Return the error for a derivative that has no closed form in PyTorch's ops."""
    return MissingRuleError(
        explain(
            str(overload),
            f"the derivative with respect to {argument} is not implemented.",
            f"detach {argument}, or write the function with other operators",
        )
    )


def igamma_linearize(overload: OpOverload, call: Any, sign: float) -> Any:
    """``d P(a, x) = x^(a-1) exp(-x) / Gamma(a) dx``; minus that for Q."""

    def scale(t: Tensor, a: Tensor, x: Tensor) -> Tensor:
        exponent = (a - 1) * torch.log(x) - x - torch.lgamma(a)
        return t * (torch.exp(exponent) * sign)

    def linearize(wanted: Any, a: Tensor, x: Tensor) -> Any:
        if wanted[0]:
            raise refuse(overload, "the first argument")
        out = call(a, x)
        return out, (ZERO, elementwise(scale, x, out, a, x))

    return linearize


def zeta_linearize(overload: OpOverload) -> Any:
    """``d zeta(s, q) = -s zeta(s + 1, q) dq``."""

    def scale(t: Tensor, s: Any, q: Any) -> Any:
        return t * (torch.special.zeta(s + 1, q) * -s)

    def linearize(wanted: Any, s: Any, q: Any) -> Any:
        if wanted[0]:
            raise refuse(overload, "the first argument")
        out = torch.special.zeta(s, q)
        return out, (ZERO, wanted[1] and elementwise(scale, q, out, s, q))

    return linearize


RECORDS = (
    unary(aten.erf.default, erf_scale),
    unary(aten.erfc.default, erfc_scale),
    unary(aten.erfinv.default, erfinv_scale, "output"),
    unary(aten.special_erfcx.default, erfcx_scale, "both"),
    unary(aten.special_ndtri.default, ndtri_scale, "output"),
    unary(aten.special_log_ndtr.default, log_ndtr_scale),
    unary(aten.special_entr.default, entr_scale),
    unary(aten.lgamma.default, lambda t, x: t * torch.digamma(x)),
    unary(aten.digamma.default, lambda t, x: t * torch.polygamma(1, x)),
    Record(
        aten.polygamma.default,
        lambda size, dims, n, x: (torch.polygamma(n, x), dims[1]),
        polygamma_linearize,
    ),
    Record(aten.polygamma_.default, decompose=polygamma_inplace_decompose),
    unary(aten.mvlgamma.default, mvlgamma_scale),
    unary(aten.i0.default, lambda t, x: t * torch.special.i1(x)),
    unary(aten.special_i0e.default, i0e_scale, "both"),
    unary(aten.special_i1.default, i1_scale, "both"),
    unary(aten.special_i1e.default, i1e_scale, "both"),
    unary(aten.special_bessel_j0.default, lambda t, x: t * -torch.special.bessel_j1(x)),
    unary(aten.special_bessel_j1.default, j1_scale, "both"),
    unary(aten.special_bessel_y0.default, lambda t, x: t * -torch.special.bessel_y1(x)),
    unary(aten.special_bessel_y1.default, y1_scale, "both"),
    unary(
        aten.special_modified_bessel_i0.default,
        lambda t, x: t * torch.special.modified_bessel_i1(x),
    ),
    unary(aten.special_modified_bessel_i1.default, modified_i1_scale, "both"),
    unary(
        aten.special_modified_bessel_k0.default,
        lambda t, x: t * -torch.special.modified_bessel_k1(x),
    ),
    unary(aten.special_modified_bessel_k1.default, k1_scale, "both"),
    unary(aten.special_scaled_modified_bessel_k0.default, scaled_k0_scale, "both"),
    unary(aten.special_scaled_modified_bessel_k1.default, scaled_k1_scale, "both"),
    unary(aten.special_spherical_bessel_j0.default, spherical_j0_scale, "both"),
    Record(
        aten.igamma.default,
        binary_batch(torch.igamma),
        igamma_linearize(aten.igamma.default, torch.igamma, 1),
    ),
    Record(
        aten.igammac.default,
        binary_batch(torch.igammac),
        igamma_linearize(aten.igammac.default, torch.igammac, -1),
    ),
    *(
        Record(overload, binary_batch(torch.special.zeta), zeta_linearize(overload))
        for overload in (
            aten.special_zeta.default,
            aten.special_zeta.other_scalar,
            aten.special_zeta.self_scalar,
        )
    ),
)
