"""Kernels of small matrices: factors, solutions, and their derivatives."""

import pytest
import torch

import jaxtorch
from jaxtorch.kernels import linalg
from jaxtorch.kernels.linalg_tiles import CONFIGS, DTYPES, MOST_COLUMNS
from tests.kernels.harness import DEVICE, check, graph_of, layouts, random

FLAGS = (False, True)


def matrices(count, size, dtype=torch.float32):
    """Make matrices that need pivots, with results that rounding hardly changes."""
    x = random(count, size, size, dtype=dtype) / size**0.5
    eye = torch.eye(size, dtype=dtype, device=DEVICE)
    return (x + 4 * eye).flip(1)


def definite(count, size, dtype=torch.float32):
    """Make positive definite matrices."""
    x = random(count, size, size, dtype=dtype)
    return x @ x.mT / size + torch.eye(size, dtype=dtype, device=DEVICE)


def check_all(a, positive, b, **options):
    """Check all operators, with all of their settings, on like matrices."""
    for upper in FLAGS:
        check("small_cholesky", positive, upper, **options)
        for unit in FLAGS:
            check("small_triangular", positive / 4, b, upper, unit, **options)
    packed, pivots, info = check("small_lu", a, **options)
    assert not info.any()
    check("small_solve", a, b, **options)
    for adjoint in FLAGS:
        check("small_lu_solve", packed, pivots, b, adjoint, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 17, 32])
def test_sizes(size, dtype):
    count = 3 if size < 17 else 1
    parts = [make(count, size, dtype) for make in (matrices, definite)]
    check_all(*parts, random(count, size, 3, dtype=dtype))


@pytest.mark.parametrize("count", [0, 1, 19])
def test_stacks(count):
    check_all(matrices(count, 3), definite(count, 3), random(count, 3, 1))


@pytest.mark.parametrize("columns", [0, 1, 2, MOST_COLUMNS, MOST_COLUMNS + 3])
def test_columns(columns):
    check_all(matrices(2, 3), definite(2, 3), random(2, 3, columns))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name):
    blocks = CONFIGS[name].blocks
    count, size = blocks["MATRICES"] + 1, blocks["SIZE"] - 1
    parts = [make(count, size) for make in (matrices, definite)]
    check_all(*parts, random(count, size, 2), config=CONFIGS[name])


def test_any_strides():
    b = random(2, 5, 3)
    for (_, a), (_, own) in zip(
        layouts(matrices(2, 5)), layouts(definite(2, 5)), strict=True
    ):
        check_all(a, own, b)
    for _, own in layouts(b):
        check_all(matrices(2, 5), definite(2, 5), own)


def test_what_is_not_read():
    a, b = definite(2, 5), random(2, 5, 2)
    nan = torch.full_like(a, torch.nan)
    ones = torch.eye(5, device=DEVICE).bool()
    lower = torch.tril(a) + torch.triu(nan, 1)
    upper = torch.triu(a) + torch.tril(nan, -1)
    for half, flag in ((lower, False), (upper, True)):
        out, info = linalg.small_cholesky(half, flag)
        torch.testing.assert_close(out, linalg.small_cholesky(a, flag)[0])
        assert not info.any()
        for unit in FLAGS:
            own = torch.where(ones, nan, half) if unit else half
            out = linalg.small_triangular(own, b, flag, unit)
            torch.testing.assert_close(out, linalg.small_triangular(a, b, flag, unit))


def test_pivots_of_ties_and_zeros():
    a = torch.tensor(
        [
            [[0.0, 1, 2], [1, 0, 3], [-1, 2, 0]],
            [[1, 1, 1], [1, -1, 1], [-1, 1, 1]],
            [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
        ],
        device=DEVICE,
    )
    check("small_lu", a)
    check("small_solve", a, random(3, 3, 2))


def test_singular_matrices():
    a = matrices(4, 3)
    a[1, :, 1] = 0
    a[2] = 0
    out = check("small_lu", a)
    assert out[2].tolist() == [0, 2, 1, 0]
    x, *_, info = linalg.small_solve(a, random(4, 3, 1))
    assert info.tolist() == [0, 2, 1, 0]
    assert x.isfinite().all(2).all(1).tolist() == [True, False, False, True]


def test_indefinite_matrices():
    a = definite(4, 3)
    a[1, 1, 1], a[2, 0, 0], a[3, 2, 2] = -1.0, 0.0, torch.nan
    out, info = linalg.small_cholesky(a, False)
    expected, status = torch.linalg.cholesky_ex(a)
    assert torch.equal(info, status)
    assert info.tolist() == [0, 2, 1, 3]
    torch.testing.assert_close(out[0], expected[0])
    assert not out[1:].isfinite().all(2).all(1).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
def test_bad_numbers_stay_in_their_matrix(place, bad):
    good = matrices(3, 3)
    a, b = good.clone(), random(3, 3, 2)
    a[(1, *place)] = bad
    out = linalg.small_solve(a, b)
    assert not out[1][1].isfinite().all()
    assert ((out[2] >= 1) & (out[2] <= 3)).all(), "a pivot outside of its matrix"
    for own, expected in zip(out, linalg.small_solve(good, b), strict=True):
        assert torch.equal(own[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_ill_conditioned_matrices(dtype):
    """Backward stable: the residual is small though the solution is far off."""
    i = torch.arange(1, 13, device=DEVICE)
    a = (1 / (i[:, None] + i - 1).double()).to(dtype).expand(2, 12, 12)
    b = random(2, 12, 1, dtype=dtype)
    x, *_ = linalg.small_solve(a, b)
    residual = (a.double() @ x.double() - b.double()).norm()
    bound = 12 * torch.finfo(dtype).eps * float(a.double().norm() * x.double().norm())
    assert residual < bound
    shift = 1e3 * torch.finfo(dtype).eps * torch.eye(12, dtype=dtype, device=DEVICE)
    factor, info = linalg.small_cholesky(a + shift, False)
    assert not info.any()
    product = factor.double() @ factor.double().mT
    assert (product - (a + shift)).norm() < 12 * torch.finfo(dtype).eps * a.norm()


def of_factor(a):
    return torch.linalg.cholesky_ex(a @ a.mT + torch.eye(3, device=DEVICE))[0]


def of_lu(a):
    return torch.linalg.lu_factor_ex(a)[0]


def of_shared(a, b):
    return torch.linalg.solve_ex(torch.ones(3, 3, device=DEVICE).tril(), a @ b)[0]


def of_lu_solve(a, b):
    packed, pivots, _ = torch.linalg.lu_factor_ex(a)
    return torch.linalg.lu_solve(packed, pivots, b.mT, left=False, adjoint=True)


def of_triangle(a, b):
    a = a + 4 * torch.eye(3, device=DEVICE)
    return torch.linalg.solve_triangular(a, b.mT, upper=True, left=False)


CALLS = {
    "cholesky": (of_factor, 1, "small_cholesky"),
    "lu": (of_lu, 1, "small_lu"),
    "solve": (lambda a, b: torch.linalg.solve_ex(a, b)[0], 2, "small_solve"),
    "vector": (lambda a, b: torch.linalg.solve_ex(a, b[:, 0])[0], 2, "small_solve"),
    "shared": (of_shared, 2, "small_solve"),
    "lu_solve": (of_lu_solve, 2, "small_lu_solve"),
    "triangle": (of_triangle, 2, "small_triangular"),
    "inverse": (lambda a: torch.linalg.inv_ex(a)[0], 1, "small_solve"),
    "determinant": (torch.linalg.det, 1, "small_lu"),
    "logarithm": (lambda a: torch.linalg.slogdet(a)[1], 1, "small_lu"),
    "sign": (lambda a: torch.linalg.slogdet(a)[0], 1, "small_lu"),
}


@pytest.mark.parametrize("name", CALLS)
def test_reached_by_transforms(name):
    func, count, kernel = CALLS[name]
    args = [matrices(3, 3), random(3, 3, 2)][:count]

    def loss(*args):
        return func(*args).square().sum()

    def slope(*args):
        return jaxtorch.jvp(loss, args, tuple(x.cos() for x in args))[1]

    for mapped in (
        jaxtorch.vmap(func),
        jaxtorch.vmap(jaxtorch.grad(loss)),
        jaxtorch.vmap(slope),
        jaxtorch.grad(lambda *args: jaxtorch.vmap(loss)(*args).sum()),
        jaxtorch.vmap(jaxtorch.hessian(loss)),
    ):
        with jaxtorch.kernels_mode("off"):
            expected = mapped(*args)
        with jaxtorch.kernels_mode("force"):
            out = mapped(*args)
            assert f"jaxtorch.{kernel}.default" in graph_of(mapped, *args)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_errors_are_raised():
    a = definite(3, 3)
    a[1, 0, 0] = -1
    for func in (torch.linalg.cholesky, torch.linalg.inv):
        own = a if func is torch.linalg.cholesky else torch.zeros_like(a)
        with (
            jaxtorch.kernels_mode("force"),
            pytest.raises(torch.linalg.LinAlgError),
        ):
            jaxtorch.vmap(func)(own)
