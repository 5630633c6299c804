"""Wrappers that outlive their transform: what can be used, and what is refused."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacrev, jvp, linearize, vjp, vmap
from jaxtorch.core.level import STATE
from jaxtorch.errors import EscapedTensorError

X = torch.arange(3.0)


def leaked(transform: Callable[[Any], Any], use: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what a function stores while it is transformed."""
    kept: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        kept.append(use(x))
        return x.sum()

    transform(func)
    return kept[0]


DERIVATIVES = {
    "grad": lambda f: grad(f)(X),
    "vjp": lambda f: vjp(f, X),
    "jvp": lambda f: jvp(f, (X,), (X,)),
    "linearize": lambda f: linearize(f, X),
    "jacrev": lambda f: jacrev(f)(X),
}
EACH = pytest.mark.parametrize("name", DERIVATIVES)


@EACH
def test_value_of_a_closed_derivative_is_its_primal(name: str) -> None:
    dead = leaked(DERIVATIVES[name], torch.sin)
    assert_close(dead * 1, X.sin())
    assert_close(torch.stack([dead, X]), torch.stack([X.sin(), X]))
    assert float(dead[1]) == float(X.sin()[1])
    assert type(dead + 1) is Tensor


@EACH
def test_dead_value_is_a_constant_elsewhere(name: str) -> None:
    dead = leaked(DERIVATIVES[name], torch.sin)
    assert_close(grad(lambda x: (x * dead).sum())(X), X.sin())
    assert_close(vmap(lambda e: e * dead)(X), torch.outer(X, X.sin()))
    assert_close(jvp(lambda x: x * dead, (X,), (X,))[1], X * X.sin())


@EACH
def test_dead_value_as_an_argument(name: str) -> None:
    dead = leaked(DERIVATIVES[name], torch.sin)
    assert_close(grad(torch.sum)(dead), torch.ones(3))
    assert_close(vmap(torch.neg)(dead), -X.sin())
    assert_close(vmap(torch.mul, in_dims=(0, None))(X, dead), torch.outer(X, X.sin()))
    assert_close(jvp(torch.neg, (dead,), (dead,))[1], -X.sin())


@EACH
def test_write_into_a_dead_value(name: str) -> None:
    dead = leaked(DERIVATIVES[name], torch.sin)
    dead.add_(1)
    assert_close(dead * 1, X.sin() + 1)


@EACH
def test_view_whose_base_was_written_last(name: str) -> None:
    kept: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        y = x * 2
        kept.append(y[1:])
        y.add_(1)
        return y.sum()

    DERIVATIVES[name](func)
    assert_close(kept[0] + 0, X[1:] * 2 + 1)


def test_dead_batched_value_is_refused() -> None:
    dead = leaked(lambda f: vmap(f)(torch.ones(2, 3)), torch.sin)
    for use in (
        lambda: dead + 1,
        lambda: torch.stack([X, dead]),
        lambda: vmap(torch.neg)(dead),
        lambda: grad(torch.sum)(dead),
        lambda: vmap(lambda e: e + dead)(X),
        lambda: dead.tolist(),
        lambda: dead.add_(1),
        lambda: torch.add(1, other=dead),
    ):
        with pytest.raises(
            EscapedTensorError, match="after its vmap has returned"
        ) as e:
            use()
        assert isinstance(e.value, RuntimeError)
        assert "Fix:" in str(e.value)
        assert STATE.levels == []


def test_dead_value_that_was_never_batched_may_be_used() -> None:
    dead = leaked(lambda f: vmap(f)(torch.ones(2, 3)), lambda x: torch.ones(3) * 2)
    assert_close(dead + 1, torch.full((3,), 3.0))


def test_leaked_from_nests() -> None:
    dead = leaked(lambda f: vmap(grad(f))(torch.ones(2, 3)), torch.sin)
    with pytest.raises(EscapedTensorError):
        dead + 1
    dead = leaked(lambda f: grad(lambda x: grad(f)(x).sum())(X), torch.sin)
    assert_close(dead + 0, X.sin())


def test_inner_value_used_at_the_outer_level() -> None:
    def outer(x: Tensor) -> Tensor:
        dead = leaked(lambda f: grad(f)(x), torch.sin)
        return (dead * x).sum()

    assert_close(grad(outer)(X), X.cos() * X + X.sin())


def test_inner_batched_value_used_at_the_outer_level_is_refused() -> None:
    def outer(x: Tensor) -> Tensor:
        dead = leaked(lambda f: vmap(f)(torch.ones(2, 3)), torch.sin)
        return (dead * x).sum()

    with pytest.raises(EscapedTensorError):
        grad(outer)(X)
    assert STATE.levels == []


def test_value_stored_before_an_error_is_dead() -> None:
    kept = []

    def func(x: Tensor) -> Tensor:
        kept.append(x * 2)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        grad(func)(X)
    assert_close(kept[0] + 0, X * 2)


def test_generator_that_is_resumed_after_the_transform() -> None:
    def generator(x: Tensor) -> Any:
        yield x.sin()
        yield x.cos()

    made: list[Any] = []

    def func(x: Tensor) -> Tensor:
        made.append(generator(x))
        return next(made[0]).sum()

    assert_close(grad(func)(X), X.cos())
    assert_close(next(made[0]) + 0, X.cos())


def test_outputs_keep_no_tape_alive() -> None:
    residuals = []

    def func(x: Tensor) -> Tensor:
        y = x.exp()
        residuals.append(weakref.ref(y))
        return (y * y).sum()

    got = grad(func)(X)
    gc.collect()
    assert residuals[0]() is None
    assert_close(got, 2 * (2 * X).exp())


def test_memory_is_released_with_the_pull() -> None:
    x = torch.ones(3)
    seen = weakref.ref(x)
    _, pull = vjp(lambda x: x * x, x)
    del x
    assert seen() is not None
    del pull
    gc.collect()
    assert seen() is None
