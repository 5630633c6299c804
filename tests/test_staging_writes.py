"""Writes of a staged function into what it takes and captures: done, or refused."""

import pytest
import torch
from torch.testing import assert_close

from jaxtorch import jit
from jaxtorch.errors import MutationError, UsageError

LEVELS = pytest.mark.parametrize("optimize", ["none", "safe", "full"])


@LEVELS
def test_a_value_of_the_function_is_written_into_a_captured_tensor(optimize):
    def made():
        state = torch.arange(6.0)

        def func(x):
            state.view(2, 3)[1].mul_(x)
            state[0] = x.sum()
            return state * 2

        return func, state

    (own, state), (func, expected) = made(), made()
    staged = jit(own, optimize=optimize)
    for _ in range(2):
        assert_close(staged(torch.full((3,), 2.0)), func(torch.full((3,), 2.0)))
        assert_close(state, expected)


@LEVELS
def test_a_write_through_a_view_of_a_view_of_an_input(optimize):
    def func(x):
        x.view(2, 6)[0][1:3].mul_(5)
        return x.sum()

    x = torch.arange(12.0).view(3, 4)
    y = x.clone()
    assert_close(jit(func, optimize=optimize)(x), func(y))
    assert_close(x, y)


@LEVELS
def test_an_input_that_is_written_and_returned_is_returned_itself(optimize):
    def func(x):
        x.add_(1)
        return x, x * 2, "word"

    staged = jit(func, optimize=optimize)
    x = torch.zeros(3)
    same, twice, word = staged(x)
    assert same is x
    assert word == "word"
    assert_close(twice, torch.full((3,), 2.0))


def add_and_read(x, y):
    x.mul_(2)
    return y + 1


BASE = torch.arange(6.0)


@LEVELS
@pytest.mark.parametrize(
    "args", [(BASE, BASE), (BASE[:4], BASE[2:]), (BASE[1:5], BASE[:4])]
)
def test_inputs_that_share_memory_with_a_written_one_are_refused(args, optimize):
    staged = jit(add_and_read, optimize=optimize)
    staged(*(a.clone() for a in args))
    before = BASE.clone()
    with pytest.raises(UsageError, match="shares memory with another one"):
        staged(*args)
    assert_close(BASE, before)
    assert_close(staged(BASE[:3].clone(), BASE[3:]), BASE[3:] + 1)
    both = BASE.clone()
    staged(both[:3], both[3:])
    assert_close(both, torch.tensor([0.0, 2.0, 4.0, 3.0, 4.0, 5.0]))


@LEVELS
def test_captured_tensors_that_share_memory_with_a_written_one_are_refused(optimize):
    base = torch.arange(6.0)
    part = base[2:]

    def func(x):
        part.add_(x)
        return base * 1

    with pytest.raises(UsageError, match="shares memory with another one"):
        jit(func, optimize=optimize)(torch.ones(4))
    assert_close(base, torch.arange(6.0))


@LEVELS
def test_a_written_input_that_is_a_view_with_a_history(optimize):
    def func(x, y):
        x.mul_(y)
        return x.sin().sum()

    def run(call):
        leaf = torch.ones(4, requires_grad=True)
        factor = torch.full((2,), 0.5, requires_grad=True)
        own = leaf * 3
        out = call(own[:2], factor)
        return torch.autograd.grad(out + own.square().sum(), (leaf, factor))

    assert_close(run(jit(func, optimize=optimize)), run(func))


def test_a_captured_tensor_with_a_history_is_not_written():
    leaf = torch.ones(3, requires_grad=True)
    state = leaf * 2
    for write in (lambda x: state.mul_(x), lambda x: state.mul_(2)):
        with pytest.raises(MutationError, match="captured tensor that requires grad"):
            jit(write)(torch.ones(3))
    (slope,) = torch.autograd.grad(state.sum(), leaf)
    assert_close(slope, torch.full((3,), 2.0))
