"""What makes ``jit`` stage anew, what does not, and what it says of it."""

import copy
import functools
import logging
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jit
from jaxtorch.core.level import STATE
from jaxtorch.errors import ArgumentTypeError

X = torch.arange(12.0).reshape(3, 4)


def test_a_captured_tensor_of_another_kind_stages_anew() -> None:
    weight = torch.nn.Parameter(torch.randn(4))

    def func(x: Tensor) -> Tensor:
        return (x.to(weight.dtype) * weight).sum() * weight.shape[0] + weight.stride(-1)

    staged = jit(func)
    wide = torch.randn(6, 4)
    for value in (
        torch.randn(4),
        torch.randn(4),
        torch.randn(3, 4),
        torch.randn(4).double(),
        wide.t()[:, :1].t(),
        wide.t()[:, :3].t(),
        torch.randn(4),
    ):
        weight.data = value
        assert_close(staged(X), func(X))
        assert_close(jit(grad(func))(X), grad(func)(X))
    assert staged.cache_info()[:2] == (1, 6)
    assert staged.cache_info().currsize == 1


def test_what_else_changes_of_a_captured_tensor_is_seen_without_staging() -> None:
    weight = torch.nn.Parameter(torch.randn(4))
    staged = jit(lambda x: x * weight)
    staged(X)
    with torch.no_grad():
        weight.mul_(2)
    weight.data = torch.randn(4)
    assert_close(staged(X), X * weight)
    weight.requires_grad_(False)
    assert not staged(X).requires_grad
    with torch.inference_mode():
        weight.data = torch.randn(4)
    assert_close(staged(X), X * weight)
    assert staged.cache_info().misses == 1


def test_a_captured_tensor_of_another_kind_where_every_length_is_staged() -> None:
    weight = torch.randn(4)
    staged = jit(lambda x: x * weight, dynamic=True)
    for x in (X, X[:2], torch.randn(9, 4)):
        assert_close(staged(x), x * weight)
    assert staged.cache_info().misses == 2
    weight.data = torch.randn(1, 4).double()
    for x in (X[:2], X, torch.randn(9, 4)):
        assert_close(staged(x), x * weight)


WEIGHT = torch.randn(4)
CHANGES: dict[str, tuple[Callable[..., object], object, object, str]] = {
    "shape": (
        torch.sin,
        X,
        X[:2],
        "leaf 0 was float32[3, 4] on cpu and is float32[2, 4] on cpu",
    ),
    "dtype": (torch.sin, X, X.double(), "is float64[3, 4] on cpu"),
    "device": (torch.sin, X, X.to("meta"), "is float32[3, 4] on meta"),
    "value": (lambda n: X * n, 2, 3, "leaf 0 was 2 and is 3"),
    "type": (lambda n: X * n, 2, 2.0, "leaf 0 was 2 and is 2.0"),
    "to a number": (lambda n: X * n, X, 2.0, "the structure of the arguments is new"),
    "structure": (lambda x: x, (X,), [X], "the structure of the arguments is new"),
    "layout": (
        lambda x: x * x.stride(0),
        X,
        X.t().contiguous().t(),
        "the tensors lay in memory with strides [(4, 1)] and lie with strides [(1, 3)]",
    ),
}


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of calls that were staged, since the last time."""
    said = [record.getMessage().partition("stages: ")[2] for record in caplog.records]
    caplog.clear()
    return said


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="jaxtorch.jit")
    return caplog


@pytest.mark.parametrize("name", CHANGES)
def test_the_reason_in_words(name: str, log: pytest.LogCaptureFixture) -> None:
    func, first, second, words = CHANGES[name]
    staged = jit(func)
    staged(first)
    staged(second)
    start, then = reasons(log)
    assert start == "the first call"
    assert words in then


def test_the_reason_is_a_setting(log: pytest.LogCaptureFixture) -> None:
    staged = jit(torch.sin)
    staged(X)
    torch.set_default_dtype(torch.float64)
    try:
        staged(X)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        staged(X)
    assert reasons(log)[1:] == [
        "the default dtype was torch.float32 and is torch.float64",
        "the grad mode was True and is False",
    ]


def test_the_reason_is_a_captured_tensor(log: pytest.LogCaptureFixture) -> None:
    weight = torch.randn(4)
    staged = jit(lambda x: x * weight)
    staged(X)
    weight.data = torch.randn(1, 4)
    staged(X)
    assert "a captured tensor was float32[4] on cpu with" in reasons(log)[1]


def test_autocast_and_the_default_device_are_part_of_the_signature() -> None:
    w = torch.randn(4, 5)
    staged = jit(lambda x: x @ w)
    made = jit(lambda x: torch.ones(len(x)))
    with torch.autocast("cpu"):
        assert staged(X).dtype == torch.bfloat16
    assert staged(X).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.float16):
        assert staged(X).dtype == torch.float16
    assert made(X).device.type == "cpu"
    with torch.device("meta"):
        assert made(X).device.type == "meta"


def steps(x: Tensor) -> Iterator[Tensor]:
    yield x.sin()


async def later(x: Tensor) -> Tensor:
    return x.sin()


async def many(x: Tensor) -> AsyncIterator[Tensor]:
    yield x.sin()


@pytest.mark.parametrize(
    "func", [steps, later, many, lambda x: (x, map(torch.sin, [x]))]
)
def test_results_that_have_not_run_yet_are_refused(func: Callable[..., Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="return a list or a tuple"):
        jit(func)(X)
    assert not STATE.levels


@jit
def decorated(x: Tensor) -> Tensor:
    return x.sin()


class Scaled:
    """Has a method that is staged."""

    @jit
    def scale(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))]
)
def test_copies(duplicate: Callable[[Any], Any]) -> None:
    assert duplicate(decorated) is decorated
    assert duplicate(Scaled.scale) is Scaled.scale
    module = torch.nn.Linear(4, 2)
    staged = jit(module, static_argnames="n", optimize="safe")
    expected = staged(X)
    copied = duplicate(staged)
    assert copied.cache_info().currsize == 0
    assert_close(copied(X), expected)
    assert (copied.static_argnames, copied.optimize) == (("n",), "safe")


@pytest.mark.parametrize("func", [torch.nn.Linear(4, 2), functools.partial(torch.sin)])
def test_callables_without_a_name(
    func: Callable[..., object], log: pytest.LogCaptureFixture
) -> None:
    jit(func)(X)
    assert f"jit({type(func).__name__}) stages" in log.text
