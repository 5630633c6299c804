"""What ``jit`` makes of small matrices that no rule has seen."""

import pytest
import torch
from torch import linalg

import jaxtorch
from tests.kernels.harness import DEVICE

CHOLESKY = "jaxtorch.small_cholesky.default"
LU = "jaxtorch.small_lu.default"
LU_SOLVE = "jaxtorch.small_lu_solve.default"
SOLVE = "jaxtorch.small_solve.default"
TRIANGULAR = "jaxtorch.small_triangular.default"
LU_OF = linalg.lu_factor
FUNCTIONS = {
    "cholesky": (lambda a, b: linalg.cholesky(a), {CHOLESKY}),
    "upper": (lambda a, b: linalg.cholesky_ex(a, upper=True), {CHOLESKY}),
    "lu": (lambda a, b: LU_OF(a), {LU}),
    "solve": (linalg.solve, {SOLVE}),
    "solve a vector": (lambda a, b: linalg.solve(a, b[..., 0]), {SOLVE}),
    "solve for one": (lambda a, b: linalg.solve(a, b.reshape(-1, 5, 3)[0]), {SOLVE}),
    "inverse": (lambda a, b: linalg.inv(a), {SOLVE}),
    "lu solve": (lambda a, b: linalg.lu_solve(*LU_OF(a), b), {LU, LU_SOLVE}),
    "lu solve, adjoint": (
        lambda a, b: linalg.lu_solve(*LU_OF(a), b, adjoint=True),
        {LU, LU_SOLVE},
    ),
    "lu solve, right": (
        lambda a, b: linalg.lu_solve(*LU_OF(a), b.mT, left=False),
        {LU, LU_SOLVE},
    ),
    "triangle": (
        lambda a, b: linalg.solve_triangular(a, b, upper=True),
        {TRIANGULAR},
    ),
    "unit triangle, right": (
        lambda a, b: linalg.solve_triangular(
            a.mT, b.mT, upper=False, left=False, unitriangular=True
        ),
        {TRIANGULAR},
    ),
    "cholesky solve": (
        lambda a, b: torch.cholesky_solve(b, a.tril()),
        {TRIANGULAR},
    ),
    "cholesky solve, upper": (
        lambda a, b: torch.cholesky_solve(b, a.triu(), upper=True),
        {TRIANGULAR},
    ),
    "determinant": (lambda a, b: linalg.det(a), {LU}),
    "its logarithm": (lambda a, b: linalg.slogdet(a), {LU}),
}


def inputs(*lead, size=5):
    """Make matrices that have all factorizations, and right hand sides."""
    a = torch.randn(*lead, size, size)
    a = a @ a.mT + torch.eye(size)
    return a.to(DEVICE), torch.randn(*lead, size, 3).to(DEVICE)


def staged(func, *args):
    """Return the result under ``jit``, and the calls that it makes."""
    with jaxtorch.kernels_mode("force"):
        own = jaxtorch.jit(func)
        nodes = own.lower(*args).graph.nodes
        return own(*args), {str(n.target) for n in nodes if n.op == "call_function"}


def is_lapack(name):
    """Tell whether ATen factors or solves."""
    return any(word in name for word in ("linalg", "cholesky", "lu_")) and (
        "jaxtorch" not in name
    )


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_calls_become_kernels(name, lead):
    func, kernels = FUNCTIONS[name]
    args = inputs(*lead)
    out, names = staged(func, *args)
    assert kernels <= names
    assert not [name for name in names if is_lapack(name)]
    torch.testing.assert_close(out, func(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_become_kernels(name):
    func, _ = FUNCTIONS[name]
    a, b = inputs(4)

    def total(a):
        outs = func(a, b)
        outs = outs if isinstance(outs, tuple) else (outs,)
        return sum(out.square().sum() for out in outs if out.is_floating_point())

    gradient = jaxtorch.grad(total)
    out, names = staged(gradient, a)
    assert not [n for n in names if is_lapack(n) and "unpack" not in n]
    torch.testing.assert_close(out, gradient(a), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "func",
    [
        lambda a, b: linalg.solve(a, b.mT, left=False),
        lambda a, b: linalg.inv(torch.block_diag(*[a[0]] * 7)),
        lambda a, b: linalg.inv_ex(a, check_errors=True)[0],
        lambda a, b: linalg.cholesky_ex(a, check_errors=True)[0],
        lambda a, b: linalg.solve_triangular(a[:1, :0, :0], b[:, :0], upper=True),
        lambda a, b: linalg.det(a[:, :0, :0]),
    ],
    ids=["right", "large", "checked", "checked factor", "no rows", "no determinant"],
)
def test_the_others_stay(func):
    args = inputs(4)
    out, names = staged(func, *args)
    assert not [name for name in names if "small_" in name]
    torch.testing.assert_close(out, func(*args), rtol=1e-4, atol=1e-4)
