"""vjp, jvp and hvp: values, cotangents and tangents, aux, repeated and late calls."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, hvp, jacfwd, jvp, linearize, vjp, vmap
from jaxtorch.errors import UsageError


def test_vjp_of_one_input() -> None:
    x, w = torch.randn(3), torch.randn(3)
    out, pull = vjp(torch.sin, x)
    assert_close(out, x.sin())
    got = pull(w)
    assert type(got) is tuple
    assert_close(got, (w * x.cos(),))


def test_vjp_of_several_inputs_and_outputs() -> None:
    x, y = torch.randn(3), torch.randn(3)
    out, pull = vjp(lambda x, y: (x * y, {"sum": x + y}), x, y)
    assert_close(out, (x * y, {"sum": x + y}))
    u, v = torch.randn(3), torch.randn(3)
    assert_close(pull((u, {"sum": v})), (u * y + v, u * x + v))


def test_vjp_of_pytree_inputs() -> None:
    tree = {"a": torch.randn(2), "b": [torch.randn(2)]}
    out, pull = vjp(lambda t: t["a"] * t["b"][0], tree)
    (got,) = pull(torch.ones_like(out))
    assert_close(got, {"a": tree["b"][0], "b": [tree["a"]]})


def test_vjp_fn_may_be_called_again_and_late() -> None:
    x = torch.randn(3)
    _, pull = vjp(lambda x: x.exp() * x, x)
    first = pull(torch.ones(3))
    assert_close(pull(torch.ones(3)), first)
    assert_close(pull(2 * torch.ones(3))[0], 2 * first[0])


def test_vjp_fn_without_retain_graph_runs_once() -> None:
    _, pull = vjp(torch.sin, torch.zeros(3))
    assert_close(pull(torch.ones(3), retain_graph=False), (torch.ones(3),))


def test_vjp_output_that_does_not_depend_on_the_input() -> None:
    _, pull = vjp(lambda x: torch.ones(2), torch.ones(3))
    assert_close(pull(torch.ones(2)), (torch.zeros(3),))
    _, pull = vjp(lambda x, y: x, torch.ones(3), torch.ones(2))
    assert_close(pull(torch.ones(3)), (torch.ones(3), torch.zeros(2)))


def test_vjp_aux() -> None:
    x = torch.randn(3)
    out, pull, aux = vjp(lambda x: (x.sin(), {"c": x.cos()}), x, has_aux=True)
    assert type(aux["c"]) is Tensor
    assert_close(aux["c"], x.cos())
    assert_close(pull(torch.ones(3)), (x.cos(),))


def test_vjp_of_a_function_without_inputs_that_matter() -> None:
    out, pull = vjp(lambda x: x, torch.ones(2))
    assert_close(out, torch.ones(2))
    assert_close(pull(torch.full((2,), 3.0)), (torch.full((2,), 3.0),))


def test_vjp_fn_is_a_function_like_any_other() -> None:
    x = torch.randn(3, dtype=torch.float64)
    _, pull = vjp(lambda x: x.sin(), x)
    rows = vmap(lambda w: pull(w)[0])(torch.eye(3, dtype=torch.float64))
    assert_close(rows, torch.diag(x.cos()))
    again = grad(lambda w: pull(w)[0].square().sum())(
        torch.ones(3, dtype=torch.float64)
    )
    assert_close(again, 2 * x.cos() ** 2)


def test_vjp_of_vjp_with_respect_to_the_cotangent() -> None:
    x = torch.randn(3)
    _, pull = vjp(torch.sin, x)
    _, push = vjp(pull, torch.zeros(3))
    assert_close(push((torch.ones(3),)), (x.cos(),))


def test_complex_vjp_is_the_adjoint() -> None:
    x = torch.randn(3, dtype=torch.complex128)
    w = torch.randn(3, dtype=torch.complex128)
    for func in (
        torch.sin,
        lambda x: x.conj() * x,
        lambda x: x.abs(),
        lambda x: x.real,
    ):
        leaf = x.clone().requires_grad_()
        out = func(leaf)
        v = w if out.is_complex() else w.real
        expected = torch.autograd.grad(out, leaf, v)
        assert_close(vjp(func, x)[1](v), expected)


def test_jvp_of_one_input() -> None:
    x, t = torch.randn(3), torch.randn(3)
    out, tangent = jvp(torch.sin, (x,), (t,))
    assert type(out) is Tensor
    assert type(tangent) is Tensor
    assert_close((out, tangent), (x.sin(), t * x.cos()))


def test_jvp_of_several_inputs_and_pytrees() -> None:
    x, y = torch.randn(3), torch.randn(3)
    t, u = torch.randn(3), torch.randn(3)
    func = lambda x, d: {"p": x * d["y"], "s": [x]}  # noqa: E731
    out, tangent = jvp(func, (x, {"y": y}), (t, {"y": u}))
    assert_close(out, {"p": x * y, "s": [x]})
    assert_close(tangent, {"p": t * y + x * u, "s": [t]})


def test_jvp_of_what_does_not_depend_on_the_input() -> None:
    y = torch.randn(2)
    out, tangent = jvp(lambda x: y, (torch.ones(3),), (torch.ones(3),))
    assert_close((out, tangent), (y, torch.zeros(2)))
    out, tangent = jvp(lambda x: (x, torch.ones(1)), (torch.ones(3),), (torch.ones(3),))
    assert_close(tangent, (torch.ones(3), torch.zeros(1)))


def test_jvp_aux() -> None:
    x = torch.randn(3)
    out, tangent, aux = jvp(
        lambda x: (x.sin(), (x.cos(),)), (x,), (torch.ones(3),), has_aux=True
    )
    assert type(aux[0]) is Tensor
    assert_close((tangent, aux[0]), (x.cos(), x.cos()))


def test_jvp_strict_accepts_what_depends() -> None:
    _, tangent = jvp(torch.sin, (torch.zeros(2),), (torch.ones(2),), strict=True)
    assert_close(tangent, torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_jvp_keeps_the_dtype_of_scalars(dtype: torch.dtype) -> None:
    x = torch.tensor(0.5, dtype=dtype)
    for func in (lambda x: x * 2.0, lambda x: x / 3, lambda x: 2.0 - x, torch.sin):
        out, tangent = jvp(func, (x,), (torch.ones_like(x),))
        assert out.dtype is dtype
        assert tangent.dtype is dtype


def test_jvp_nested() -> None:
    x = torch.tensor(0.3, dtype=torch.float64)
    one = torch.ones_like(x)
    func: Any = torch.sin
    for _ in range(3):
        func = (lambda f: lambda x: jvp(f, (x,), (one,))[1])(func)
    assert_close(func(x), -x.cos())


def test_jvp_along_a_direction_that_depends_on_the_input() -> None:
    x = torch.tensor(0.3, dtype=torch.float64)
    got = grad(lambda x: jvp(torch.sin, (x,), (x * x,))[1])(x)
    assert_close(got, 2 * x * x.cos() - x * x * x.sin())


def test_complex_jvp() -> None:
    x = torch.randn(3, dtype=torch.complex128)
    t = torch.randn(3, dtype=torch.complex128)
    step = 1e-6
    for func in (torch.sin, lambda x: x.conj() * x, torch.abs, lambda x: x.real * x):
        slope = (func(x + step * t) - func(x - step * t)) / (2 * step)
        assert_close(jvp(func, (x,), (t,))[1], slope, rtol=1e-6, atol=1e-8)


def test_forward_and_reverse_agree() -> None:
    x = torch.randn(4, dtype=torch.float64)
    func = lambda x: torch.outer(x, x.sin()).cumsum(0).tanh()  # noqa: E731
    v = torch.randn(4, dtype=torch.float64)
    out, pushed = jvp(func, (x,), (v,))
    w = torch.randn_like(out)
    (pulled,) = vjp(func, x)[1](w)
    assert_close((pushed * w).sum(), (v * pulled).sum())


def test_hvp() -> None:
    x, v = torch.randn(3), torch.randn(3)
    value, product = hvp(lambda x: (x**3).sum(), (x,), (v,))
    assert_close(value, (x**3).sum())
    assert_close(product, 6 * x * v)


def test_hvp_of_several_inputs() -> None:
    x, y = torch.randn(3), torch.randn(3)
    u, v = torch.randn(3), torch.randn(3)
    value, (a, b) = hvp(lambda x, y: (x**2 * y).sum(), (x, y), (u, v))
    assert_close(a, 2 * y * u + 2 * x * v)
    assert_close(b, 2 * x * u)


def test_hvp_of_a_pytree() -> None:
    tree = {"a": torch.randn(2), "b": torch.randn(2)}
    ones = {"a": torch.ones(2), "b": torch.ones(2)}
    _, product = hvp(lambda t: (t["a"] ** 2 * t["b"]).sum(), (tree,), (ones,))
    assert_close(product["a"], 2 * tree["b"] + 2 * tree["a"])


def test_hvp_under_vmap() -> None:
    x, v = torch.randn(3), torch.randn(5, 3)
    func = lambda x: x.exp().sum() * x.sum()  # noqa: E731
    got = vmap(lambda v: hvp(func, (x,), (v,))[1])(v)
    hessian = torch.autograd.functional.hessian(func, x)
    assert_close(got, v @ hessian)


def test_cotangents_are_cast_to_the_dtype_of_the_output() -> None:
    x = torch.randn(3)
    out, vjp_fn = vjp(torch.sin, x)
    for dtype in (torch.float64, torch.float16, torch.int64):
        (pulled,) = vjp_fn(torch.ones(3, dtype=dtype))
        assert pulled.dtype is out.dtype
        assert_close(pulled, x.cos())
        assert_close(
            torch.func.vjp(torch.sin, x)[1](torch.ones(3, dtype=dtype))[0], pulled
        )


def test_real_and_complex_cotangents_are_not_confused() -> None:
    x = torch.randn(3)
    for point, cotangent in ((x, torch.ones(3) + 0j), (x + 0j, torch.ones(3))):
        with pytest.raises(UsageError, match="both must be complex, or none"):
            vjp(torch.sin, point)[1](cotangent)


def test_outputs_of_integers_have_tangents_of_zeros() -> None:
    x, v = torch.randn(3), torch.randn(3)

    def func(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sin(), x.argmax()

    zero = torch.zeros((), dtype=torch.int64)
    out, tangent = jvp(func, (x,), (v,))
    assert_close((out, tangent), (func(x), (v * x.cos(), zero)))
    assert_close(linearize(func, x)[1](v), (v * x.cos(), zero))
    assert_close(jacfwd(func)(x), (x.cos().diag(), torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(UsageError, match="does not depend"):
        jvp(func, (x,), (v,), strict=True)


@pytest.mark.parametrize("wrong", [2.0, None, torch.arange(3)])
def test_inputs_without_a_derivative_are_values_and_uses(wrong: Any) -> None:
    """torch.func raises one or the other, by transform: both are caught here."""
    for call in (
        lambda: grad(torch.sum)(wrong),
        lambda: vjp(torch.sin, wrong),
        lambda: linearize(torch.sin, wrong),
        lambda: jacfwd(torch.sin)({"a": wrong}),
    ):
        for builtin in (ValueError, RuntimeError):
            with pytest.raises(builtin, match=r"differentiated input|have derivatives"):
                call()
