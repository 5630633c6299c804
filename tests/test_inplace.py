"""In-place operations and views: values, derivatives, and what the caller sees."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacfwd, jacrev, jit, jvp, vjp, vmap
from jaxtorch.errors import MutationError
from tests.inplace_programs import EACH, assert_near, in_float64, slopes, through


@EACH
@pytest.mark.parametrize("transform", ["vmap", "jvp", "vjp"])
def test_values(transform: str, program: Any) -> None:
    x = torch.randn(3)
    assert_close(through(transform, program, x), program(x.clone()))


@EACH
def test_batched_values(program: Any) -> None:
    x = torch.randn(4, 3)
    expected = torch.stack([program(e.clone()) for e in x])
    assert_close(vmap(program)(x.clone()), expected)
    assert_close(vmap(program, in_dims=1)(x.t().clone()), expected)


@EACH
def test_derivatives(program: Any) -> None:
    x = torch.randn(3, dtype=torch.float64)
    func = in_float64(program)
    expected = slopes(func, x)
    assert_near(jacrev(func)(x.clone()), expected)
    assert_near(jacfwd(func)(x.clone()), expected)
    batched = vmap(jacrev(func))(x.expand(2, 3).clone())
    assert_near(batched, torch.stack([expected, expected]))
    assert_near(jacrev(jacfwd(func))(x.clone()), slopes(jacrev(func), x))


def test_write_into_a_mapped_input_is_seen_by_the_caller() -> None:
    for in_dim in (0, 1):
        x = torch.randn(2, 2)
        before = x.clone()
        out = vmap(lambda a: a.mul_(2), in_dims=in_dim)(x)
        assert_close(x, before * 2)
        assert_close(out, (before * 2).movedim(in_dim, 0))


def test_write_into_a_view_of_a_mapped_input_is_seen_by_the_caller() -> None:
    x = torch.ones(2, 3)

    def func(a: Tensor) -> Tensor:
        a[1:].add_(1)
        return a.sum()

    assert_close(vmap(func)(x), torch.full((2,), 5.0))
    assert_close(x, torch.tensor([[1.0, 2.0, 2.0]] * 2))


@pytest.mark.parametrize("transform", ["vjp", "jvp", "grad"])
def test_write_into_an_input_of_a_derivative_is_seen_by_the_caller(
    transform: str,
) -> None:
    x = torch.ones(3)
    func = lambda a: (a.mul_(2) * 3).sum()  # noqa: E731
    if transform == "vjp":
        value, pull = vjp(func, x)
        (got,) = pull(torch.ones(()))
    elif transform == "jvp":
        value, got = jvp(func, (x,), (torch.ones(3),))
    else:
        got = grad(func)(x)
    assert_close(got.sum(), torch.tensor(18.0))
    assert_close(x, torch.full((3,), 2.0))


def test_write_inside_two_maps_is_seen_by_the_caller() -> None:
    x = torch.ones(2, 3)
    vmap(vmap(lambda a: a.add_(1)))(x)
    assert_close(x, torch.full((2, 3), 2.0))


def test_write_of_a_shared_value_into_a_mapped_input() -> None:
    x = torch.zeros(2, 3)
    out = vmap(lambda a: a.copy_(torch.arange(3.0)))(x)
    assert_close(out, torch.arange(3.0).expand(2, 3))
    assert_close(x, torch.arange(3.0).expand(2, 3))


@pytest.mark.parametrize("transform", ["vmap", "jvp", "vjp"])
def test_write_into_a_captured_tensor_is_refused(transform: str) -> None:
    captured = torch.zeros(3)
    with pytest.raises(MutationError, match="captured from outside"):
        through(transform, lambda x: captured.add_(x), torch.ones(3))
    assert_close(captured, torch.zeros(3))


@pytest.mark.parametrize("transform", ["vmap", "jvp", "vjp"])
def test_write_into_a_view_of_a_captured_tensor_is_refused(transform: str) -> None:
    captured = torch.zeros(2, 3)

    def func(x: Tensor) -> Tensor:
        captured[0] = x
        return x

    with pytest.raises(MutationError, match="captured from outside"):
        through(transform, func, torch.ones(3))
    assert_close(captured, torch.zeros(2, 3))


def test_write_of_plain_values_into_a_captured_tensor_happens_once() -> None:
    count = torch.zeros(())
    vmap(lambda x: (count.add_(1), x)[1])(torch.ones(5))
    grad(lambda x: (count.add_(1), x.sum())[1])(torch.ones(5))
    assert_close(count, torch.tensor(2.0))


@pytest.mark.parametrize("staged", [False, True])
def test_write_of_a_constant_into_a_captured_tensor(staged: bool) -> None:
    seen = torch.zeros(2, 3)

    def func(x: Tensor) -> Tensor:
        seen[0].add_(x.detach())
        seen[1] = torch.ones(3).mul_(2)
        return (x * x).sum()

    x = torch.arange(3.0)
    call = grad(func)
    assert_close((jit(call) if staged else call)(x), 2 * x)
    assert_close(seen, torch.stack([x, torch.full((3,), 2.0)]))
    value, pushed = jvp(func, (x,), (x,))
    assert_close((value, pushed), (x.square().sum(), 2 * x.square().sum()))
    assert_close(seen[0], 2 * x)
    with pytest.raises(MutationError, match="captured from outside"):
        vmap(grad(func))(x.expand(2, 3))


def test_write_of_an_inner_value_into_an_outer_handle_is_refused() -> None:
    def outer(x: Tensor) -> Tensor:
        made_outside = torch.zeros(())
        return grad(lambda y: (made_outside.add_(y), y.sum())[1])(x)

    with pytest.raises(MutationError):
        vmap(outer)(torch.ones(3))


def test_write_of_a_larger_result_is_refused() -> None:
    with pytest.raises((MutationError, RuntimeError), match="shape"):
        vmap(lambda x: torch.zeros(3).add_(x))(torch.ones(2, 4, 3))


def test_input_mapped_twice_is_not_shared_between_names() -> None:
    x = torch.ones(2, 3)
    out = vmap(lambda a, b: a.clone().add_(b))(x, x)
    assert_close(out, torch.full((2, 3), 2.0))
    assert_close(x, torch.ones(2, 3))
