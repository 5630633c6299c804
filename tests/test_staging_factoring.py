"""Products that share a factor are added before they are multiplied."""

import pytest
import torch

import jaxtorch

A, B = torch.randn(2, 5, 5, dtype=torch.float64)
X, Y, Z = torch.randn(3, 5, 7, dtype=torch.float64)

CASES = {
    "left": (lambda: A @ X + A @ Y, 1),
    "right": (lambda: A @ X - B @ X, 1),
    "numbers": (lambda: 2 * (A @ X) - 3 * (A @ Y), 1),
    "three": (lambda: A @ X + (B @ Z + (A @ Y - A @ Z)), 2),
    "views": (lambda: (A @ X).T.reshape(7, 5, 1) + (A @ Y).T.reshape(7, 5, 1), 1),
    "vectors": (lambda: A @ X[:, 0] + A @ Y[:, 0], 1),
    "batches": (lambda: A.expand(2, 5, 5) @ torch.stack([X, Y]), 1),
    "twice": (lambda: A @ X + A @ X, 1),
    "other views": (lambda: (A @ X)[:, :5].T + (A @ Y)[:, :5], 2),
    "nothing shared": (lambda: A @ X + B @ Y, 2),
    "times zero": (lambda: torch.add(Z, A @ X + A @ Y, alpha=0), 2),
    "used elsewhere": (lambda: (A @ X, A @ X + A @ Y), 2),
    "broadcast": (lambda: A @ X[:, :1] + A @ Y, 2),
}
PRODUCTS = ("mm", "bmm", "mv", "addmm", "addmv", "addbmm", "baddbmm")


@pytest.mark.parametrize("name", CASES)
def test_sums_of_products(name):
    func, most = CASES[name]
    staged = jaxtorch.jit(func, backend="python")
    torch.testing.assert_close(staged(), func())
    graph = staged.lower().graph
    names = [
        str(node.target).split(".")[1]
        for node in graph.nodes
        if "." in str(node.target)
    ]
    assert sum(n in PRODUCTS or "linear" in n for n in names) == most


def test_what_cancels_is_added_first():
    """The error is that of the difference, not of two large products."""
    a = torch.rand(50, 50) + 1
    x = 1e4 * torch.rand(50, 50)
    y = x + torch.rand(50, 50)
    exact = a.double() @ (y.double() - x.double())
    found = jaxtorch.jit(lambda a, x, y: a @ y - a @ x)(a, x, y)
    assert (found - exact).abs().max() < (a @ y - a @ x - exact).abs().max() / 50
