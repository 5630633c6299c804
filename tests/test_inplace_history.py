"""Writes under no_grad, into detached tensors and views: which derivative is kept."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacfwd, jacrev, jit, jvp, vjp, vmap


def test_detach_shares_values_and_not_derivatives() -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 2
        z = y.detach()
        z.add_(1)
        return (y * x).sum()

    x = torch.randn(3)
    leaf = x.clone().requires_grad_()
    y = leaf * 2
    value = vjp(func, x)[0]
    y.detach().add_(1)
    assert_close(value, (y * leaf).sum().detach())


@pytest.mark.eager(reason="jit refuses torch.autograd's derivative of such a write")
@pytest.mark.parametrize("in_dim", [0, 1])
def test_write_into_a_detached_alias_at_another_batch_dim(in_dim: int) -> None:
    def func(x: Tensor, scale: Tensor) -> Tensor:
        y = x * 2
        y.detach().copy_(scale)
        return (y * x).sum()

    x = torch.randn(2, 2, dtype=torch.float64)
    scale = torch.randn(2, 2, dtype=torch.float64)
    mapped = vmap(func, in_dims=(in_dim, 0))
    expected = scale.movedim(0, in_dim) + 2 * x
    assert_close(grad(lambda x: mapped(x, scale).sum())(x), expected)
    leaf = x.clone().requires_grad_()
    (got,) = torch.autograd.grad(mapped(leaf, scale).sum(), leaf)
    assert_close(got, expected)


def test_write_under_no_grad_keeps_the_derivative() -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 2
        with torch.no_grad():
            y.add_(10)
        return y.sum()

    assert_close(vjp(func, torch.ones(2))[0], torch.tensor(24.0))
    assert_close(grad(func)(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.eager(reason="jit refuses torch.autograd's derivative of such a write")
@pytest.mark.parametrize("batched", [False, True])
def test_write_under_no_grad_keeps_the_derivatives_of_every_level(
    batched: bool,
) -> None:
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def func(x: Tensor) -> Tensor:
        y = (w if batched else x) * 2
        with torch.no_grad():
            y.mul_(x if batched else 3)
        return (y**3).sum()

    x = torch.randn(2, 3, dtype=torch.float64)
    if batched:
        (got,) = torch.autograd.grad(vmap(func)(x).sum(), w)
        assert_close(got, (3 * (2 * w * x) ** 2 * 2).sum(0))
        assert_close(grad(func)(x[0]), torch.zeros(3, dtype=torch.float64))
    else:
        assert_close(grad(func)(x[0]), 3 * (6 * x[0]) ** 2 * 2)
        second = torch.diag(6 * (6 * x[0]) * 4)
        assert_close(jacrev(grad(func))(x[0]), second)
        assert_close(vmap(jacrev(grad(func)))(x)[0], second)
        assert_close(vmap(grad(func))(x), 3 * (6 * x) ** 2 * 2)


def test_view_that_is_read_again_under_no_grad_keeps_its_derivative() -> None:
    def func(x: Tensor) -> Tensor:
        y = x.clone()
        view = y[:1]
        y.mul_(3)
        with torch.no_grad():
            constant = view.sum()
        return view.sum() * constant

    assert_close(grad(func)(torch.ones(2)), torch.tensor([9.0, 0.0]))


def test_view_that_was_taken_under_no_grad_stays_a_constant() -> None:
    def func(x: Tensor) -> Tensor:
        y = x.clone()
        with torch.no_grad():
            view = y[:1]
        y.mul_(3)
        return view.sum() * y.sum()

    assert_close(grad(func)(torch.ones(2)), torch.tensor([9.0, 9.0]))


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.pow_(3),
        lambda y: y.square_(),
        lambda y: y.float_power_(3),
        lambda y: y.ldexp_(torch.ones(3)),
        lambda y: y.polygamma_(1),
    ],
)
def test_writes_whose_twin_has_another_signature(write: Any) -> None:
    x = torch.rand(3, dtype=torch.float64) + 1
    func = lambda x: write(x.clone())  # noqa: E731
    expected = torch.autograd.functional.jacobian(func, x)
    for own in (jacrev(func), jacfwd(func)):
        assert_close(own(x), expected)
    assert_close(vmap(func)(x.unsqueeze(0)), func(x).unsqueeze(0))


def restrided(x: Tensor) -> Tensor:
    """Transpose and squeeze views and bases of views in place, then write to them."""
    y = x.clone()
    row = y[0]
    y.t_()
    row.add_(1)
    y[0].mul_(3)
    tail = y[1:]
    tail.t_()
    tail.add_(1)
    row.mul_(2)
    y.unsqueeze_(0)
    tail.neg_()
    y.squeeze_().sin_()
    return torch.cat([y.reshape(-1), row, tail.reshape(-1)])


def test_in_place_views_of_views_and_their_bases() -> None:
    x = torch.rand(2, 3, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(restrided, x)
    assert_close(jacrev(restrided)(x), expected)
    assert_close(jacfwd(restrided)(x), expected)
    assert_close(vmap(restrided)(x.unsqueeze(0))[0], restrided(x))
    assert_close(jit(restrided)(x), restrided(x))


def test_outer_results_with_several_outputs_can_be_written() -> None:
    x = torch.rand(2, 4, dtype=torch.float64)

    def shifted(a: Tensor, b: Tensor) -> Tensor:
        y = a.sort().values
        y += b
        return y

    def tangent(a: Tensor, b: Tensor) -> Tensor:
        return jvp(lambda b: shifted(a, b), (b,), (b,))[1]

    assert_close(vmap(tangent)(x, x + 1), x + 1)
    assert_close(jit(tangent)(x, x + 1), x + 1)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_diagonal_is_filled_whatever_the_strides(dim: int) -> None:
    x = torch.rand(3, 3, 3, dtype=torch.float64)
    filled = lambda x: x.clone().fill_diagonal_(7.0)  # noqa: E731
    expected = torch.stack([filled(row) for row in x.unbind(dim)])
    assert_close(vmap(filled, dim)(x), expected)
    mask = 1 - torch.eye(3, dtype=torch.float64)
    slopes = vmap(grad(lambda x: filled(x).sum()), dim)(x)
    assert_close(slopes, mask.expand(3, 3, 3))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_diagonal_is_filled_in_what_a_write_made_the_same_for_all(dim: int) -> None:
    x = torch.rand(2, 2, 2, dtype=torch.float64)
    filled = lambda x: (x * 0.5).zero_().fill_diagonal_(0.5)  # noqa: E731
    expected = torch.stack([filled(row) for row in x.unbind(dim)])
    assert_close(vmap(filled, dim)(x), expected)
    slopes = vmap(grad(lambda x: filled(x).sum()), dim)(x)
    assert_close(slopes, torch.zeros(2, 2, 2, dtype=torch.float64))


def test_a_write_under_no_grad_keeps_the_derivative_of_the_tangent() -> None:
    x = torch.rand(3, dtype=torch.float64) + 1

    def normed(x: Tensor) -> Tensor:
        norm = (x * x).sum()
        with torch.no_grad():
            norm.clamp_min_(1e-8)
        return x / norm

    slope = lambda f: lambda x: jvp(f, (x,), (x,))[1].sum()  # noqa: E731
    plain = lambda x: x / (x * x).sum()  # noqa: E731
    assert_close(grad(slope(normed))(x), grad(slope(plain))(x))
