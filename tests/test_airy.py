"""Ai and Ai' against mpmath, and their derivatives of every kind."""

import mpmath
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacfwd, jit, jvp, vjp, vmap

AI = torch.special.airy_ai
SEAMS = (-4.0, 2.0)
"""Between these Ai' is computed in another way than outside."""
INTERVALS = ((-30.0, SEAMS[0]), SEAMS, (SEAMS[1], 30.0))


def points(low: float, high: float) -> Tensor:
    """Return numbers in an interval, with both ends."""
    return torch.linspace(low, high, 31, dtype=torch.float64)


def exact(x: Tensor, order: int) -> Tensor:
    """Return a derivative of Ai by mpmath."""
    with mpmath.workdps(30):
        rows = [float(mpmath.airyai(v, derivative=order)) for v in x.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


def envelope(x: Tensor) -> Tensor:
    """Return what an error of Ai' is relative to: the amplitude where it oscillates."""
    with mpmath.workdps(30):
        rows = [float(mpmath.airybi(min(v, 0), derivative=1)) for v in x.tolist()]
    other = torch.tensor(rows, dtype=torch.float64) * (x < 0)
    return torch.hypot(exact(x, 1), other)


EXACT = torch.cat([points(-20.0, -8.0), points(-2.0, 6.0)])
"""Where PyTorch's Ai is right: between -8 and -2.09 it is off by up to 3e-6."""


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_slope(low: float, high: float) -> None:
    x = points(low, high)
    _, slope = jvp(AI, (x,), (torch.ones_like(x),))
    error = (slope - exact(x, 1)) / envelope(x)
    assert error.abs().max() < 1e-13


def test_slopes_of_higher_order() -> None:
    x = EXACT
    func = AI
    for order in range(1, 5):
        func = grad(func)
        assert_close(vmap(func)(x), exact(x, order), rtol=1e-11, atol=1e-11)


def test_modes_agree() -> None:
    x = EXACT
    slope = exact(x, 1)
    assert_close(vjp(AI, x)[1](torch.ones_like(x))[0], slope)
    assert_close(vmap(jacfwd(AI))(x), slope)
    assert_close(vmap(grad(AI))(x), slope)
    assert_close(jit(vmap(grad(AI)))(x), slope)
    assert_close(jit(vmap(grad(grad(AI))))(x), x * AI(x))


def test_far_away_and_not_a_number() -> None:
    x = torch.tensor([200.0, 1e300, torch.inf, torch.nan, -torch.inf])
    expected = torch.tensor([0.0, 0.0, 0.0, torch.nan, torch.nan])
    for dtype in (torch.float32, torch.float64):
        own = x.to(dtype)
        _, slope = jvp(AI, (own,), (torch.ones_like(own),))
        assert_close(slope, expected.to(dtype), equal_nan=True)


def test_single_precision() -> None:
    x = points(-8.0, 6.0)
    assert_close(vmap(grad(AI))(x.float()), exact(x, 1).float(), rtol=1e-5, atol=2e-6)


def test_a_slope_that_torch_autograd_records() -> None:
    x = EXACT
    tracked = x.clone().requires_grad_()
    _, slope = jvp(AI, (tracked,), (torch.ones_like(x),))
    (own,) = torch.autograd.grad(slope.sum(), tracked)
    assert_close(own, x * AI(x), rtol=1e-9, atol=1e-9)
