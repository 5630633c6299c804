"""Transforms of transforms: third derivatives, deep nests, no confusion of levels."""

import functools
import itertools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import (
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    vjp,
    vmap,
)
from jaxtorch.core.level import STATE

Function = Callable[..., Any]
DOUBLE = torch.float64


def by_jvp(func: Function) -> Function:
    """Differentiate a function of a scalar by jvp."""
    return lambda x: jvp(func, (x,), (torch.ones_like(x),))[1]


def by_vjp(func: Function) -> Function:
    """Differentiate a function of a scalar by vjp."""

    def derivative(x: Tensor) -> Tensor:
        out, pull = vjp(func, x)
        return pull(torch.ones_like(out))[0]

    return derivative


def by_linearize(func: Function) -> Function:
    """Differentiate a function of a scalar by linearize."""
    return lambda x: linearize(func, x)[1](torch.ones_like(x))


DERIVATIVES: dict[str, Function] = {
    "grad": grad,
    "jvp": by_jvp,
    "vjp": by_vjp,
    "jacrev": jacrev,
    "jacfwd": jacfwd,
    "linearize": by_linearize,
}


PAIRS = list(itertools.product(DERIVATIVES, repeat=2))
TRIPLES = list(itertools.product(["grad", "jvp", "linearize"], repeat=3))


def curve(x: Tensor) -> Tensor:
    """A function of a scalar with many kinds of operators."""
    y = torch.stack([x.sin(), x * x, x.exp()])
    return (y @ y).sqrt() + (y.unsqueeze(1) * y).tanh()[0, 1] + y[1] / y[2]


def autograd_derivative(func: Function, x: Tensor, order: int) -> Tensor:
    """Differentiate a function of a scalar ``order`` times by torch.autograd."""
    x = x.detach().clone().requires_grad_()
    out = func(x)
    for _ in range(order):
        (out,) = torch.autograd.grad(out, x, create_graph=True)
    return out.detach()


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_every_pair_of_derivatives(names: tuple[str, ...]) -> None:
    x = torch.tensor(0.6, dtype=DOUBLE)
    func = functools.reduce(lambda f, n: DERIVATIVES[n](f), names, curve)
    assert_close(func(x), autograd_derivative(curve, x, 2))


@pytest.mark.parametrize("names", TRIPLES, ids="-".join)
def test_every_triple_of_derivatives(names: tuple[str, ...]) -> None:
    x = torch.tensor(0.6, dtype=DOUBLE)
    func = functools.reduce(lambda f, n: DERIVATIVES[n](f), names, curve)
    assert_close(func(x), autograd_derivative(curve, x, 3))


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_vmap_at_every_place_of_a_pair(names: tuple[str, ...], place: int) -> None:
    x = torch.randn(3, dtype=DOUBLE)
    func: Function = curve
    for depth in range(3):
        if depth == place:
            func = (lambda f: lambda x: vmap(f)(x.expand(2))[1])(func)
        if depth < 2:
            func = DERIVATIVES[names[depth]](func)
    expected = torch.stack([autograd_derivative(curve, e, 2) for e in x])
    assert_close(vmap(func)(x), expected)


def test_third_derivative_of_a_vector_function() -> None:
    x = torch.randn(3, dtype=DOUBLE)
    func = lambda x: (x**4).sum() + x.prod()  # noqa: E731
    got = jacfwd(jacrev(jacrev(func)))(x)
    second = lambda x: torch.autograd.functional.hessian(func, x, create_graph=True)  # noqa: E731
    assert_close(got, torch.autograd.functional.jacobian(second, x))
    assert_close(jacrev(hessian(func))(x), got)
    assert_close(hessian(grad(func))(x), got)


def test_fourth_derivative_by_hessians() -> None:
    x = torch.randn(2, dtype=DOUBLE)
    got = hessian(hessian(lambda x: x[0] ** 3 * x[1] ** 2))(x)
    assert got.shape == (2, 2, 2, 2)
    assert_close(got[0, 0, 1, 1], 12 * x[0])
    assert_close(got[0, 1, 0, 1], 12 * x[0])
    assert_close(got[1, 1, 1, 1], torch.zeros((), dtype=DOUBLE))


def test_batched_hessian_of_a_batched_function() -> None:
    x, w = torch.randn(4, 2, dtype=DOUBLE), torch.randn(3, 2, dtype=DOUBLE)
    func = lambda x: vmap(lambda w: (w * x).sin().sum())(w).sum()  # noqa: E731
    got = vmap(jacfwd(jacrev(func)))(x)
    expected = [torch.autograd.functional.hessian(func_plain(w), e) for e in x]
    assert_close(got, torch.stack(expected))


def func_plain(w: Tensor) -> Function:
    """The same without vmap."""
    return lambda x: (w * x).sin().sum()


def test_jacobians_through_an_inner_map() -> None:
    x = torch.randn(3, dtype=DOUBLE)
    got = jacfwd(jacrev(lambda x: vmap(torch.sin)(x)))(x)
    expected = torch.zeros(3, 3, 3, dtype=DOUBLE)
    for i in range(3):
        expected[i, i, i] = -x[i].sin()
    assert_close(got, expected)


def test_per_example_gradients_of_two_arguments() -> None:
    x, y = torch.randn(3, 2, dtype=DOUBLE), torch.randn(4, 2, dtype=DOUBLE)
    func = lambda x, y: (x * y).sum().sin()  # noqa: E731
    over = vmap(vmap(grad(func, (0, 1)), in_dims=(None, 0)), in_dims=(0, None))
    a, b = over(x, y)
    inner = (x.unsqueeze(1) * y).sum(-1, keepdim=True).cos()
    assert_close(a, inner * y)
    assert_close(b, inner * x.unsqueeze(1))


@pytest.mark.parametrize("inner", DERIVATIVES)
@pytest.mark.parametrize("outer", DERIVATIVES)
def test_perturbations_are_not_confused(outer: str, inner: str) -> None:
    x = torch.tensor(2.0, dtype=DOUBLE)
    # d/dx [x * d/dy (x + y) at y = 1] = 1, not 2.
    one = torch.tensor(1.0, dtype=DOUBLE)
    func = lambda x: x * DERIVATIVES[inner](lambda y: x + y)(one)  # noqa: E731
    assert_close(DERIVATIVES[outer](func)(x), one)


@pytest.mark.parametrize("inner", DERIVATIVES)
@pytest.mark.parametrize("outer", DERIVATIVES)
def test_inner_derivative_of_a_captured_outer_value(outer: str, inner: str) -> None:
    x = torch.tensor(2.0, dtype=DOUBLE)
    # d/dx [d/dy (x y^2) at y = x] = d/dx 2 x^2 = 4 x.
    func = lambda x: DERIVATIVES[inner](lambda y: x * y * y)(x)  # noqa: E731
    assert_close(DERIVATIVES[outer](func)(x), 4 * x)


def test_derivative_with_respect_to_nothing_inside() -> None:
    x = torch.tensor(2.0, dtype=DOUBLE)
    func = lambda x: grad(lambda y: x * x)(x) + x  # noqa: E731
    assert_close(grad(func)(x), torch.ones((), dtype=DOUBLE))


@pytest.mark.parametrize(
    "nest",
    [
        ("vmap", "grad", "vmap", "jvp", "vmap"),
        ("jvp", "vjp", "vmap", "grad", "vmap"),
        ("vmap", "vmap", "jacfwd", "jacrev", "grad"),
        ("grad", "jvp", "linearize", "vjp", "vmap"),
        ("linearize", "vmap", "linearize", "vmap", "jvp"),
    ],
    ids="-".join,
)
def test_five_deep(nest: tuple[str, ...]) -> None:
    x = torch.tensor(0.4, dtype=DOUBLE)
    func: Function = lambda x: (x.sin() * x.exp()).tanh()  # noqa: E731
    plain = func
    for name in reversed(nest):
        if name == "vmap":
            func = (lambda f: lambda x: vmap(f)(torch.stack([x, 2 * x]))[0])(func)
        else:
            func = DERIVATIVES[name](func)
    order = sum(name != "vmap" for name in nest)
    assert_close(func(x), autograd_derivative(plain, x, order))
    assert STATE.levels == []


def test_ten_maps_and_ten_derivatives() -> None:
    x = torch.tensor(0.4, dtype=DOUBLE)
    func: Function = lambda x: (x / 2).exp()  # noqa: E731
    for name in itertools.islice(itertools.cycle(["grad", "jvp", "linearize"]), 10):
        func = DERIVATIVES[name](func)
        func = (lambda f: lambda x: vmap(f)(x.expand(1))[0])(func)
    assert_close(func(x), (x / 2).exp() / 2**10)


def test_fixed_point_by_newton_under_vmap_and_grad() -> None:
    def root(a: Tensor) -> Tensor:
        x = torch.ones((), dtype=DOUBLE)
        for _ in range(8):
            step = grad(lambda y: y**3 / 3 - a * y)
            slope = grad(step)
            x = x - step(x) / slope(x)
        return x

    a = torch.tensor([1.5, 2.0, 3.0], dtype=DOUBLE)
    assert_close(vmap(root)(a), a.sqrt())
    assert_close(vmap(grad(root))(a), 0.5 / a.sqrt())


def test_laplacian_three_ways() -> None:
    x = torch.randn(4, dtype=DOUBLE)
    func = lambda x: (x.sin() * x.roll(1)).sum()  # noqa: E731
    trace = hessian(func)(x).trace()
    eye = torch.eye(4, dtype=DOUBLE)
    forward = vmap(lambda v: v @ jvp(grad(func), (x,), (v,))[1])(eye).sum()
    taylor = vmap(lambda v: jvp(lambda y: jvp(func, (y,), (v,))[1], (x,), (v,))[1])(
        eye
    ).sum()
    assert_close(forward, trace)
    assert_close(taylor, trace)


def test_equals_torch_func_on_a_mixed_nest() -> None:
    x, w = torch.randn(3, 4, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)

    def program(t: Any) -> Tensor:
        def loss(w: Tensor, x: Tensor) -> Tensor:
            return t.vmap(lambda a: (a * w).sum().tanh())(x).mean()

        basis = torch.eye(4, dtype=DOUBLE)
        return t.vmap(lambda v: t.jvp(t.grad(loss), (w, x), (v, x))[1])(basis)

    ours = types.SimpleNamespace(vmap=vmap, grad=grad, jvp=jvp)
    assert_close(program(ours), program(torch.func))
