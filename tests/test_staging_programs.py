"""The generated program: calls in place, calls combined, numbers made tensors."""

import pytest
import torch

import jaxtorch
from jaxtorch import jit, make_graph
from jaxtorch.staging.passes.combining import combine
from jaxtorch.staging.passes.pipeline import drop_dead_code
from jaxtorch.staging.passes.reuse import reuse_memory
from tests.checked_graphs import checked_graphs  # noqa: F401 - used by every test

X = torch.linspace(-1.0, 1.0, 9).reshape(3, 3)
V = torch.linspace(0.5, 1.0, 3)


def in_place(func, *args):
    """Return the names of the calls of a traced function that are made in place."""
    graph = make_graph(func)(*args)
    reuse_memory(graph)
    return [
        node.name.partition("_")[0] for node in graph.nodes if node.meta.get("in_place")
    ]


REUSED = {
    "a chain": (lambda x: (x.sin() * 2).exp(), ["mul", "exp"]),
    "the second of two": (lambda x: x * x.sin(), ["mul"]),
    "a product of matrices": (lambda x: (x @ x).tanh(), ["tanh"]),
    "the input": (lambda x: x.sin(), []),
    "a captured tensor": (lambda x: X * x, []),
    "read again": (lambda x: (y := x.sin()) * (y * 2), ["mul"]),
    "returned": (lambda x: (y := x.sin(), y * 2), []),
    "read by a view": (lambda x: (y := x.sin()).t() + y, []),
    "a view": (lambda x: x.sin().t() * 2, []),
    "a reshape, which may be one": (lambda x: x.reshape(9) * 2, []),
    "another shape": (lambda x: x[0].sin() * x, []),
    "another dtype": (lambda x: x.sin() > 0, []),
    "a sum from the right": (lambda x: x - x.sin(), []),
    "a loop's result": (
        lambda x: jaxtorch.fori_loop(0, 2, lambda i, c: c * 2, x) * 2,
        [],
    ),
    "under no_grad": (lambda x: nograd(x) * 2, []),
}


def nograd(x):
    """Return a value that is marked in the graph."""
    with torch.no_grad():
        return x.sin()


@pytest.mark.parametrize("name", REUSED)
def test_what_is_made_in_place(name):
    func, expected = REUSED[name]
    assert in_place(func, X) == expected
    x = X.clone()
    for optimize in ("safe", "full"):
        torch.testing.assert_close(jit(func, optimize=optimize)(x), func(X))
    assert torch.equal(x, X)


def test_a_result_that_died_is_freed_by_its_reuse():
    x = torch.ones(1000)
    lowered = jit(lambda x: x.sin().cos().tanh().exp()).lower(x)
    assert lowered.peak_bytes == 4000
    assert "op_cos_(" in lowered.code


def test_a_batch_of_any_size_is_not_written_into_a_fixed_shape():
    def func(x):
        fixed = torch.cat([V, V[:1]]).sin()
        return fixed[: V.shape[0] + 1].sum() * x.cos() + x

    staged = jit(func, dynamic=True)
    for size in (4, 5, 9):
        x = torch.linspace(0, 1, size)
        torch.testing.assert_close(staged(x), func(x))
    assert staged.cache_info().misses == 2


COMBINED = {
    "a product": (lambda x, v: x + x.sin() * v, ["addcmul"]),
    "a product on the left": (lambda x, v: x.sin() * v + x, ["addcmul"]),
    "a product taken off": (lambda x, v: x - x.sin() * v, ["addcmul"]),
    "a minus sign": (lambda x, v: x + x.sin() * -v, ["addcmul"]),
    "two minus signs": (lambda x, v: x - x.sin() * -v, ["addcmul"]),
    "matrices": (lambda x, v: x @ x.sin() + v, ["addmm"]),
    "a matrix and a vector": (lambda x, v: v + x.sin() @ v, ["addmv"]),
    "read twice": (lambda x, v: (y := x.sin() * v, x + y), ["mul", "add"]),
    "less a sum": (lambda x, v: x.sin() * v - x, ["mul", "sub"]),
    "a number": (lambda x, v: x.sin() * 2 + v, ["mul", "add"]),
    "a larger shape": (lambda x, v: x.sin() @ v + x, ["mv", "add"]),
    "another dtype": (lambda x, v: x.sin() * v + v.double(), ["mul", "add"]),
}


@pytest.mark.parametrize("name", COMBINED)
def test_what_is_combined(name):
    func, expected = COMBINED[name]
    graph = make_graph(func)(X, V)
    combine(graph)
    drop_dead_code(graph)
    names = [n.name.partition("_")[0] for n in graph.nodes if n.op == "call_function"]
    assert [n for n in names if n not in ("sin", "", "neg")] == expected
    torch.testing.assert_close(jit(func)(X, V), func(X, V))


def test_numbers_become_tensors_where_every_bit_stays():
    def func(x):
        return (x * 0.1 + 0.3) / 0.7 - 1

    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        x = X.to(dtype)
        staged = jit(func, optimize="safe")
        assert torch.equal(staged(x), func(x))
        assert ("0.1" in staged.lower(x).code) == (
            dtype in (torch.bfloat16, torch.complex64)
        )
    assert torch.equal(
        jit(lambda n: n * 2 + 1)(torch.arange(3)), torch.tensor([1, 3, 5])
    )


def test_what_autograd_traces_writes_nowhere():
    x = X.clone().requires_grad_()

    def func(x):
        return ((x.sin() * 0.5).exp() * 3).tanh().sum()

    (first,) = torch.autograd.grad(jit(func)(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x)
    (own,) = torch.autograd.grad(func(x), x, create_graph=True)
    torch.testing.assert_close(first, own)
    torch.testing.assert_close(second, torch.autograd.grad(own.pow(2).sum(), x)[0])


@pytest.mark.parametrize("sorter", [None, torch.tensor([2, 0, 1])])
def test_a_search_is_staged_with_and_without_an_order(sorter):
    def search(bounds, x):
        return torch.searchsorted(bounds, x, sorter=sorter)

    bounds = torch.tensor([0.6, 0.9, 0.5]) if sorter is not None else V
    torch.testing.assert_close(jit(search)(bounds, V), search(bounds, V))
