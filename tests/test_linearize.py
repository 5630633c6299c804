"""linearize: evaluated once, applied often; the linear function in every transform."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacfwd, jacrev, jvp, linearize, vjp, vmap


def test_value_and_derivative() -> None:
    x, v = torch.randn(3), torch.randn(3)
    out, push = linearize(torch.sin, x)
    assert type(out) is Tensor
    assert_close(out, x.sin())
    assert_close(push(v), v * x.cos())


def test_function_runs_once() -> None:
    calls = []
    _, push = linearize(lambda x: (calls.append(1), x.exp())[1], torch.zeros(2))
    push(torch.ones(2))
    push(torch.ones(2))
    assert calls == [1]


def test_linear_function_is_linear() -> None:
    x = torch.randn(4, dtype=torch.float64)
    u, v = torch.randn_like(x), torch.randn_like(x)
    _, push = linearize(lambda x: (x @ x) * x.tanh(), x)
    assert_close(push(2 * u - 3 * v), 2 * push(u) - 3 * push(v))


def test_several_inputs_and_pytrees() -> None:
    x, tree = torch.randn(3), {"y": torch.randn(3)}
    func = lambda x, t: {"p": x * t["y"], "s": (x.sum(), t["y"])}  # noqa: E731
    u, v = torch.randn(3), {"y": torch.randn(3)}
    out, push = linearize(func, x, tree)
    expected = jvp(func, (x, tree), (u, v))
    assert_close((out, push(u, v)), expected)


def test_outputs_without_a_derivative() -> None:
    _, push = linearize(lambda x: (torch.ones(2), x), torch.ones(3))
    assert_close(push(torch.ones(3)), (torch.zeros(2), torch.ones(3)))


def test_gradient_through_the_point_of_linearization() -> None:
    x = torch.randn(3, dtype=torch.float64)
    one = torch.ones_like(x)
    got = grad(lambda y: linearize(torch.sin, y)[1](one).sum())(x)
    assert_close(got, -x.sin())


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_jacobian_through_the_point_of_linearization(jacobian: Any) -> None:
    x = torch.randn(3, dtype=torch.float64)
    one = torch.ones_like(x)
    got = jacobian(lambda y: linearize(torch.sin, y)[1](one))(x)
    assert_close(got, torch.diag(-x.sin()))


def test_gradient_through_the_tangent() -> None:
    x = torch.randn(3)
    _, push = linearize(torch.sin, x)
    assert_close(grad(lambda v: push(v).sum())(torch.ones(3)), x.cos())


def test_map_over_tangents() -> None:
    x = torch.randn(3)
    _, push = linearize(lambda x: x.sin().cumsum(0), x)
    rows = vmap(push, out_dims=1)(torch.eye(3))
    assert_close(rows, jacrev(lambda x: x.sin().cumsum(0))(x))


def test_map_over_points() -> None:
    x, v = torch.randn(4, 3), torch.randn(4, 3)
    got = vmap(lambda x, v: linearize(torch.sin, x)[1](v))(x, v)
    assert_close(got, v * x.cos())


def test_linearize_of_linearize() -> None:
    x = torch.tensor(0.4, dtype=torch.float64)
    one = torch.ones_like(x)
    first = lambda x: linearize(torch.sin, x)[1](one)  # noqa: E731
    out, push = linearize(first, x)
    assert_close((out, push(one)), (x.cos(), -x.sin()))


def test_transposed_by_vjp() -> None:
    x, w = torch.randn(3), torch.randn(3)
    _, push = linearize(torch.sin, x)
    assert_close(vjp(push, torch.zeros(3))[1](w), (w * x.cos(),))


def test_torch_autograd_reaches_the_point() -> None:
    x = torch.randn(3, requires_grad=True)
    _, push = linearize(torch.sin, x)
    (got,) = torch.autograd.grad(push(torch.ones(3)).sum(), x)
    assert_close(got, -x.sin())


def test_equals_torch_func() -> None:
    x, v = torch.randn(3, 3), torch.randn(3, 3)
    func = lambda x: (x @ x.T).softmax(0)  # noqa: E731
    mine = linearize(func, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.func.linearize(func, x)
    assert_close(mine[0], theirs[0])
    assert_close(mine[1](v), theirs[1](v))
