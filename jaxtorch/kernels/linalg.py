"""Factorizations and solutions of many small real matrices, each held in registers.

Stacks ``a`` [B, N, N] with N of at most 32; right hand sides ``b`` are [B, N, K]. Every
result is what LAPACK computes, pivots and status too, one column of a matrix after the
other: a program takes some matrices at once. Results lie column by column, as torch's.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels.language import Config, constexpr, jit, launch, tensor, tl
from jaxtorch.kernels.linalg_tiles import (
    DIVIDING,
    MOST_COLUMNS,
    NONE,
    UNIT,
    by_columns,
    column_of,
    columns_of,
    config_of,
    eliminate,
    is_square,
    is_system,
    launch_substitution,
    load,
    programs,
    row_of,
    substitute,
    swap,
)
from jaxtorch.kernels.operator import define

# small_cholesky: the factor, and which leading minor is not positive


def small_cholesky_reference(a: Tensor, upper: bool) -> tuple[Tensor, Tensor]:
    """Return the factor of ``L L^T``, or of ``U^T U``, and the status [B]."""
    # Traffic: half of a is read, a whole factor is written: B N N 3 / 2 elements.
    out = torch.linalg.cholesky_ex(a, upper=upper)
    return out[0], out[1]


@jit
def _cholesky_kernel(
    out_ptr: tensor, info_ptr: tensor, a_ptr: tensor,
    batch_stride: tensor, row_stride: tensor, stride: tensor,
    out_row_stride: tensor, out_stride: tensor, count: tensor, size: tensor,
    MATRICES: constexpr, SIZE: constexpr,
) -> None:  # fmt: skip
    index = tl.program_id(0) * MATRICES + tl.arange(0, MATRICES)
    m = index.to(tl.int64)[:, None, None]
    r = tl.arange(0, SIZE)[None, :, None]
    c = tl.arange(0, SIZE)[None, None, :]
    mask = (m < count) & (r < size) & (c < size)
    low, high = tl.minimum(r, c), tl.maximum(r, c)
    a = load(a_ptr, batch_stride, row_stride, stride, m, high, low, mask)
    line = tl.arange(0, SIZE)[None, :]
    info = tl.zeros((MATRICES,), tl.int32)
    for k in range(size):
        column = column_of(a, c, k)
        pivot = tl.sum(tl.where(line == k, column, 0.0), 1)
        info = tl.where((info == 0) & ((pivot > 0.0) == 0), k + 1, info)
        root = tl.sqrt(pivot)[:, None]
        column = (column / root)[:, :, None]
        row = (row_of(a, r, k) / root)[:, None, :]
        rest = tl.where(c > k, a - column * row, tl.where(c == k, column, a))
        a = tl.where(r > k, rest, tl.where((r == k) & (c == k), root[:, :, None], a))
    offsets = m * size * size + r * out_row_stride + c * out_stride
    tl.store(out_ptr + offsets, tl.where(r >= c, a, 0.0), mask=mask)
    tl.store(info_ptr + index, info, mask=index < count)


def small_cholesky(
    a: Tensor, upper: bool, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """Launch a program for some matrices; of an upper factor rows are columns."""
    config = config or config_of(a)
    count, size = a.shape[:2]
    out = by_columns(a, size)
    info = a.new_empty(count, dtype=torch.int32)
    launch(
        _cholesky_kernel,
        (programs(a, config),),
        config,
        out,
        info,
        a,
        *(a.mT if upper else a).stride(),
        *((size, 1) if upper else (1, size)),
        count,
        size,
    )
    return out.mT, info


def small_cholesky_supports(a: Tensor, upper: bool) -> bool:
    """Tell whether this is a stack of small matrices."""
    return is_square(a)


def small_cholesky_flops(a: Any, *unused: Any, **options: Any) -> int:
    """Count a third of ``N^3`` for each matrix."""
    return int(a[0] * a[1] ** 3 // 3)


SMALL_CHOLESKY = define(
    "small_cholesky(Tensor a, bool upper) -> (Tensor, Tensor)",
    reference=small_cholesky_reference,
    launcher=small_cholesky,
    supports=small_cholesky_supports,
    flops=small_cholesky_flops,
)


# small_lu: factors with partial pivoting


def small_lu_reference(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the packed factors, the pivots [B, N] and the status [B]."""
    # Traffic: a is read, the factors are written: 2 B N N elements.
    out = torch.linalg.lu_factor_ex(a)
    return out[0], out[1], out[2]


@jit
def _lu_kernel(
    x_ptr: tensor, packed_ptr: tensor, pivots_ptr: tensor, info_ptr: tensor,
    a_ptr: tensor, a_batch_stride: tensor, a_row_stride: tensor, a_stride: tensor,
    b_ptr: tensor, b_batch_stride: tensor, b_row_stride: tensor, b_stride: tensor,
    count: tensor, size: tensor, columns: tensor,
    MATRICES: constexpr, SIZE: constexpr, COLUMNS: constexpr,
) -> None:  # fmt: skip
    index = tl.program_id(0) * MATRICES + tl.arange(0, MATRICES)
    m = index.to(tl.int64)[:, None, None]
    r = tl.arange(0, SIZE)[None, :, None]
    c = tl.arange(0, SIZE)[None, None, :]
    mask = (m < count) & (r < size) & (c < size)
    a = load(a_ptr, a_batch_stride, a_row_stride, a_stride, m, r, c, mask)
    a, pivots, info = eliminate(a, r, c, size, MATRICES, SIZE)
    tl.store(packed_ptr + (m * size + c) * size + r, a, mask=mask)
    line = tl.arange(0, SIZE)[None, :]
    offsets = index.to(tl.int64)[:, None] * size + line
    tl.store(
        pivots_ptr + offsets, pivots, mask=(index < count)[:, None] & (line < size)
    )
    tl.store(info_ptr + index, info, mask=index < count)
    if COLUMNS:
        n = tl.arange(0, COLUMNS)[None, None, :]
        mask = (m < count) & (r < size) & (n < columns)
        x = load(b_ptr, b_batch_stride, b_row_stride, b_stride, m, r, n, mask)
        for k in range(size):
            p = tl.sum(tl.where(line == k, pivots, 0), 1) - 1
            x = swap(x, r, k, p)
        x = substitute(a, x, r, c, size, False, True)
        x = substitute(a, x, r, c, size, True, False)
        tl.store(x_ptr + (m * columns + n) * size + r, x, mask=mask)


def small_lu(a: Tensor, config: Config | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Launch a program for some matrices."""
    return _launch_lu(a, a, a, 0, config or config_of(a))


def _launch_lu(
    a: Tensor, b: Tensor, x: Tensor, columns: int, config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    count, size = a.shape[:2]
    packed = by_columns(a, size)
    pivots = a.new_empty(count, size, dtype=torch.int32)
    info = a.new_empty(count, dtype=torch.int32)
    launch(
        _lu_kernel,
        (programs(a, config),),
        config,
        x,
        packed,
        pivots,
        info,
        a,
        *a.stride(),
        b,
        *b.stride(),
        count,
        size,
        b.shape[2],
        COLUMNS=columns,
    )
    return packed.mT, pivots, info


def small_lu_flops(a: Any, **unused: Any) -> int:
    """Count two thirds of ``N^3`` for each matrix."""
    return int(2 * a[0] * a[1] ** 3 // 3)


SMALL_LU = define(
    "small_lu(Tensor a) -> (Tensor, Tensor, Tensor)",
    reference=small_lu_reference,
    launcher=small_lu,
    supports=is_square,
    flops=small_lu_flops,
)


# small_solve: factors and solution at once


def small_solve_reference(
    a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``a^-1 b`` and what ``small_lu`` returns."""
    # Traffic: a and b are read, factors and solution written: 2 B N (N + K) elements.
    out = torch.ops.aten._linalg_solve_ex.default(a, b)
    return out[0], out[1], out[2], out[3]


def small_solve(
    a: Tensor, b: Tensor, config: Config | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch ``small_lu`` with right hand sides; many of them are solved for after."""
    config = config or config_of(a)
    if b.shape[2] > MOST_COLUMNS:
        packed, pivots, info = small_lu(a, config)
        return small_lu_solve(packed, pivots, b, False, config), packed, pivots, info
    x = by_columns(b, b.shape[2])
    return x.mT, *_launch_lu(a, b, x, columns_of(b), config)


def small_solve_flops(a: Any, b: Any, **unused: Any) -> int:
    """Count factors and two substitutions."""
    return small_lu_flops(a) + int(2 * a[0] * a[1] ** 2 * b[2])


SMALL_SOLVE = define(
    "small_solve(Tensor a, Tensor b) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=small_solve_reference,
    launcher=small_solve,
    supports=is_system,
    flops=small_solve_flops,
)


# small_lu_solve: solutions by given factors


def small_lu_solve_reference(
    packed: Tensor, pivots: Tensor, b: Tensor, adjoint: bool
) -> Tensor:
    """Return ``A^-1 b``, or ``A^-T b``."""
    # Traffic: factors and b are read, as much as b is written: B N (N + 2 K) elements.
    out: Tensor = torch.linalg.lu_solve(packed, pivots, b, adjoint=adjoint)
    return out


def small_lu_solve(
    packed: Tensor,
    pivots: Tensor,
    b: Tensor,
    adjoint: bool,
    config: Config | None = None,
) -> Tensor:
    """Launch a program for some matrices and columns: ``P L U``, or ``U^T L^T P^T``."""
    return launch_substitution(
        packed.mT if adjoint else packed,
        pivots.contiguous(),
        b,
        config,
        BEFORE=not adjoint,
        LOWER=DIVIDING if adjoint else UNIT,
        UPPER=UNIT if adjoint else DIVIDING,
        AFTER=adjoint,
    )


def small_lu_solve_supports(
    packed: Tensor, pivots: Tensor, b: Tensor, adjoint: bool
) -> bool:
    """Tell whether there are pivots and right hand sides for small factors."""
    return (
        is_system(packed, b)
        and pivots.shape == packed.shape[:2]
        and pivots.dtype is torch.int32
        and pivots.device == packed.device
    )


def small_lu_solve_flops(
    packed: Any, pivots: Any, b: Any, *unused: Any, **options: Any
) -> int:
    """Count two substitutions."""
    return int(2 * b[0] * b[1] ** 2 * b[2])


SMALL_LU_SOLVE = define(
    "small_lu_solve(Tensor packed, Tensor pivots, Tensor b, bool adjoint) -> Tensor",
    reference=small_lu_solve_reference,
    launcher=small_lu_solve,
    supports=small_lu_solve_supports,
    flops=small_lu_solve_flops,
)


# small_triangular: solutions with a triangle, the other one is not looked at


def small_triangular_reference(a: Tensor, b: Tensor, upper: bool, unit: bool) -> Tensor:
    """Solve with a triangle of ``a``; with ``unit`` its diagonal is ones."""
    # Traffic: a and b are read, as much as b is written: B N (N + 2 K) elements.
    out: Tensor = torch.linalg.solve_triangular(a, b, upper=upper, unitriangular=unit)
    return out


def small_triangular(
    a: Tensor, b: Tensor, upper: bool, unit: bool, config: Config | None = None
) -> Tensor:
    """Launch a program for some matrices and columns."""
    kind = UNIT if unit else DIVIDING
    return launch_substitution(
        a,
        a,  # no pivots are read
        b,
        config,
        BEFORE=False,
        LOWER=NONE if upper else kind,
        UPPER=kind if upper else NONE,
        AFTER=False,
    )


def small_triangular_supports(a: Tensor, b: Tensor, upper: bool, unit: bool) -> bool:
    """Tell whether there are right hand sides for small matrices."""
    return is_system(a, b)


def small_triangular_flops(a: Any, b: Any, *unused: Any, **options: Any) -> int:
    """Count a substitution."""
    return int(b[0] * b[1] ** 2 * b[2])


SMALL_TRIANGULAR = define(
    "small_triangular(Tensor a, Tensor b, bool upper, bool unit) -> Tensor",
    reference=small_triangular_reference,
    launcher=small_triangular,
    supports=small_triangular_supports,
    flops=small_triangular_flops,
)
