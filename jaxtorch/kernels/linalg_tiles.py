"""Tiles of many small matrices in registers, and solving with triangles. No operator.

Tiles are [MATRICES, rows, columns]; a step takes a row or a column of each matrix.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels.language import (
    LARGEST_GRID,
    Config,
    cdiv,
    constexpr,
    jit,
    launch,
    tensor,
    tl,
)

DTYPES = (torch.float32, torch.float64)
LARGEST = 32
"""Rows of the largest matrix: one of it fills the registers of a warp."""

CONFIGS = {
    "4": Config(
        "half a matrix a thread: sums stay in a few threads",
        {"SIZE": 4, "MATRICES": 16},
        num_warps=1,
    ),
    "8": Config(
        "eight threads a matrix; more of them would leave no registers for columns",
        {"SIZE": 8, "MATRICES": 4},
        num_warps=1,
    ),
    "16": Config(
        "each half of a warp has a matrix",
        {"SIZE": 16, "MATRICES": 2},
        num_warps=1,
    ),
    "32": Config(
        "one warp a matrix: no step waits for other warps",
        {"SIZE": 32, "MATRICES": 1},
        num_warps=1,
    ),
}
MOST_COLUMNS = 16
"""Columns of right hand sides in a program; others take the factors once more."""


def config_of(a: Tensor) -> Config:
    """Choose by the size of the matrices."""
    return next(c for c in CONFIGS.values() if c.blocks["SIZE"] >= a.shape[1])


def columns_of(b: Tensor) -> int:
    """Return how many columns of ``b`` a program solves for."""
    columns = 1
    while columns < min(b.shape[2], MOST_COLUMNS):
        columns *= 4
    return columns


def programs(a: Tensor, config: Config) -> int:
    """Return how many programs share the matrices."""
    return cdiv(a.shape[0], config.blocks["MATRICES"])


def by_columns(a: Tensor, columns: int) -> Tensor:
    """Make memory for matrices of as many rows as ``a``, column by column."""
    return a.new_empty(a.shape[0], columns, a.shape[1])


def is_stack(x: Tensor) -> bool:
    """Tell whether this is a stack of real matrices."""
    return x.dim() == 3 and x.dtype in DTYPES and x.shape[0] < LARGEST_GRID // 2


def is_square(a: Tensor) -> bool:
    """Tell whether this is a stack of small square matrices."""
    return is_stack(a) and a.shape[1] == a.shape[2] and 1 <= a.shape[1] <= LARGEST


def is_system(a: Tensor, b: Tensor) -> bool:
    """Tell whether these are a stack of small systems."""
    return (
        is_square(a)
        and is_stack(b)
        and a.shape[:2] == b.shape[:2]
        and a.dtype is b.dtype
        and a.device == b.device
        and cdiv(b.shape[2], MOST_COLUMNS) < 65536
    )


@jit
def load(
    ptr: tensor, batch_stride: tensor, row_stride: tensor, stride: tensor,
    m: tensor, r: tensor, c: tensor, mask: tensor,
) -> tensor:  # fmt: skip
    """Load tiles of real matrices; behind their ends are zeros."""
    offsets = m * batch_stride + r.to(tl.int64) * row_stride + c.to(tl.int64) * stride
    return tl.load(ptr + offsets, mask=mask, other=0.0)


@jit
def row_of(x: tensor, r: tensor, k: tensor) -> tensor:
    """Take row k of each matrix."""
    return tl.sum(tl.where(r == k, x, 0.0), 1)


@jit
def column_of(x: tensor, c: tensor, k: tensor) -> tensor:
    """Take column k of each matrix."""
    return tl.sum(tl.where(c == k, x, 0.0), 2)


@jit
def swap(x: tensor, r: tensor, k: tensor, p: tensor) -> tensor:
    """Swap row k of each matrix and its row p."""
    p = p[:, None, None]
    first = row_of(x, r, k)[:, None, :]
    second = row_of(x, r, p)[:, None, :]
    return tl.where(r == k, second, tl.where(r == p, first, x))


@jit
def eliminate(
    a: tensor, r: tensor, c: tensor, size: tensor,
    MATRICES: constexpr, SIZE: constexpr,
) -> tensor:  # fmt: skip
    """Factor as LAPACK does: the pivot is the first of the largest, also of NaN."""
    line = tl.arange(0, SIZE)[None, :]
    pivots = tl.zeros((MATRICES, SIZE), tl.int32)
    info = tl.zeros((MATRICES,), tl.int32)
    for k in range(size):
        column = column_of(a, c, k)
        weight = tl.where(column == column, tl.abs(column), float("inf"))
        weight = tl.where((line >= k) & (line < size), weight, -1.0)
        p = tl.argmax(weight, 1)
        a = swap(a, r, k, p)
        column = column_of(a, c, k)
        pivot = tl.sum(tl.where(line == k, column, 0.0), 1)
        zero = pivot == 0.0
        column = tl.where(zero[:, None], column, column / pivot[:, None])[:, :, None]
        rest = tl.where(c > k, a - column * row_of(a, r, k)[:, None, :], a)
        a = tl.where(r > k, tl.where(c == k, column, rest), a)
        pivots = tl.where(line == k, p[:, None] + 1, pivots)
        info = tl.where((info == 0) & zero, k + 1, info)
    return a, pivots, info


@jit
def substitute(
    a: tensor, x: tensor, r: tensor, c: tensor, size: tensor,
    UPPER: constexpr, UNIT: constexpr,
) -> tensor:  # fmt: skip
    """Solve with a triangle, a row of the solution after the other."""
    for step in range(size):
        k = size - 1 - step if UPPER else step
        row = row_of(x, r, k)
        column = column_of(a, c, k)[:, :, None]
        if not UNIT:
            pivot = tl.sum(tl.where(r == k, column, 0.0), 1)
            row = row / pivot
        row = row[:, None, :]
        rest = r < k if UPPER else r > k
        x = tl.where(rest, x - column * row, tl.where(r == k, row, x))
    return x


@jit
def _substitution_kernel(
    x_ptr: tensor, pivots_ptr: tensor,
    a_ptr: tensor, a_batch_stride: tensor, a_row_stride: tensor, a_stride: tensor,
    b_ptr: tensor, b_batch_stride: tensor, b_row_stride: tensor, b_stride: tensor,
    count: tensor, size: tensor, columns: tensor,
    MATRICES: constexpr, SIZE: constexpr, COLUMNS: constexpr,
    BEFORE: constexpr, LOWER: constexpr, UPPER: constexpr, AFTER: constexpr,
) -> None:  # fmt: skip
    index = tl.program_id(0) * MATRICES + tl.arange(0, MATRICES)
    m = index.to(tl.int64)[:, None, None]
    r = tl.arange(0, SIZE)[None, :, None]
    c = tl.arange(0, SIZE)[None, None, :]
    mask = (m < count) & (r < size) & (c < size)
    a = load(a_ptr, a_batch_stride, a_row_stride, a_stride, m, r, c, mask)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, None, :]
    mask = (m < count) & (r < size) & (n < columns)
    x = load(b_ptr, b_batch_stride, b_row_stride, b_stride, m, r, n, mask)
    pivots_ptr += index.to(tl.int64) * size
    if BEFORE:
        for k in range(size):
            p = tl.load(pivots_ptr + k, mask=index < count, other=1) - 1
            x = swap(x, r, k, p)
    if LOWER:
        x = substitute(a, x, r, c, size, False, LOWER == 2)
    if UPPER:
        x = substitute(a, x, r, c, size, True, UPPER == 2)
    if AFTER:
        for k in range(size):
            last = size - 1 - k
            p = tl.load(pivots_ptr + last, mask=index < count, other=1) - 1
            x = swap(x, r, last, p)
    tl.store(x_ptr + (m * columns + n) * size + r, x, mask=mask)


NONE, DIVIDING, UNIT = 0, 1, 2
"""What a substitution does with the diagonal; none is made at all for ``NONE``."""


def launch_substitution(
    a: Tensor, pivots: Tensor, b: Tensor, config: Config | None, **steps: Any
) -> Tensor:
    """Launch a program for some matrices and columns; returns the solution."""
    config = config or config_of(a)
    x = by_columns(b, b.shape[2])
    columns = columns_of(b)
    launch(
        _substitution_kernel,
        (programs(a, config), cdiv(b.shape[2], columns)),
        config,
        x,
        pivots,
        a,
        *a.stride(),
        b,
        *b.stride(),
        *b.shape,
        COLUMNS=columns,
        **steps,
    )
    return x.mT
