"""Derivatives of orthogonal polynomials against their recurrences, also at the ends."""

import pytest
import torch

from jaxtorch import grad, vmap

special = torch.special
# Where the closed forms have a limit (the ends, 0), close to it, inside and outside.
POINTS = torch.tensor(
    [-1, 1, 0, 0.5, -0.98, 0.999999, -1 + 1e-12, 1 + 1e-9, -0.3, 0.7, 1.3, -2.1, 1e-7],
    dtype=torch.float64,
)
ORDERS = (0, 1, 2, 5, 9, 14)


def chebyshev(scale, shift):
    """``p_1 = scale x + shift``, ``p_{k+1} = 2 x p_k - p_{k-1}``."""

    def at(x, n):
        before, now = torch.ones_like(x), scale * x + shift
        for _ in range(n):
            before, now = now, 2 * x * now - before
        return before

    return at


def recurrence(first, step):
    """Return a recurrence that starts with 1, ``first(x)``."""

    def at(x, n):
        before, now = torch.ones_like(x), first(x)
        for k in range(1, n + 1):
            before, now = now, step(x, k, now, before)
        return before

    return at


ORACLES = {
    "chebyshev_polynomial_t": chebyshev(1, 0),
    "chebyshev_polynomial_u": chebyshev(2, 0),
    "chebyshev_polynomial_v": chebyshev(2, -1),
    "chebyshev_polynomial_w": chebyshev(2, 1),
    "hermite_polynomial_h": recurrence(
        lambda x: 2 * x, lambda x, k, p, q: 2 * x * p - 2 * k * q
    ),
    "hermite_polynomial_he": recurrence(lambda x: x, lambda x, k, p, q: x * p - k * q),
    "laguerre_polynomial_l": recurrence(
        lambda x: 1 - x, lambda x, k, p, q: ((2 * k + 1 - x) * p - k * q) / (k + 1)
    ),
    "legendre_polynomial_p": recurrence(
        lambda x: x, lambda x, k, p, q: ((2 * k + 1) * x * p - k * q) / (k + 1)
    ),
}
for _kind in "tuvw":
    _own = ORACLES[f"chebyshev_polynomial_{_kind}"]
    ORACLES[f"shifted_chebyshev_polynomial_{_kind}"] = lambda x, n, own=_own: own(
        2 * x - 1, n
    )


def slopes(at, n):
    """Return the first and the second derivative at all points by torch.autograd."""
    x = POINTS.clone().requires_grad_()
    out = at(x, n) + 0 * x * x
    (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first.detach(), second


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("name", ORACLES)
def test_derivatives(name, n):
    call = getattr(special, name)
    first, second = slopes(ORACLES[name], n)
    order = torch.tensor(float(n))
    for own in (n, order.double(), order.long()):
        slope = grad(lambda x, own=own: call(x, own))
        found = vmap(slope)(POINTS)
        torch.testing.assert_close(found, first, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(vmap(grad(slope))(POINTS), second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_the_order_is_a_constant(name):
    call = getattr(special, name)
    x, n = torch.rand(5).double(), torch.tensor([-1.5, 0.5, 1.0, 2.7, 6.2]).double()
    by_x, by_n = grad(lambda x, n: call(x, n).sum(), argnums=(0, 1))(x, n)
    whole = grad(lambda x: call(x, torch.tensor([0, 0, 1, 2, 6])).sum())(x)
    torch.testing.assert_close(by_x, whole)
    assert not by_n.any()
