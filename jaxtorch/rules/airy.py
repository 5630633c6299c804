"""The Airy function Ai and its derivative, which PyTorch has no operator for.

``jaxtorch::airy_ai_prime`` is a primitive: ``Ai'' = x Ai`` closes all derivatives. Ai
is PyTorch's, which up to 2.13 is off by up to 3e-6 between -8 and -2.09; Ai' is not.
Polynomials in s, for s in [-1, 1], stand for four smooth functions: interpolations in
Chebyshev's points, whose error is below 1e-16. ``z`` is ``2/3 |x|^(3/2)``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.rules.batching import tracked
from jaxtorch.rules.makers import unary

LOW, HIGH = -4.0, 2.0
VANISHED = 200.0
"""From here on Ai is zero in float64; long before infinity, where it would be NaN."""

MIDDLE = (
    -0.010160567116645208,
    -1.6066826498770563,
    2.4557465268404868,
    2.318578870765779,
    -7.264363838465333,
    3.376983256468201,
    4.787710381147816,
    -6.327577087485993,
    1.1300996277083553,
    2.84282301354357,
    -2.2485672304172986,
    0.07561437942179289,
    0.7929465844680582,
    -0.4289170214594245,
    -0.027059354367105312,
    0.1281747686964074,
    -0.050685020940565186,
    -0.007106206013119664,
    0.01350693718691727,
    -0.004049773962660875,
    -0.0008525277434597436,
    0.0010006994084350606,
    -0.000232361005990831,
    -6.534753087499701e-05,
    5.541339614232731e-05,
    -1.003156509423779e-05,
    -3.909880561114236e-06,
    2.4117505173053773e-06,
    -1.7816360853305452e-07,
    -1.9104710199322453e-07,
    3.7451673457243574e-08,
    4.354087482539736e-09,
)
RIGHT = (
    0.28866116799251645,
    0.005984108184326564,
    -0.0004873131707822622,
    7.415963415806786e-05,
    -1.5315891405212927e-05,
    3.834579492031872e-06,
    -1.100007577730277e-06,
    3.4975073200626876e-07,
    -1.2064153830131598e-07,
    4.447493663037272e-08,
    -1.727194005684715e-08,
    7.027195525920879e-09,
    -3.155920060222655e-09,
    1.4528729322990941e-09,
    -3.544237392808071e-10,
    8.587070518340571e-11,
    -4.0876956868274974e-10,
    2.660351823797873e-10,
    1.3931125131044638e-10,
    -1.0072822975672442e-10,
    -6.209456411866645e-11,
    3.8606642594064957e-11,
)
P = (
    0.3992428793586404,
    0.0002939439490433801,
    -6.219767695980185e-06,
    3.8468520283412787e-07,
    -4.21188729641304e-08,
    6.628922101543058e-09,
    -1.3426742203812166e-09,
    3.2679605940664895e-10,
    -9.160451978352788e-11,
    3.0528784330113254e-11,
    -1.1085670858444163e-11,
    1.9823131009848385e-12,
    -3.8579686400430164e-13,
    1.5908874454306925e-12,
    -8.221485805579314e-13,
)
Q = (
    -0.03850194250181502,
    0.0002718076702587751,
    -1.1157393186563923e-05,
    9.796245702525523e-07,
    -1.3479542259893788e-07,
    2.5015509424774334e-08,
    -5.7510344562663166e-09,
    1.5532944644737513e-09,
    -4.706108504412839e-10,
    1.5705869786313905e-10,
    -6.769539161914999e-11,
    2.967944617284805e-11,
    -7.070982089989755e-13,
    -1.763611803920519e-12,
    -6.34747672608925e-12,
    3.6011763550187105e-12,
)


def polynomial(coefficients: Sequence[float], s: Tensor) -> Tensor:
    """Evaluate by Horner's rule; the constant comes first."""
    total = s * coefficients[-1]
    for c in reversed(coefficients[1:-1]):
        total = (total + c) * s
    return total + coefficients[0]


def middle(x: Tensor) -> Tensor:
    """``Ai'(x)`` for x in [LOW, HIGH]; s runs over the interval."""
    half = (HIGH - LOW) / 2
    return polynomial(MIDDLE, (x - (LOW + half)) / half)


def right(x: Tensor) -> Tensor:
    """``Ai'(x) = -x^(1/4) exp(-z) RIGHT(s)`` from HIGH on, ``s = 2 z(HIGH) / z - 1``.

    DLMF 9.7.6 is its expansion at s = -1.
    """
    root = torch.sqrt(x)
    z = x * root * (2 / 3)
    s = 4 / 3 * HIGH**1.5 / z - 1
    return -torch.sqrt(root) * torch.exp(-z) * polynomial(RIGHT, s)


def left(x: Tensor) -> Tensor:
    """``Ai'(-x) = x^(1/4) ((p - q) sin z - (p + q) cos z)`` from -LOW on.

    ``p = P(s)``, ``q = Q(s) / z`` and ``s = 2 (z(LOW) / z)^2 - 1``. DLMF 9.7.10 is the
    expansion of p and q at s = -1.
    """
    root = torch.sqrt(x)
    z = x * root * (2 / 3)
    s = 8 / 9 * (-LOW) ** 3 / (z * z) - 1
    p, q = polynomial(P, s), polynomial(Q, s) / z
    return torch.sqrt(root) * ((p - q) * torch.sin(z) - (p + q) * torch.cos(z))


def airy_ai_prime(x: Tensor) -> Tensor:
    """Return ``Ai'(x)``."""
    outer = torch.where(
        x > 0, right(x.clamp(HIGH, VANISHED)), left((-x).clamp(min=-LOW))
    )
    return torch.where((x < LOW) | (x > HIGH), outer, middle(x.clamp(LOW, HIGH)))


LIBRARY = torch.library.Library("jaxtorch", "FRAGMENT")
LIBRARY.define("airy_ai_prime(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
OVERLOAD: Any = torch.ops.jaxtorch.airy_ai_prime.default


def recorded(x: Tensor) -> Any:
    """Let torch.autograd see the calls that the primitive is made of."""
    if tracked(x):
        return airy_ai_prime(x)
    with torch._C._AutoDispatchBelowAutograd():
        return OVERLOAD(x)


LIBRARY.impl("airy_ai_prime", airy_ai_prime, "CompositeExplicitAutograd")
LIBRARY.impl("airy_ai_prime", recorded, "Autograd")

RECORDS = (
    unary(torch.ops.aten.special_airy_ai.default, lambda t, x: t * OVERLOAD(x)),
    unary(OVERLOAD, lambda t, x: t * (x * torch.special.airy_ai(x))),
)
