"""Tensors lie in memory as the calls that read them need them."""

import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from jaxtorch import hessian, jit, make_graph, vmap
from jaxtorch.staging.passes.layouts import can_be_read, lay_out_batches
from jaxtorch.staging.passes.rewriting import value_of

aten: Any = torch.ops.aten


def smooth_maximum(x: Tensor, weight: Tensor) -> Tensor:
    """Return a scalar function with a full Hessian."""
    return (weight @ torch.tanh(weight @ x)).logsumexp(0)


def batches_in(graph: fx.Graph) -> list[fx.Node]:
    """Return the products of batches of matrices."""
    return [n for n in graph.nodes if n.target is aten.bmm.default]


def copies_in(code: str) -> int:
    """Count the copies that a program makes."""
    return code.count("op_clone(") + code.count("op_contiguous(")


def before(order, sizes):
    """Return the shape that is permuted to ``sizes``."""
    return [sizes[order.index(place)] for place in range(len(sizes))]


@pytest.mark.parametrize(
    ("order", "copies"),
    [((0, 1, 2), 0), ((0, 2, 1), 0), ((1, 0, 2), 0), ((2, 1, 0), 1), ((2, 0, 1), 1)],
)
def test_matrices_that_blas_cannot_read_are_copied(order, copies):
    x, y = torch.randn(before(order, (9, 10, 8))), torch.randn(9, 8, 7)

    def product(x, y):
        return torch.bmm(x.permute(order), y)

    graph = make_graph(product)(x, y)
    assert lay_out_batches(graph) == copies
    (node,) = batches_in(graph)
    assert all(can_be_read(value_of(part)) for part in node.args)
    program = jit(product, backend="python")
    assert copies_in(program.lower(x, y).code) == copies
    torch.testing.assert_close(program(x, y), product(x, y))


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_a_batch_of_columns_is_multiplied_as_rows(order):
    x, y = torch.randn(before(order, (9, 30, 20))), torch.randn(9, 20, 1)

    def product(x, y):
        return torch.bmm(x.permute(order), y)

    graph = make_graph(product)(x, y)
    assert lay_out_batches(graph) == 1 + (order == (2, 0, 1))
    (node,) = batches_in(graph)
    assert list(value_of(node).shape) == [9, 1, 30]
    program = jit(product, backend="python")
    torch.testing.assert_close(program(x, y), product(x, y))
    assert program(x, y).stride() == product(x, y).stride()


def test_small_matrices_stay_where_they_are():
    x, y = torch.randn(3, 4, 50), torch.randn(50, 3, 5)
    lowered = jit(lambda x, y: x.permute(2, 1, 0) @ y, backend="python").lower(x, y)
    assert copies_in(lowered.code) == 0


def test_rewritten_batches_need_no_copy():
    x, weight = torch.randn(32, 8), torch.randn(8, 8)
    program = jit(vmap(hessian(smooth_maximum), (0, None)), backend="python")
    lowered = program.lower(x, weight)
    assert "rewrites:" in lowered.explain()
    assert "op_bmm" in lowered.code
    assert copies_in(lowered.code) == 0
    expected = vmap(hessian(smooth_maximum), (0, None))(x, weight)
    torch.testing.assert_close(program(x, weight), expected)


FAULTS = """
import resource, torch, jaxtorch
x = torch.ones(1 << 20)
func = jaxtorch.jit(lambda x: [x + i for i in range(6)])
calls = 10
for _ in range(calls):
    func(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(calls):
    func(x)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // calls)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is how glibc is")
def test_calls_reuse_the_pages_of_the_call_before():
    run = [sys.executable, "-c", FAULTS]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # the results have 6144 pages


def pair_energy(x: Tensor, pairs: Tensor) -> Tensor:
    """Return the energy of atoms at positions [n, 3]."""
    gaps = x[pairs[0]] - x[pairs[1]]
    return (1 / (1 + (gaps**2).sum(-1)) ** 2).sum()


def test_what_goes_to_the_same_places_is_scattered_once():
    x, pairs = torch.randn(20, 3, dtype=torch.float64), torch.triu_indices(20, 20, 1)
    program = jit(hessian(pair_energy), backend="python")
    torch.testing.assert_close(program(x, pairs), hessian(pair_energy)(x, pairs))
    code = program.lower(x, pairs).code
    assert code.count("op_index_put(") == 1
    assert code.count("op_index_put_(") == 3


def test_scatters_over_several_dims():
    x = torch.randn(3, 4, dtype=torch.float64)
    first, second = torch.tensor([0, 2, -1]), torch.tensor([1, 1, 0])

    def func(x):
        rows = torch.zeros(4, 4, dtype=x.dtype).index_put((first,), x, True)
        others = torch.zeros(4, 4, dtype=x.dtype).index_put((second,), x * 2, True)
        columns = torch.zeros(4, 4, dtype=x.dtype).index_put(
            (torch.arange(4)[:, None], first), x.T, True
        )
        return rows + others + columns

    torch.testing.assert_close(jit(func, backend="python")(x), func(x))
    torch.testing.assert_close(
        jit(hessian(lambda x: func(x).pow(3).sum()))(x),
        hessian(lambda x: func(x).pow(3).sum())(x),
    )
