"""torch.autograd around the transforms: captured parameters, backward, no_grad."""

import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from jaxtorch import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp, vmap

Function = Callable[..., Any]


def leaf(*shape: int) -> Tensor:
    """Return a random float64 leaf that requires grad."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def same_gradients(ours: Function, plain: Function, *leaves: Tensor) -> None:
    """Compare torch.autograd's gradients through a transform and plain torch."""
    weights = torch.randn_like(plain())
    got = torch.autograd.grad((ours() * weights).sum(), leaves)
    expected = torch.autograd.grad((plain() * weights).sum(), leaves)
    assert_close(got, expected)


def test_captured_parameter_under_vmap() -> None:
    w, x = leaf(3), torch.randn(4, 3, dtype=torch.float64)
    same_gradients(lambda: vmap(lambda a: a.sin() @ w)(x), lambda: x.sin() @ w, w)


def test_captured_parameter_under_two_maps() -> None:
    w, x = leaf(3), torch.randn(2, 4, 3, dtype=torch.float64)
    same_gradients(lambda: vmap(vmap(lambda a: a.sin() @ w))(x), lambda: x.sin() @ w, w)


def test_input_under_vmap() -> None:
    x = leaf(4, 3)
    same_gradients(lambda: vmap(torch.prod)(x), lambda: x.prod(1), x)


def test_captured_parameter_under_grad() -> None:
    w, x = leaf(3), leaf(3)
    ours = lambda: grad(lambda a: (a.sin() * w.exp()).sum())(x)  # noqa: E731
    same_gradients(ours, lambda: x.cos() * w.exp(), w, x)


def test_captured_parameter_under_grad_of_vmap_and_vmap_of_grad() -> None:
    w, x = leaf(3), leaf(4, 3)
    both = lambda a: (a.sin() * w.exp()).sum()  # noqa: E731
    same_gradients(lambda: vmap(grad(both))(x), lambda: x.cos() * w.exp(), w, x)
    total = lambda x: vmap(both)(x).sum()  # noqa: E731
    same_gradients(lambda: grad(total)(x), lambda: x.cos() * w.exp(), w, x)


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_captured_parameter_under_jacobians(jacobian: Any) -> None:
    w, x = leaf(2, 3), leaf(3)
    same_gradients(
        lambda: jacobian(lambda a: w @ a.sin())(x), lambda: w * x.cos(), w, x
    )


def test_captured_parameter_under_hessian() -> None:
    w, x = leaf(3), leaf(3)
    same_gradients(
        lambda: hessian(lambda a: (a**3 * w).sum())(x),
        lambda: torch.diag(6 * x * w),
        w,
        x,
    )


def test_captured_parameter_under_jvp() -> None:
    w, x, t = leaf(3), leaf(3), leaf(3)
    func = lambda a: (a * w).sin()  # noqa: E731
    same_gradients(
        lambda: jvp(func, (x,), (t,))[1], lambda: (x * w).cos() * w * t, w, x, t
    )
    same_gradients(lambda: jvp(func, (x,), (t,))[0], lambda: (x * w).sin(), w, x)


def test_cotangent_and_parameter_under_vjp() -> None:
    w, x, c = leaf(3), leaf(3), leaf(3)
    func = lambda a: (a * w).sin()  # noqa: E731
    same_gradients(
        lambda: vjp(func, x)[1](c)[0], lambda: (x * w).cos() * w * c, w, x, c
    )
    same_gradients(lambda: vjp(func, x)[0], lambda: (x * w).sin(), w, x)


def test_value_and_aux_stay_attached() -> None:
    w, x = leaf(3), leaf(3)
    func = lambda a: ((a * w).sum(), a * w.exp())  # noqa: E731
    same_gradients(
        lambda: grad_and_value(func, has_aux=True)(x)[1][0], lambda: (x * w).sum(), w, x
    )
    same_gradients(lambda: grad(func, has_aux=True)(x)[1], lambda: x * w.exp(), w, x)


def test_second_backward_through_a_transform() -> None:
    w, x = leaf(3), leaf(3)
    gradient = grad(lambda a: (a.sin() * w**2).sum())(x)
    (first,) = torch.autograd.grad(gradient.sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), w)
    assert_close(second, 2 * x.cos())


def test_step_of_an_optimizer_through_an_inner_step() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, y = (torch.randn(4, 10, 1, dtype=torch.float64) for _ in range(2))
    names, params = zip(*net.named_parameters(), strict=True)

    def call(params: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return torch.func.functional_call(
            net, dict(zip(names, params, strict=True)), (x,)
        )

    def after_a_step(gradient: Function) -> Function:
        def loss(x: Tensor, y: Tensor) -> Tensor:
            inner = gradient(lambda p: F.mse_loss(call(p, x), y))(params)
            moved = tuple(p - 0.1 * g for p, g in zip(params, inner, strict=True))
            return F.mse_loss(call(moved, x), y)

        return loss

    ours = vmap(after_a_step(grad))(x, y).mean()
    theirs = torch.func.vmap(after_a_step(torch.func.grad))(x, y).mean()
    assert_close(ours, theirs)
    got = torch.autograd.grad(ours, params)
    assert_close(got, torch.autograd.grad(theirs, params))
    net.zero_grad()
    vmap(after_a_step(grad))(x, y).mean().backward()
    assert_close([p.grad for p in params], list(got))


def test_forces_in_a_loss() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    params = list(net.parameters())
    energy, force = net(x), -vmap(jacrev(net))(x).squeeze(1)
    got = torch.autograd.grad(energy.sum() + force.square().sum(), params)
    own = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(own).sum(), own, create_graph=True)
    expected = torch.autograd.grad(net(x).sum() + slope.square().sum(), params)
    assert_close(got, expected)


def test_results_of_plain_inputs_do_not_require_grad() -> None:
    x = torch.ones(3)
    for out in (vmap(torch.sin)(x), grad(torch.sum)(x), jacrev(torch.sin)(x)):
        assert not out.requires_grad


def test_results_are_plain_tensors_with_a_grad_fn() -> None:
    w = leaf(3)
    out = vmap(lambda a: a * w)(torch.ones(2, dtype=torch.float64))
    assert type(out) is Tensor
    assert out.requires_grad
    assert out.grad_fn is not None


@contextmanager
def nothing() -> Iterator[None]:
    """Change nothing."""
    yield


OUTER: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nothing,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}
EACH_OUTER = pytest.mark.parametrize("outer", OUTER)


@EACH_OUTER
def test_transforms_ignore_the_mode_outside(outer: str) -> None:
    with OUTER[outer]():
        x = torch.ones(3)
        cube = lambda x: (x**3).sum()  # noqa: E731
        assert_close(grad(cube)(x), torch.full((3,), 3.0))
        assert_close(grad(lambda x: grad(cube)(x).sum())(x), torch.full((3,), 6.0))
        assert_close(jacrev(grad(cube))(x), torch.eye(3) * 6)
        assert_close(jacfwd(grad(cube))(x), torch.eye(3) * 6)
        assert_close(hessian(cube)(x), torch.eye(3) * 6)
        assert_close(jvp(cube, (x,), (x,))[1], torch.tensor(9.0))
        assert_close(vmap(grad(torch.sin))(x), x.cos())
        assert_close(vjp(torch.sin, x)[1](x)[0], x.cos())


@pytest.mark.parametrize("inner", [torch.no_grad, torch.inference_mode])
def test_reverse_mode_obeys_no_grad_inside(inner: Any) -> None:
    def func(x: Tensor) -> Tensor:
        with inner():
            constant = x.square()
        return (x * constant).sum()

    x = torch.randn(3)
    expected = x.square()
    if inner is torch.no_grad:
        assert_close(grad(func)(x), expected)
        assert_close(jacrev(func)(x), expected)
        assert_close(vmap(grad(func))(x.expand(2, 3)), expected.expand(2, 3))


def test_no_grad_inside_makes_zeros() -> None:
    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.sin().sum()

    assert_close(grad(func)(torch.ones(2)), torch.zeros(2))


def test_no_grad_inside_cuts_every_level_around_it() -> None:
    x = torch.tensor(2.0)

    def inner(y: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            constant = y * y
        return constant * y * x

    def outer(t: Any) -> Function:
        return lambda x: t.grad(inner)(x, x)

    ours = types.SimpleNamespace(grad=grad)
    assert_close(outer(ours)(x), x**3)
    got = grad(outer(ours))(x)
    assert_close(got, x**2)
    assert_close(got, torch.func.grad(outer(torch.func))(x))


def test_no_grad_between_two_levels() -> None:
    x = torch.tensor(2.0)

    def outer(transform: Any) -> Function:
        def func(x: Tensor) -> Tensor:
            with torch.no_grad():
                slope = transform(lambda y: y**3)(x)
            return slope * x

        return func

    got = grad(outer(grad))(x)
    assert_close(got, torch.func.grad(outer(torch.func.grad))(x))
    assert_close(got, torch.tensor(12.0))


def test_result_under_outer_no_grad_does_not_require_grad() -> None:
    w = leaf(3)
    x = torch.ones(3, dtype=torch.float64)
    with torch.no_grad():
        out = grad(lambda x: (x**2 * w).sum())(x)
        mapped = vmap(lambda a: a * w)(x)
    assert not out.requires_grad
    assert not mapped.requires_grad


def test_vjp_under_no_grad_and_pull_outside() -> None:
    x = leaf(3)
    with torch.no_grad():
        out, pull = vjp(torch.sin, x)
    assert not out.requires_grad
    (got,) = pull(torch.ones(3, dtype=torch.float64))
    assert got.requires_grad
    (second,) = torch.autograd.grad(got.sum(), x)
    assert_close(second, -x.sin())


def test_pull_under_no_grad() -> None:
    x = leaf(3)
    out, pull = vjp(torch.sin, x)
    assert out.requires_grad
    with torch.no_grad():
        (got,) = pull(torch.ones(3, dtype=torch.float64))
    assert not got.requires_grad
    (got,) = pull(torch.ones(3, dtype=torch.float64), create_graph=False)
    assert not got.requires_grad


def test_grad_mode_inside_and_after() -> None:
    seen = []

    def func(x: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return x.sum()

    with torch.no_grad():
        grad(func)(torch.ones(2))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert seen == [True]


def test_detached_parameter_gets_nothing() -> None:
    w = leaf(3)
    x = torch.ones(2, 3, dtype=torch.float64)
    out = vmap(lambda a: (a * w.detach()).sum() + (a * w).sum())(x)
    (got,) = torch.autograd.grad(out.sum(), w)
    assert_close(got, torch.full((3,), 2.0, dtype=torch.float64))


def test_vmap_over_cotangents_of_a_graph_made_outside() -> None:
    x = leaf(3)
    y = x.sin()
    rows = vmap(lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0])(
        torch.eye(3, dtype=torch.float64)
    )
    assert_close(rows, torch.diag(x.cos()))


def test_integer_and_float_captured_tensors_together() -> None:
    w = leaf(5)
    index = torch.tensor([[0, 1], [4, 4]])
    same_gradients(
        lambda: vmap(lambda i: w[i].prod())(index), lambda: w[index].prod(1), w
    )


def test_in_place_on_a_fresh_tensor_with_a_captured_parameter() -> None:
    w = leaf(3)
    x = torch.randn(4, dtype=torch.float64)

    def func(a: Tensor) -> Tensor:
        y = torch.zeros(3, dtype=torch.float64)
        y += w * a
        y[0] *= 2
        return y

    factor = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    same_gradients(lambda: vmap(func)(x), lambda: torch.outer(x, w) * factor, w)


def inner_slope(create_graph: bool) -> Function:
    """Return a function that differentiates by torch.autograd inside."""

    def func(x: Tensor) -> Tensor:
        y = x.clone().requires_grad_()
        out = (y.sin() * x).sum()
        return torch.autograd.grad(out, y, create_graph=create_graph)[0]

    return func


def test_torch_autograd_inside_a_transform() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    slope, expected = inner_slope(True), x.cos() * x
    second = x.cos() - x.sin() * x
    assert_close(vmap(slope)(x), expected)
    assert_close(vmap(inner_slope(False))(x), expected)
    assert_close(grad(lambda x: slope(x).sum())(x), second)
    assert_close(vmap(grad(lambda x: slope(x).sum()))(x), second)
    assert_close(jvp(slope, (x,), (x,))[1], second * x)
    assert_close(vmap(jacrev(slope))(x), torch.diag_embed(second))


def test_torch_autograd_inside_without_create_graph_is_a_constant() -> None:
    x = torch.randn(3, dtype=torch.float64)
    func = lambda x: (inner_slope(False)(x) * x).sum()  # noqa: E731
    assert_close(grad(func)(x), x.cos() * x)


def test_checkpoint_inside_a_transform() -> None:
    x = torch.randn(2, 3, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        own = lambda y: y.sin().exp().sum()  # noqa: E731
        return torch.utils.checkpoint.checkpoint(own, x, use_reentrant=False)

    assert_close(grad(func)(x), x.sin().exp() * x.cos())
    assert_close(vmap(grad(func))(x), x.sin().exp() * x.cos())


def test_module_made_inside() -> None:
    def func(x: Tensor) -> Tensor:
        module = nn.Linear(3, 2)
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        return module(x).sum()

    assert_close(grad(func)(torch.ones(3)), torch.full((3,), 2.0))
    mapped = vmap(func, randomness="different")(torch.ones(2, 3))
    assert_close(mapped.detach(), torch.full((2,), 6.0))
