"""Small matrices, factored and solved: sizes, peers, builds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import linalg

SINGLE, DOUBLE = torch.float32, torch.float64


def symmetric(a: Tensor) -> Tensor:
    """Return the symmetric part, which alone has a factorization to differentiate."""
    return (a + a.mT) / 2


def make(shape: Sequence[int], dtype: torch.dtype, device: str) -> Tensor:
    """Make pivots of two dims, positive definite matrices, or right hand sides."""
    if len(shape) == 2:
        order = torch.arange(1, shape[1] + 1, dtype=torch.int32, device=device)
        return order.expand(*shape).contiguous()
    x = torch.randn(shape, dtype=dtype, device=device)
    if shape[1] != shape[2]:
        return x
    eye = torch.eye(shape[1], dtype=dtype, device=device)
    return symmetric(x) + 3 * shape[1] ** 0.5 * eye


def by_inverse(a: Tensor, b: Tensor) -> Tensor:
    """Invert, then multiply."""
    return torch.bmm(torch.linalg.inv_ex(a)[0], b)


CASES = (
    Case(
        "small_cholesky", "B 65536, 32 x 32", ((65536, 32, 32),), ((5, 3, 3),),
        SINGLE, rest=(False,), make=make, inside=symmetric,
    ),
    Case(
        "small_cholesky", "B 1048576, 6 x 6", ((1 << 20, 6, 6),), ((5, 5, 5),),
        SINGLE, rest=(True,), make=make, inside=symmetric,
    ),
    Case(
        "small_lu", "B 65536, 32 x 32", ((65536, 32, 32),), ((5, 3, 3),),
        SINGLE, make=make,
    ),
    Case(
        "small_solve", "B 65536, 32 x 32, a column",
        ((65536, 32, 32), (65536, 32, 1)), ((5, 3, 3), (5, 3, 1)),
        SINGLE, make=make, peers={"inverse and product": by_inverse},
    ),
    Case(
        "small_solve", "B 1048576, 6 x 6, 3 columns",
        ((1 << 20, 6, 6), (1 << 20, 6, 3)), ((5, 5, 5), (5, 5, 4)),
        SINGLE, make=make, peers={"inverse and product": by_inverse},
    ),
    Case(
        "small_lu_solve", "B 65536, 32 x 32, a column",
        ((65536, 32, 32), (65536, 32), (65536, 32, 1)), ((5, 3, 3), (5, 3), (5, 3, 1)),
        SINGLE, rest=(True,), make=make,
    ),
    Case(
        "small_triangular", "B 65536, 32 x 32, 16 columns",
        ((65536, 32, 32), (65536, 32, 16)), ((5, 3, 3), (5, 3, 2)),
        SINGLE, rest=(False, False), make=make,
    ),
)  # fmt: skip


def build(name: str, size: int, columns: int, dtype: torch.dtype) -> Build:
    """Build an operator at a size; without columns it takes no right hand sides."""
    a = meta(64, size, size, dtype=dtype)
    b = meta(64, size, columns, dtype=dtype)
    pivots = meta(64, size, dtype=torch.int32)
    launches = {
        "cholesky": lambda: linalg.small_cholesky(a, False),
        "lu": lambda: linalg.small_lu(a),
        "solve": lambda: linalg.small_solve(a, b),
        "lu_solve": lambda: linalg.small_lu_solve(a, pivots, b, False),
        "lu_solve adjoint": lambda: linalg.small_lu_solve(a, pivots, b, True),
        "triangular": lambda: linalg.small_triangular(a, b, True, False),
    }
    label = f"{name} of {size}, {columns} columns, {str(dtype)[6:]}"
    return Build(label, launches[name])


BUILDS = tuple(
    build(*row)
    for row in (
        ("cholesky", 4, 0, SINGLE),
        ("cholesky", 32, 0, SINGLE),
        ("cholesky", 32, 0, DOUBLE),
        ("lu", 8, 0, SINGLE),
        ("lu", 32, 0, DOUBLE),
        ("solve", 4, 16, DOUBLE),
        ("solve", 16, 16, DOUBLE),
        ("solve", 32, 1, SINGLE),
        ("solve", 32, 16, DOUBLE),
        ("lu_solve", 32, 16, DOUBLE),
        ("lu_solve adjoint", 32, 1, SINGLE),
        ("triangular", 4, 16, DOUBLE),
    )
)
