"""Values that depend on nothing from outside are known while a function is staged."""

import pytest
import torch

import jaxtorch
from jaxtorch import jit
from tests.checked_graphs import checked_graphs  # noqa: F401 - used by every test

X = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
ONES = torch.ones(4, 3)


def branch(x):
    return x if (torch.arange(3) < 5).all() else -x


def number(x):
    return x * torch.tensor([2.0, 3.0]).prod().item()


def numbers(x):
    return x * torch.arange(3).mul(2).tolist()[2]


def places(x):
    rows, columns = torch.ones(4, 3).tril().nonzero(as_tuple=True)
    return x[rows, columns]


def mask(x):
    return x[torch.ones(4, 3).tril() > 0]


def mask_and_index(x):
    return x[torch.tensor([True, False, True, False]), torch.tensor([0, 2])]


def under_no_grad(x):
    with torch.no_grad():
        size = torch.ones(3).sum()
    return x * float(size)


def several_results(x):
    return x + torch.arange(3.0).max(0).values.item()


CONSTANT = [
    branch,
    number,
    numbers,
    places,
    mask,
    mask_and_index,
    under_no_grad,
    several_results,
]


@pytest.mark.parametrize("func", CONSTANT)
def test_values_that_are_known(func):
    torch.testing.assert_close(jit(func)(X), func(X))


@pytest.mark.parametrize("func", CONSTANT)
def test_values_that_are_known_inside_transforms(func):
    def total(x):
        return func(x).sin().sum()

    mapped = jaxtorch.vmap(jaxtorch.grad(total))
    batch = torch.stack([X, X + 1])
    torch.testing.assert_close(jit(mapped)(batch), mapped(batch))


UNKNOWN = {
    "an input": lambda x: x * x.sum().item(),
    "a captured tensor": lambda x: x * ONES.sum().item(),
    "a random number": lambda x: x * torch.rand(3).sum().item(),
    "a list": lambda x: x * x.tolist()[0][0],
    "a mask": lambda x: x[x > 0],
    "places": lambda x: x[(x > 0).nonzero()],
    "what was written": lambda x: torch.zeros(4, 3).add_(x).sum().item() * x,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_values_that_are_not_known(name):
    with pytest.raises(RuntimeError, match=r"(?s)constants.py.*Fix: use torch.where"):
        jit(UNKNOWN[name])(X)


@pytest.mark.parametrize("optimize", ["none", "full"])
def test_a_tensor_that_the_function_makes_is_fresh_at_each_call(optimize):
    def written(x):
        out = torch.tensor([1.0, 2.0, 3.0])
        out.add_(x)
        return out

    def returned(x):
        return torch.tensor([1.0, 2.0, 3.0])

    for func in (written, returned):
        staged = jit(func, optimize=optimize)
        for _ in range(2):
            out = staged(X[0])
            torch.testing.assert_close(out, func(X[0]))
            out.add_(5)


def test_a_literal_costs_no_call():
    lowered = jit(lambda x: x * torch.tensor([1.0, 2.0, 3.0])).lower(X)
    assert lowered.code.count("\n") == 3


def test_defaults_are_those_of_the_trace():
    def func(x):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        out = torch.zeros(3)
        torch.set_default_dtype(before)
        return out, torch.ones(3) * 2, x

    staged = jit(func)
    for dtype in (torch.float32, torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            zeros, ones, _ = staged(X)
        finally:
            torch.set_default_dtype(torch.float32)
        assert zeros.dtype is torch.float64
        assert ones.dtype is dtype
    assert staged.cache_info().misses == 2
