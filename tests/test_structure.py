"""``jit(f, structure=True)`` and ``Banded`` against dense matrices."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_map

import jaxtorch as jt
from jaxtorch import Banded

N = 12


def tridiagonal(u):
    return 2 * u - F.pad(u, (1, 0))[:-1] - F.pad(u, (0, 1))[1:] - torch.exp(u)


def both_ways(f):
    """Return the Jacobian by both modes."""
    return lambda *args: (jt.jacrev(f)(*args), jt.jacfwd(f)(*args))


def grid(u):
    return u + torch.tanh(F.pad(u, (1, 0))[..., :-1])


BANDED = {
    "a diagonal": (both_ways(torch.sin), (N,), (0,)),
    "three bands": (both_ways(tridiagonal), (N,), (-1, 0, 1)),
    "far bands": (
        both_ways(lambda u: u + u * F.pad(u, (5, 0))[:-5]),
        (N,),
        (-5, 0),
    ),
    "more columns": (both_ways(lambda u: u[1:] * u[:-1]), (N,), (0, 1)),
    "more rows": (both_ways(lambda u: F.pad(u**2, (3, 0))), (N,), (-3,)),
    "a part": (both_ways(lambda u: torch.sin(u[4:9])), (N,), (4,)),
    "one entry": (both_ways(lambda u: F.pad(u[2:3] ** 2, (5, N - 6))), (N,), (-3,)),
    "of a batch": (jt.vmap(jt.jacrev(tridiagonal)), (4, N), (-1, 0, 1)),
    "a Hessian": (jt.hessian(lambda u: (u[1:] * u[:-1] ** 2).sum()), (N,), (-1, 0, 1)),
    "flattened": (lambda u: jt.jacrev(torch.sin)(u).reshape(N, N), (3, 4), (0,)),
}


@pytest.mark.parametrize("name", BANDED)
def test_bands_are_found(name):
    func, shape, offsets = BANDED[name]
    x = torch.randn(shape, dtype=torch.float64)
    found, dense = jt.jit(func, structure=True)(x), func(x)
    pairs = zip(found, dense, strict=True) if type(dense) is tuple else [(found, dense)]
    for banded, matrix in pairs:
        assert type(banded) is Banded
        assert banded.offsets == offsets
        assert banded.shape == matrix.shape
        torch.testing.assert_close(banded.to_dense(), matrix)


DENSE = {
    "a full matrix": lambda x: torch.outer(x, x) @ torch.outer(x, x),
    "a vector": torch.sin,
    "a row": jt.jacrev(lambda x: F.pad((x**2).sum()[None], (0, N - 1))),
    "an input": lambda x: x.expand(N, N),
    "bands beside a full matrix": jt.jacrev(lambda x: torch.sin(x) + x.sum()),
    "as many bands as columns": lambda x: jt.jacrev(
        lambda x: torch.sin(x) + F.pad(x, (1, 0))[:-1]
    )(x[:2]),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_bands_is_a_tensor(name):
    x = torch.randn(N)
    found = jt.jit(DENSE[name], structure=True)(x)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, DENSE[name](x))


def test_each_result_for_itself():
    f = jt.jit(
        lambda x: {"value": x, "jacobian": jt.jacrev(torch.sin)(x), "n": 3},
        structure=True,
    )
    out = f(torch.randn(N))
    assert type(out["value"]) is torch.Tensor
    assert out["n"] == 3
    assert out["jacobian"].offsets == (0,)


@pytest.mark.parametrize("mode", [jt.jacrev, jt.jacfwd])
def test_no_dense_matrix_is_made(mode):
    n = 4096
    lowered = jt.jit(mode(tridiagonal), structure=True).lower(torch.randn(n))
    made = [node.meta["val"] for node in lowered.graph.nodes if node.op != "output"]
    assert max(value.numel() for value in made) <= n
    assert lowered.peak_bytes <= 8 * 4 * n


def test_torch_autograd_goes_through():
    x = torch.randn(N, dtype=torch.float64, requires_grad=True)
    found = jt.jit(jt.jacrev(tridiagonal), structure=True)(x)
    (got,) = torch.autograd.grad(found.diagonal().sum(), x)
    torch.testing.assert_close(got, -x.exp())


def test_transforms_outside_are_refused():
    staged = jt.jit(jt.jacrev(tridiagonal), structure=True)
    with pytest.raises(jt.errors.UsageError, match="put jit outside"):
        jt.vmap(staged)(torch.randn(3, N))
    with pytest.raises(jt.errors.UsageError, match="inside of a transform"):
        jt.grad(lambda x: staged(x).diagonal().sum())(torch.randn(N))


def test_another_jit_may_be_outside():
    staged = jt.jit(jt.jacrev(tridiagonal), structure=True)
    x = torch.randn(N)
    product = jt.jit(lambda x: staged(x) @ x)(x)
    torch.testing.assert_close(product, jt.jacrev(tridiagonal)(x) @ x)


def random_banded(rows, columns, offsets, *batch):
    """Return bands, and the same matrix by another way."""
    full = torch.randn(*batch, rows, columns, dtype=torch.float64)
    i, j = torch.arange(rows)[:, None], torch.arange(columns)
    keep = sum(((j - i) == o).double() for o in offsets)
    bands = [full.diagonal(o, -2, -1) for o in offsets]
    return Banded(offsets, bands, full.shape), full * keep


SHAPES = [
    (5, 5, (-2, 0, 1), ()),
    (4, 7, (-1, 2), ()),
    (7, 4, (-3, 0), (2,)),
    (1, 3, (0, 2), ()),
]


@pytest.mark.parametrize(("rows", "columns", "offsets", "batch"), SHAPES)
def test_algebra(rows, columns, offsets, batch):
    banded, dense = random_banded(rows, columns, offsets, *batch)
    check = torch.testing.assert_close
    check(banded.to_dense(), dense)
    check(banded.T.to_dense(), dense.mT)
    assert banded.T.offsets == tuple(sorted(banded.T.offsets))
    for offset in range(1 - rows, columns):
        check(banded.diagonal(offset), dense.diagonal(offset, -2, -1))
    vector = torch.randn(columns, dtype=torch.float64)
    matrix = torch.randn(columns, 3, dtype=torch.float64)
    check(banded @ vector, dense @ vector)
    check(banded @ matrix, dense @ matrix)
    with pytest.raises(ValueError, match=f"vector of {columns}"):
        banded @ torch.randn(columns + 1)


def test_a_pytree():
    banded, dense = random_banded(4, 4, (0, 1))
    doubled = tree_map(lambda band: 2 * band, banded)
    torch.testing.assert_close(doubled.to_dense(), 2 * dense)
    columns = torch.randn(3, 4, dtype=torch.float64)
    found = jt.vmap(lambda b, x: b @ x, in_dims=(None, 0))(banded, columns)
    torch.testing.assert_close(found, columns @ dense.T)
