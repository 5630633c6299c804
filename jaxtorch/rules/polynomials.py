"""Orthogonal polynomials; their order is piecewise constant, as with floor."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverloadPacket

from jaxtorch.linear.diagonal import elementwise
from jaxtorch.rules.batching import binary_batch
from jaxtorch.rules.makers import ZERO
from jaxtorch.rules.record import Record

aten = torch.ops.aten
special = torch.special
Slope = Callable[[Tensor, Any], Any]

# Terms that leave no error in float64 where the first ratio is below one half.
TERMS = 12


def hypergeometric(upper: Sequence[Any], c: float, z: Tensor) -> Tensor:
    """The first terms of ``pF1(upper; c; z)``.

    Each is the one before it times ``z prod_i (upper_i + k) / ((c + k) (1 + k))``.
    """
    total = term = torch.ones_like(z)
    for k in range(TERMS):
        term = term * (z / ((c + k) * (1 + k)))
        for a in upper:
            term = term * (a + k)
        total = total + term
    return total


def on_interval(
    x: Tensor, n: Any, far: Callable[[Tensor], Any], near: Callable[[Tensor], Any]
) -> Tensor:
    """The derivative of a polynomial that is even for even n: ``far(x)``.

    Where that cancels it is ``near((1 - |x|) / 2)``, times the sign of the reflection.
    """
    gap = 1 - torch.abs(x)
    close = torch.abs(gap) * (n + 1) ** 2 < 1
    sign = torch.where(x < 0, 2 * (n % 2) - 1, 1)
    inner = near(torch.where(close, gap / 2, 0)) * sign
    return torch.where(close, inner, far(torch.where(close, 0, x)))


def t_slope(x: Tensor, n: Any) -> Any:
    """``T_n' = n U_{n-1}``."""
    return n * special.chebyshev_polynomial_u(x, n - 1)


def u_slope(x: Tensor, n: Any) -> Any:
    """``U_n' = ((n + 1) T_{n+1} - x U_n) / (x^2 - 1)``.

    Near 1 it is ``n (n + 1) (n + 2) / 3 2F1(1 - n, n + 3; 5/2; (1 - x) / 2)``.
    """

    def far(x: Tensor) -> Any:
        own = (n + 1) * special.chebyshev_polynomial_t(x, n + 1)
        return (own - x * special.chebyshev_polynomial_u(x, n)) / (x * x - 1)

    def near(z: Tensor) -> Any:
        return n * (n + 1) * (n + 2) / 3 * hypergeometric((1 - n, n + 3), 2.5, z)

    return on_interval(x, n, far, near)


def v_slope(x: Tensor, n: Any) -> Any:
    """``V_n = U_n - U_{n-1}``."""
    return u_slope(x, n) - u_slope(x, n - 1)


def w_slope(x: Tensor, n: Any) -> Any:
    """``W_n = U_n + U_{n-1}``."""
    return u_slope(x, n) + u_slope(x, n - 1)


def h_slope(x: Tensor, n: Any) -> Any:
    """``H_n' = 2 n H_{n-1}``."""
    return 2 * n * special.hermite_polynomial_h(x, n - 1)


def he_slope(x: Tensor, n: Any) -> Any:
    """``He_n' = n He_{n-1}``."""
    return n * special.hermite_polynomial_he(x, n - 1)


def l_slope(x: Tensor, n: Any) -> Any:
    """``L_n' = n (L_n - L_{n-1}) / x``; near 0 ``-n 1F1(1 - n; 2; x)``."""
    close = torch.abs(x) * (n + 1) < 1
    away = torch.where(close, 1, x)
    own = special.laguerre_polynomial_l
    far = (own(away, n) - own(away, n - 1)) / away
    series = hypergeometric((1 - n,), 2, torch.where(close, x, 0))
    return n * torch.where(close, -series, far)


def p_slope(x: Tensor, n: Any) -> Any:
    """``P_n' = n (x P_n - P_{n-1}) / (x^2 - 1)``.

    Near 1 it is ``n (n + 1) / 2 2F1(1 - n, n + 2; 2; (1 - x) / 2)``.
    """
    own = special.legendre_polynomial_p

    def far(x: Tensor) -> Any:
        return n * (x * own(x, n) - own(x, n - 1)) / (x * x - 1)

    def near(z: Tensor) -> Any:
        return n * (n + 1) / 2 * hypergeometric((1 - n, n + 2), 2, z)

    return on_interval(x, n, far, near)


def shifted(slope: Slope) -> Slope:
    """The shifted polynomial at x is the other at ``2 x - 1``."""
    return lambda x, n: 2 * slope(2 * x - 1, n)


SLOPES = (
    (aten.special_chebyshev_polynomial_t, t_slope),
    (aten.special_chebyshev_polynomial_u, u_slope),
    (aten.special_chebyshev_polynomial_v, v_slope),
    (aten.special_chebyshev_polynomial_w, w_slope),
    (aten.special_hermite_polynomial_h, h_slope),
    (aten.special_hermite_polynomial_he, he_slope),
    (aten.special_laguerre_polynomial_l, l_slope),
    (aten.special_legendre_polynomial_p, p_slope),
    (aten.special_shifted_chebyshev_polynomial_t, shifted(t_slope)),
    (aten.special_shifted_chebyshev_polynomial_u, shifted(u_slope)),
    (aten.special_shifted_chebyshev_polynomial_v, shifted(v_slope)),
    (aten.special_shifted_chebyshev_polynomial_w, shifted(w_slope)),
)


def polynomial(packet: OpOverloadPacket, slope: Slope, name: str) -> Record:
    """Make the record of one overload; a negative order is the zero polynomial."""

    def scale(t: Tensor, x: Tensor, n: Any) -> Any:
        if isinstance(n, Tensor):
            order = torch.clamp(torch.trunc(n), min=0).to(t.dtype)
        else:
            order = max(math.trunc(n), 0)
        return t * slope(x, order)

    def linearize(wanted: Any, x: Any, n: Any) -> Any:
        out = packet(x, n)
        return out, (wanted[0] and elementwise(scale, x, out, x, n), ZERO)

    return Record(getattr(packet, name), binary_batch(packet), linearize)


RECORDS = tuple(
    polynomial(packet, slope, name)
    for packet, slope in SLOPES
    for name in ("default", "x_scalar", "n_scalar")
)
