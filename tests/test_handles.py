"""What Python asks of a tensor inside a transform: arrays, data, hooks and copies."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from jaxtorch import grad, grad_and_value, jacrev, jvp, vmap
from jaxtorch.core.level import STATE
from jaxtorch.errors import UsageError

X = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
V = X[0]
CALLS: dict[str, Callable[[Any], Any]] = {
    "vmap": lambda f: vmap(f)(X),
    "grad": lambda f: grad(f)(V),
    "jvp": lambda f: jvp(f, (V,), (V,)),
    "vmap of grad": lambda f: vmap(grad(f))(X),
}
pytestmark = pytest.mark.eager(reason="what Python asks of a value, staged or not")


@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_what_is_transformed_are_refused(name: str) -> None:
    for ask in (lambda x: x.numpy(), np.asarray, lambda x: x.mul(2).numpy()):
        with pytest.raises(UsageError, match="NumPy can neither map nor differentiate"):
            CALLS[name](lambda x, ask=ask: x.sum() * float(ask(x)[0]))
    assert STATE.levels == []


@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_what_is_not_transformed(name: str) -> None:
    outside = torch.arange(3.0)

    def func(x: Tensor) -> Tensor:
        factor = outside.numpy().sum() + torch.arange(3).numpy().sum()
        return x.sum() * float(factor + (outside * 2).numpy().sum())

    assert_close(CALLS[name](func), CALLS[name](lambda x: x.sum() * 12))


def test_arrays_of_detached_values() -> None:
    def func(x: Tensor) -> Tensor:
        return (x * torch.from_numpy(np.sin(x.detach().numpy()))).sum()

    assert_close(grad(func)(V), V.sin())
    assert_close(
        grad(lambda x: (x * x.sin().numpy(force=True)[0]).sum())(V), V * 0 + V[0].sin()
    )
    with pytest.raises(UsageError, match="NumPy"):
        vmap(lambda x: x.numpy(force=True))(X)


def test_array_of_a_value_that_outlived_its_level() -> None:
    kept = []
    grad(lambda x: (kept.append(x * 2), x.sum())[1])(V)
    assert_close(torch.from_numpy(kept[0].numpy()), V * 2)


def test_data_is_the_value_without_a_derivative() -> None:
    for jacobian in (grad, jacrev):
        assert_close(jacobian(lambda x: (x.data * x).sum())(V), V)
    assert_close(jvp(lambda x: x.data * x, (V,), (V,))[1], V * V)
    assert_close(vmap(grad(lambda x: (x.data**2).sum()))(X), X * 0)
    assert_close(vmap(lambda x: x.data * 2)(X), X * 2)


@pytest.mark.parametrize("name", CALLS)
def test_data_of_a_value_is_not_replaced(name: str) -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 1
        y.data = torch.ones(3)
        return (y * x).sum()

    with pytest.raises(UsageError, match="would replace a value of the transform"):
        CALLS[name](func)
    with pytest.raises(UsageError, match="convert modules outside of the function"):
        CALLS[name](lambda x: nn.LayerNorm(3).double()(x.double()).sum())


def test_hooks() -> None:
    def hooked(x: Tensor) -> Tensor:
        x.register_hook(lambda g: g * 2)
        return x.sum()

    with pytest.raises(UsageError, match=r"jaxtorch\.custom_vjp"):
        grad(hooked)(V)

    def inside(x: Tensor) -> Tensor:
        y = x.requires_grad_() * 3
        y.register_hook(lambda g: g * 2)
        return torch.autograd.grad(y.sum(), x)[0].sum()

    assert vmap(inside)(X).tolist() == [18.0, 18.0]


def test_copies() -> None:
    assert_close(grad(lambda x: copy.copy(x).square().sum())(V), 2 * V)

    def constant(x: Tensor) -> Tensor:
        layer = copy.deepcopy(nn.Linear(3, 1))
        ones = torch.ones(3)
        twice = copy.deepcopy([ones, ones])
        assert twice[0] is twice[1]
        return (twice[0].add_(1) * x).sum() + layer(x).sum() * 0 + ones.sum()

    assert_close(
        grad_and_value(constant)(V), (torch.full((3,), 2.0), torch.tensor(15.0))
    )
    with pytest.raises(UsageError, match=r"x\.clone\(\)"):
        grad(lambda x: copy.deepcopy(x * 2).sum())(V)


@pytest.mark.parametrize("store", [pickle.dumps, lambda x: torch.save(x, io.BytesIO())])
def test_values_are_not_stored(store: Callable[[Tensor], Any]) -> None:
    with pytest.raises(UsageError, match="can't store a value of the transform"):
        grad(lambda x: (store(x), x.sum())[1])(V)


def test_numbers_read_in_cpp() -> None:
    with pytest.raises(UsageError, match=r"torch\.stack"):
        grad(lambda x: torch.tensor([x[0], x[1]]).sum() * x[0])(V)


@pytest.mark.filterwarnings("ignore")  # of torch.cond, which compiles what it is given
@pytest.mark.parametrize("name", CALLS)
def test_cond_of_pytorch(name: str) -> None:
    def func(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)).sum()

    with pytest.raises(UsageError, match=r"jaxtorch\.cond"):
        CALLS[name](func)
    assert STATE.levels == []
