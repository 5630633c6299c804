"""What makes ``jit`` stage anew, what does not, and what it says of it."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jit

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
