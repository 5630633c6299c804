"""Sums of diagonals are written into one tensor of zeros, whatever lies on them."""

import pytest
import torch
from torch.nn import functional as F

from jaxtorch import hessian, jacfwd, jacrev, jit, vmap
from jaxtorch.staging.running.memory import bytes_made
from tests.multilinear.forced import forced

aten = torch.ops.aten
N = 6


def tridiagonal(u):
    left, right = F.pad(u, (1, 0))[:-1], F.pad(u, (0, 1))[1:]
    return 2 * u - left - right - torch.exp(u)


def far(u):
    return torch.sin(u[3:]) - u[:-3] ** 2 + u[1:-2]


def parts_of_one(u):
    """A diagonal of which several terms have a part each."""
    return torch.sin(u) + F.pad(u[:2] ** 3, (1, N - 3))[: len(u)] + F.pad(u[4:], (4, 0))


def shorter(u):
    return torch.cat([u[:2] * u[1:3], u[3:5] - u[4:6]])


def taller(u):
    return F.pad(u**2, (2, 3)) + F.pad(torch.sin(u), (4, 1))


def energy(u):
    return (u[1:] * u[:-1]).sin().sum() + (u[2:] - u[:-2]).pow(4).sum() + u.exp().sum()


def images(x):
    return (
        x * x.sin() + F.pad(x[:, 1:] * x[:, :-1], (1, 0)) + F.pad(x[1:], (0, 0, 0, 1))
    )


CASES = {
    "tridiagonal": (jacrev(tridiagonal), (N,)),
    "forward": (jacfwd(tridiagonal), (N,)),
    "mapped": (vmap(jacrev(tridiagonal)), (3, N)),
    "mapped behind": (vmap(jacrev(tridiagonal), out_dims=1), (3, N)),
    "far": (jacrev(far), (N,)),
    "parts of one": (jacrev(parts_of_one), (N,)),
    "shorter": (jacrev(shorter), (N,)),
    "taller": (jacrev(taller), (N,)),
    "hessian": (hessian(energy), (N,)),
    "hessians": (vmap(hessian(energy)), (3, N)),
    "two dims": (jacrev(images), (4, 5)),
    "transposed": (lambda u: jacrev(tridiagonal)(u).mT, (N,)),
    "with a dense part": (jacrev(lambda u: tridiagonal(u) + u.sum().sin()), (N,)),
}


@pytest.mark.parametrize("force", [False, True], ids=["", "forced"])
@pytest.mark.parametrize("name", CASES)
def test_values(name, force):
    func, shape = CASES[name]
    x = torch.randn(shape, dtype=torch.float64)
    if force:
        with forced():
            got = jit(func, backend="python")(x)
    else:
        got = jit(func, backend="python")(x)
    torch.testing.assert_close(got, func(x))


def made(lowered, size):
    """Return the calls that make more than so many bytes."""
    calls = [n for n in lowered.graph.nodes if n.op == "call_function"]
    return [(n.target, bytes_made(n)) for n in calls if bytes_made(n) > size]


@pytest.mark.parametrize("way", [jacrev, jacfwd], ids=["jacrev", "jacfwd"])
@pytest.mark.parametrize("func", [tridiagonal, far], ids=["tridiagonal", "far"])
def test_one_matrix_is_made(func, way):
    """What is held is the result and its bands, and the result is filled once."""
    n = 1024
    lowered = jit(way(func), backend="python").lower(torch.randn(n))
    ((target, size),) = made(lowered, 8 * n)
    assert target is aten.zeros.default
    assert lowered.peak_bytes <= size + 4 * 4 * n


def test_one_diagonal_is_added_before_it_is_placed():
    n = 1024
    func = jacrev(lambda u: u.exp() + 2 * u.sin())
    lowered = jit(func, backend="python").lower(torch.randn(n))
    assert made(lowered, 8 * n) == [(aten.diag_embed.default, 4 * n * n)]
