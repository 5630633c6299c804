"""Functions with rules of their own: custom, custom_jvp, custom_vjp."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import jaxtorch
from jaxtorch import (
    custom,
    custom_jvp,
    custom_vjp,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jit,
    jvp,
    linearize,
    vmap,
)
from jaxtorch.errors import UsageError

Function = Callable[..., Any]


def plain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the custom functions below return, with the true derivative."""
    return x.sin() * y, x.cos()


@custom_vjp
def by_vjp(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return plain(x, y)


def fwd(x: Tensor, y: Tensor) -> Any:
    return by_vjp(x, y), {"x": x, "y": y}


def bwd(residuals: Any, cotangents: Any) -> Any:
    """Return twice the true cotangents."""
    x, y = residuals["x"], residuals["y"]
    a, b = cotangents
    return 2 * (a * x.cos() * y - b * x.sin()), 2 * a * x.sin()


by_vjp.defvjp(fwd, bwd)


@custom_jvp
def by_jvp(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return plain(x, y)


@by_jvp.defjvp
def by_jvp_rule(primals: Any, tangents: Any) -> Any:
    """Return twice the true tangents."""
    (x, y), (dx, dy) = primals, tangents
    return by_jvp(x, y), (2 * (dx * x.cos() * y + dy * x.sin()), -2 * dx * x.sin())


both = custom(
    plain, jvp=lambda p, t: by_jvp_rule(p, t), vjp=(lambda x, y: fwd(x, y), bwd)
)
CASES = pytest.mark.parametrize(
    "func", [by_vjp, by_jvp, both], ids=["vjp", "jvp", "both"]
)


def scalar(func: Function) -> Function:
    """Sum both outputs with different weights."""
    weights = torch.arange(1.0, 4.0, dtype=torch.float64)
    return lambda x, y: sum((out * weights).sum() for out in func(x, y))


def data() -> tuple[Tensor, Tensor]:
    """Return two float64 tensors of shape [4, 3]."""
    torch.manual_seed(0)
    return torch.randn(2, 4, 3, dtype=torch.float64).unbind()


def double(tree: Any) -> Any:
    """Return twice a tensor, or a tuple of them."""
    return 2 * tree if isinstance(tree, Tensor) else tuple(double(t) for t in tree)


@CASES
def test_first_derivatives_use_the_rule(func: Function) -> None:
    x, y = data()
    own, true = scalar(func), scalar(plain)
    assert_close(grad(own, (0, 1))(x, y), double(grad(true, (0, 1))(x, y)))
    assert_close(jvp(own, (x, y), (y, x))[1], 2 * jvp(true, (x, y), (y, x))[1])
    assert_close(jacrev(func)(x[0], y[0]), double(jacrev(plain)(x[0], y[0])))
    assert_close(linearize(own, x, y)[1](y, x), jvp(own, (x, y), (y, x))[1])


@CASES
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (-1, 0)])
def test_under_vmap_in_both_orders(func: Function, in_dims: Any) -> None:
    x, y = data()
    args = (
        x[0] if in_dims[0] is None else x.T if in_dims[0] == -1 else x,
        y[0] if in_dims[1] is None else y,
    )
    own, true = scalar(func), scalar(plain)
    assert_close(vmap(func, in_dims)(*args), vmap(plain, in_dims)(*args))
    assert_close(
        vmap(grad(own, (0, 1)), in_dims)(*args),
        double(vmap(grad(true, (0, 1)), in_dims)(*args)),
    )
    outer = lambda f: lambda x, y: vmap(f, in_dims)(x, y).sum()  # noqa: E731
    assert_close(
        grad(outer(own), (0, 1))(*args), double(grad(outer(true), (0, 1))(*args))
    )
    tangents = tuple(torch.cos(a) for a in args)
    assert_close(
        jvp(outer(own), args, tangents)[1], 2 * jvp(outer(true), args, tangents)[1]
    )


@CASES
@pytest.mark.parametrize(
    "second",
    [
        hessian,
        lambda f: jacrev(jacrev(f)),
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jacrev(jacfwd(f)),
    ],
    ids=["fwd-rev", "rev-rev", "fwd-fwd", "rev-fwd"],
)
def test_second_derivatives_differentiate_the_rule(
    func: Function, second: Function
) -> None:
    x, y = data()
    own, true = scalar(func), scalar(plain)
    expected = torch.stack([2 * second(true)(a, b) for a, b in zip(x, y, strict=True)])
    assert_close(second(own)(x[0], y[0]), expected[0])
    assert_close(vmap(second(own))(x, y), expected)


@CASES
def test_torch_autograd_outside_uses_the_rule(func: Function) -> None:
    x, y = data()
    own, true = scalar(func), scalar(plain)
    leaf = x.clone().requires_grad_()
    for call in (own, lambda x, y: vmap(own)(x, y).sum(), lambda x, y: own(x, y)):
        (got,) = torch.autograd.grad(call(leaf, y), leaf, create_graph=True)
        assert_close(got, 2 * grad(true)(x, y))
        (again,) = torch.autograd.grad(got.sum(), leaf)
        assert_close(again, 2 * grad(lambda x: grad(true)(x, y).sum())(x))
    (through,) = torch.autograd.grad(grad(own)(leaf, y).sum(), leaf)
    assert_close(through, 2 * grad(lambda x: grad(true)(x, y).sum())(x))


@CASES
def test_jit_traces_through(func: Function) -> None:
    x, y = data()
    own = scalar(func)
    assert_close(jit(grad(own))(x, y), grad(own)(x, y))
    assert_close(jit(vmap(hessian(own)))(x, y), vmap(hessian(own))(x, y))
    assert_close(grad(jit(own))(x, y), grad(own)(x, y))
    assert_close(vmap(jit(own))(x, y), vmap(own)(x, y))


def test_the_pullback_runs_once_for_all_arguments() -> None:
    calls = []

    def counted(residuals: Any, cotangents: Any) -> Any:
        calls.append(1)
        return bwd(residuals, cotangents)

    x, y = data()
    grad(scalar(custom(plain, vjp=(fwd, counted))), (0, 1))(x, y)
    assert len(calls) == 1


def test_a_jvp_rule_runs_once() -> None:
    calls = []

    def rule(primals: Any, tangents: Any) -> Any:
        calls.append(1)
        return primals[0].sin(), tangents[0] * primals[0].cos()

    func = custom(torch.sin, jvp=rule)
    x = data()[0][0]
    assert_close(jvp(func, (x,), (x,))[1], x * x.cos())
    assert len(calls) == 1
    assert_close(grad(lambda x: func(x).sum())(x), x.cos())
    assert len(calls) == 2


def test_log1pexp_is_stable() -> None:
    """The example of JAX's tutorial."""

    @custom_jvp
    def log1pexp(x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(x))

    log1pexp.defjvps(lambda t, out, x: (1 - 1 / (1 + x.exp())) * t)
    x = torch.tensor([0.0, 3.0, 1000.0], dtype=torch.float64)
    assert_close(vmap(grad(log1pexp))(x), torch.sigmoid(x))
    assert_close(vmap(grad(grad(log1pexp)))(x[:2]), vmap(grad(torch.sigmoid))(x[:2]))


def test_clipped_gradient() -> None:
    """A pullback that is not the derivative of its function, and not linear."""

    @custom_vjp
    def clip(x: Tensor) -> Tensor:
        return x.clone()

    clip.defvjp(lambda x: (x.clone(), None), lambda _, c: (c.clamp(-1, 1),))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    func = lambda x: (clip(x) ** 2).sum()  # noqa: E731
    assert_close(grad(func)(x), (2 * x).clamp(-1, 1))
    assert_close(vmap(grad(func))(x[:, None]), (2 * x).clamp(-1, 1)[:, None])


def test_pytrees_keywords_and_static_arguments() -> None:
    @custom_vjp
    def func(params: Any, power: int, *, scale: float = 1.0) -> Any:
        return {"out": scale * (params["w"] ** power + params["b"])}

    func.defvjp(
        lambda params, power, *, scale=1.0: (
            func(params, power, scale=scale),
            (params["w"], power, scale),
        ),
        lambda res, c: ({"w": -res[1] * res[2] * c["out"], "b": None}, None),
    )
    params = {"w": torch.ones(2), "b": torch.ones(2)}
    out = grad(lambda p: func(p, 3, scale=2.0)["out"].sum())(params)
    assert_close(out, {"w": torch.full((2,), -6.0), "b": torch.zeros(2)})
    rows = vmap(grad(lambda p: func(p, 3)["out"].sum()))(params)
    assert_close(rows["w"], torch.full((2,), -3.0))


def test_nondiff_argnums_take_functions() -> None:
    @custom_jvp
    def plainly(func: Function, x: Tensor) -> Tensor:
        return func(x)  # type: ignore[no-any-return]

    func = custom(lambda f, x: f(x), nondiff_argnums=(0,))
    func.defjvp(lambda f, primals, tangents: (f(*primals), 5 * tangents[0]))
    x = torch.tensor(0.5, dtype=torch.float64)
    assert_close(grad(lambda x: func(torch.sin, x))(x), 5 * torch.ones_like(x))
    func.jvp = None
    func.defvjp(lambda f, x: (f(x), x), lambda f, x, c: (c * f(x),))
    assert_close(grad(lambda x: func(torch.sin, x))(x), x.sin())
    assert_close(grad(lambda x: plainly(torch.sin, x))(x), x.cos())


def test_a_vmap_rule_is_used_and_differentiated() -> None:
    seen = []

    def rule(info: Any, in_dims: Any, x: Tensor, y: Tensor) -> Any:
        seen.append((info.batch_size, info.randomness, in_dims))
        x = x if in_dims[0] is None else x.movedim(in_dims[0], 0)
        y = y if in_dims[1] is None else y.movedim(in_dims[1], 0)
        return 10 * x * y, 0

    func = custom(torch.mul, vmap=rule)
    x, y = data()
    assert_close(vmap(func, (0, None))(x, y[0]), 10 * x * y[0])
    assert seen == [(4, "error", (0, None))]
    assert_close(grad(lambda x: vmap(func)(x, y).sum())(x), 10 * y)
    assert_close(grad(lambda x: func(x, y).sum())(x), y)
    with_vjp = custom(
        torch.mul,
        vjp=(lambda x, y: (with_vjp(x, y), (x, y)), lambda r, c: (c * r[1], c * r[0])),
        vmap=rule,
    )
    value, pulled = vmap(lambda x, y: jaxtorch.vjp(with_vjp, x, y))(x, y), None
    assert_close(value[0], 10 * x * y)
    assert pulled is None


def test_integer_inputs_and_outputs_have_no_derivative() -> None:
    def fwd(x: Tensor, index: Tensor) -> Any:
        return (x[index], index + 1), (index, x.shape)

    def bwd(residuals: Any, cotangents: Any) -> Any:
        index, shape = residuals
        return torch.zeros(shape).index_add(0, index, 3 * cotangents[0]), None

    func = custom(lambda x, index: fwd(x, index)[0], vjp=(fwd, bwd))
    x, index = torch.arange(4.0), torch.tensor([1, 1, 2])
    expected = torch.tensor([0.0, 6.0, 3.0, 0.0])
    assert_close(grad(lambda x: func(x, index)[0].sum())(x), expected)
    rows = vmap(grad(lambda x: func(x, index)[0].sum()))(torch.stack([x, x]))
    assert_close(rows, torch.stack([expected, expected]))
    assert_close(jvp(lambda x: func(x, index)[0], (x,), (x,))[1], 3 * x[index])


def test_rules_may_use_transforms_and_fresh_tensors() -> None:
    def rule(primals: Any, tangents: Any) -> Any:
        out, tangent = jvp(torch.sin, primals, tangents)
        total = torch.zeros(3, dtype=torch.float64)
        total += tangent
        return out, total

    func = custom(torch.sin, jvp=rule)
    x, _ = data()
    assert_close(vmap(lambda x: jvp(func, (x,), (x,))[1])(x), x * x.cos())
    assert_close(vmap(jacrev(func))(x), torch.diag_embed(x.cos()))
    assert_close(vmap(hessian(lambda x: func(x).sum()))(x), torch.diag_embed(-x.sin()))


def test_methods() -> None:
    class Layer:
        weight = 2.0

        @custom
        def __call__(self, x: Tensor) -> Tensor:
            return self.weight * x

    Layer.__call__.defvjp(
        lambda self, x: (self.weight * x, None), lambda _, c: (None, -c)
    )
    assert_close(grad(Layer().__call__)(torch.tensor(1.0)), torch.tensor(-1.0))


def test_a_captured_value_is_refused() -> None:
    def outer(w: Tensor) -> Tensor:
        func = custom(
            lambda x: x * w, vjp=(lambda x: (x * w, None), lambda _, c: (c * w,))
        )
        return func(w).sum()  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match="pass the value as an argument"):
        grad(outer)(torch.ones(2))


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"vjp": (lambda x: x, None)}, r"fwd must return a pair"),
        ({"vjp": (lambda x: (x, None), lambda _, c: c)}, r"tuple of 1 cotangents"),
        ({"vjp": (lambda x: (x, None), lambda _, c: (c[:1],))}, r"arguments' shapes"),
        ({"jvp": lambda p, t: t[0]}, r"jvp must return a pair"),
        ({"jvp": lambda p, t: (p[0], t[0][:1])}, r"output's shape"),
    ],
)
def test_wrong_rules_are_named(rules: Any, text: str) -> None:
    func = custom(lambda x: x, **rules)
    with pytest.raises(UsageError, match=text):
        grad(lambda x: func(x).sum())(torch.ones(3))
