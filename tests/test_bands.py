"""jacobian_bands: against the matrix, and what it refuses."""

from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import (
    grad,
    jacobian_bands,
    jit,
    vmap,
)
from jaxtorch.errors import ArgumentError, DataDependentError, UsageError
from tests.diagonal_cases import DOUBLE, WAYS, bands_of, largest, randn, tridiagonal
from tests.live_bytes import peak_bytes


@WAYS
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("widths", [(1, 1), (0, 0), (2, 1), (0, 2), (3, 4)])
def test_bands_equal_the_matrix(n: int, widths: tuple[int, int], way: Any) -> None:
    lower, upper = widths
    weight = randn(n, n).tril(upper).triu(-lower)
    func = lambda x: torch.sin(weight @ x)  # noqa: E731
    x = randn(n)
    got = way(jacobian_bands(func, lower, upper))(x)
    assert_close(got, bands_of(func, x, lower, upper))
    assert_close(jacobian_bands(func, lower, upper, check=True)(x), got)


def test_bands_of_other_shapes() -> None:
    x = randn(2, 3)
    func = lambda x: x.flatten().cumsum(0).diff(prepend=x.new_zeros(1)).reshape(2, 3)  # noqa: E731
    expected = torch.tensor([[0.0], [1.0], [0.0]], dtype=DOUBLE).expand(3, 6)
    assert_close(jacobian_bands(func)(x), expected)
    assert jacobian_bands(torch.sin, 2, 1, check=True)(randn(0)).shape == (4, 0)
    assert jacobian_bands(torch.sin)(randn()).shape == (3, 1)


def test_newton_by_a_banded_solver() -> None:
    n = 50
    source = torch.linspace(0, 3, n, dtype=DOUBLE)

    def residual(u: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(u, (1, 1))
        return padded[2:] - 2 * u + padded[:-2] - 0.1 * u**3 + source

    u = torch.zeros(n, dtype=DOUBLE)
    for _ in range(20):
        bands = jacobian_bands(residual)(u).numpy()
        u = u - torch.from_numpy(
            scipy.linalg.solve_banded((1, 1), bands, residual(u).numpy())
        )
    assert residual(u).abs().max() < 1e-10


def test_bands_take_as_many_directions_as_there_are_bands() -> None:
    x = torch.randn(4096)
    lowered = jit(jacobian_bands(tridiagonal)).lower(x)
    assert largest(lowered) == 3 * 4096
    assert peak_bytes(jacobian_bands(tridiagonal), x) < 40 * x.nbytes


def test_entries_outside_the_bands_are_found() -> None:
    x = randn(8)
    far = lambda x: tridiagonal(x) + 1e-3 * x.roll(3)  # noqa: E731
    jacobian_bands(far)(x)
    with pytest.raises(ArgumentError, match="outside of the bands"):
        jacobian_bands(far, check=True)(x)
    with pytest.raises(ArgumentError, match="outside of the bands"):
        jacobian_bands(tridiagonal, 1, 0, check=True)(x)
    jacobian_bands(tridiagonal, 2, 2, check=True)(x)
    checked = grad(lambda x: jacobian_bands(tridiagonal, check=True)(x).sum())(x)
    assert_close(checked, grad(lambda x: jacobian_bands(tridiagonal)(x).sum())(x))


@pytest.mark.parametrize("dtypes", [(torch.float32, DOUBLE), (DOUBLE, torch.float32)])
def test_check_allows_for_rounding(dtypes: Any) -> None:
    func = lambda x: torch.exp(3 * tridiagonal(x)).to(dtypes[1])  # noqa: E731
    got = jacobian_bands(func, check=True)(torch.randn(2000, dtype=dtypes[0]))
    assert got.dtype == dtypes[1]


def test_check_draws_no_number_of_the_users() -> None:
    state = torch.get_rng_state()
    jacobian_bands(tridiagonal, check=True)(torch.ones(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_refused_bands() -> None:
    with pytest.raises(ArgumentError, match="upper should be 0 or greater, got -1"):
        jacobian_bands(torch.sin, 0, -1)
    with pytest.raises(UsageError, match="one differentiated tensor, got 2"):
        jacobian_bands(lambda x, y: (x, y), argnums=(0, 1))(randn(2), randn(2))
    for way, x in ((vmap, randn(2, 3)), (jit, randn(3))):
        with pytest.raises(DataDependentError):
            way(jacobian_bands(torch.sin, check=True))(x)
