"""torch.autograd.grad, backward and retain_grad inside a transformed function."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import functional
from torch.testing import assert_close

from jaxtorch import grad, hessian, hvp, jacfwd, jacrev, jit, jvp, vjp, vmap
from jaxtorch.errors import UsageError

Function = Callable[..., Any]
Params = dict[str, Tensor]


def net(params: Params, x: Tensor) -> Tensor:
    """Return a scalar for a scalar; tanh and exp save their results for backward."""
    hidden = torch.tanh(params["w"] @ x[None] + params["b"])
    return (params["v"] @ hidden).exp().sum()


def residual(params: Params, x: Tensor) -> Tensor:
    """Return u'' + u u', by our own transforms."""
    u = lambda x: net(params, x)  # noqa: E731
    return grad(grad(u))(x) + grad(u)(x) * u(x)


def torch_residual(params: Params, x: Tensor) -> Tensor:
    """Return the same as codes of physics-informed networks write it."""
    x = x.requires_grad_()
    u = net(params, x)
    u_x = torch.autograd.grad(u, x, create_graph=True)[0]
    u_xx = torch.autograd.grad(u_x, x, torch.ones_like(u_x), create_graph=True)[0]
    return u_xx + u_x * u


def data() -> tuple[Params, Tensor]:
    """Return parameters and five points."""
    torch.manual_seed(0)
    shapes = {"w": (8, 1), "b": (8,), "v": (1, 8)}
    params = {k: torch.randn(s, dtype=torch.float64) * 0.3 for k, s in shapes.items()}
    return params, torch.randn(5, dtype=torch.float64)


def loss(residual: Function) -> Function:
    """Return the mean square of the residual at the points, a function of both."""
    return lambda p, xs: (vmap(residual, (None, 0))(p, xs) ** 2).mean()


TRANSFORMS: dict[str, Function] = {
    "vmap": lambda r: vmap(r, (None, 0)),
    "grad over params": lambda r: grad(loss(r)),
    "vmap of grad over params": lambda r: vmap(grad(r), (None, 0)),
    "vmap of grad over x": lambda r: vmap(grad(r, 1), (None, 0)),
    "hessian over params": lambda r: hessian(loss(r)),
    "jacfwd over params": lambda r: jacfwd(loss(r)),
    "vmap of jacrev over x": lambda r: vmap(jacrev(r, 1), (None, 0)),
    "vmap of hessian over x": lambda r: vmap(hessian(r, 1), (None, 0)),
    "jvp": lambda r: lambda p, xs: jvp(loss(r), (p, xs), (p, xs)),
    "jit of grad": lambda r: jit(grad(loss(r))),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_physics_informed_network(name: str) -> None:
    params, points = data()
    transform = TRANSFORMS[name]
    assert_close(
        transform(torch_residual)(params, points), transform(residual)(params, points)
    )


def test_physics_informed_network_trained_from_outside() -> None:
    params, points = data()
    leaves = [p.requires_grad_() for p in params.values()]
    got = torch.autograd.grad(loss(torch_residual)(params, points), leaves)
    assert_close(got, torch.autograd.grad(loss(residual)(params, points), leaves))


def test_a_batch_at_once_inside_grad() -> None:
    """The usual form: all points together, the sum of the outputs differentiated."""
    params, points = data()

    def func(params: Params) -> Tensor:
        x = points[:, None].clone().requires_grad_()
        hidden = torch.tanh(x @ params["w"].T + params["b"])
        u = (hidden @ params["v"].T).exp()
        (u_x,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return (u_x**2).mean()

    def expected(params: Params) -> Tensor:
        return (vmap(grad(net, 1), (None, 0))(params, points) ** 2).mean()

    assert_close(grad(func)(params), grad(expected)(params))
    assert_close(hessian(func)(params), hessian(expected)(params))


@pytest.mark.eager(reason="under jit it is not refused: the numbers are right")
def test_an_output_that_came_out_of_another_transform_is_refused() -> None:
    params, points = data()

    def func(params: Params) -> Tensor:
        x = points.clone().requires_grad_()
        u = vmap(net, (None, 0))(params, x)
        return torch.autograd.grad(u.sum(), x, create_graph=True)[0].sum()

    with pytest.raises(UsageError, match="came out of another transform"):
        grad(func)(params)


def test_saved_results_keep_the_derivatives_of_the_levels() -> None:
    """Without it the second derivative through exp would miss a term."""
    x = torch.tensor(0.7, dtype=torch.float64)

    def first(func: Function) -> Function:
        def derivative(x: Tensor) -> Tensor:
            x = x.requires_grad_()
            return torch.autograd.grad(func(x), x, create_graph=True)[0]

        return derivative

    for func in (
        torch.exp,
        torch.tanh,
        torch.sigmoid,
        torch.sqrt,
        lambda x: x.detach() * x,
    ):
        assert_close(grad(first(func))(x.clone()), grad(grad(func))(x))
        assert_close(jvp(first(func), (x,), (x,)), jvp(grad(func), (x,), (x,)))


@pytest.mark.eager(reason="the function compares the values of its tensors")
def test_the_tape_is_read_for_a_first_derivative() -> None:
    x = torch.randn(3, dtype=torch.float64)
    factor = torch.randn(3, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        y = x.sin()
        (own,) = torch.autograd.grad((y * factor).sum(), x, retain_graph=True)
        to_y, to_x = torch.autograd.grad(y * y, (y, x), grad_outputs=factor)
        assert_close(own.value, x.value.cos() * factor)
        assert_close(to_y.value, 2 * y.value * factor)
        assert_close(to_x.value, 2 * y.value * factor * x.value.cos())
        return (own * x).sum()

    expected = x.cos() * factor
    assert_close(grad(func)(x), expected)
    plain = lambda x: (torch.autograd.grad(x.sin().sum(), x)[0] * x).sum()  # noqa: E731
    assert_close(vmap(grad(plain))(x[:, None])[:, 0], x.cos())


def test_unused_inputs() -> None:
    x = torch.ones(3)

    def func(allow: bool) -> Function:
        def inner(x: Tensor) -> Tensor:
            z = x * 2
            got = torch.autograd.grad(x.sum(), z, allow_unused=allow)
            assert got == (None,)
            return x.sum()

        return inner

    assert_close(grad(func(True))(x), x)
    with pytest.raises(UsageError, match="allow_unused"):
        grad(func(False))(x)


def energy(x: Tensor) -> Tensor:
    """A function with derivatives of all orders."""
    return x.sin().sum() * x.prod()


FUNCTIONALS: dict[str, tuple[Function, Function]] = {
    "jacobian": (
        lambda x: functional.jacobian(torch.sin, x, create_graph=True),
        jacrev(torch.sin),
    ),
    "hessian": (
        lambda x: functional.hessian(energy, x, create_graph=True),
        hessian(energy),
    ),
    "vjp": (
        lambda x: functional.vjp(torch.sin, x, x * x, create_graph=True)[1],
        lambda x: vjp(torch.sin, x)[1](x * x)[0],
    ),
    "jvp": (
        lambda x: functional.jvp(torch.sin, x, x * x, create_graph=True)[1],
        lambda x: jvp(torch.sin, (x,), (x * x,))[1],
    ),
    "hvp": (
        lambda x: functional.hvp(energy, x, x * x, create_graph=True)[1],
        lambda x: hvp(energy, (x,), (x * x,))[1],
    ),
}


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_functionals_of_torch_autograd_keep_derivatives(name: str) -> None:
    theirs, ours = FUNCTIONALS[name]
    x = torch.randn(4, 3, dtype=torch.float64)
    for transform in (
        lambda f: jacrev(f)(x[0]),
        lambda f: jacfwd(f)(x[0]),
        lambda f: jvp(f, (x[0],), (x[1],)),
        lambda f: vmap(f)(x),
        lambda f: vmap(jacrev(f))(x),
        lambda f: jacrev(jacfwd(f))(x[0]),
    ):
        assert_close(transform(theirs), transform(ours))


@pytest.mark.parametrize(
    ("transform", "func", "text"),
    [
        (grad, lambda x: x.sum().backward(), "backward"),
        (vmap, lambda x: x.sum().backward(), "backward"),
        (grad, lambda x: x.retain_grad(), "retain_grad"),
        (vmap, lambda x: x.retain_grad(), "retain_grad"),
        (vmap, lambda x: torch.autograd.grad(x.sum(), x), "requires_grad_"),
        (
            grad,
            lambda x: torch.autograd.grad(x.sum(), x, create_graph=True),
            "requires_grad_",
        ),
        (grad, lambda x: torch.autograd.grad(x.sin(), x), "only for scalar outputs"),
    ],
)
def test_refused_with_a_remedy(transform: Function, func: Function, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        transform(func)(torch.ones(3, 2))


def test_torch_autograd_on_tensors_from_outside_is_untouched() -> None:
    leaf = torch.ones(3, requires_grad=True)
    out = leaf.sin().sum()

    def func(x: Tensor) -> Tensor:
        (own,) = torch.autograd.grad(out, leaf, retain_graph=True)
        return x * own

    assert_close(vmap(func)(torch.ones(2, 3)), leaf.detach().cos().expand(2, 3))
