"""Dot products, matrix-vector products and norms of rows, each row read once.

A matrix ``a`` [B, M, N] and a vector ``x`` [B, N] make the M dot products of each of B
samples; rows are dotted pairwise where M is 1.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels.language import (
    DTYPES,
    LARGEST_GRID,
    Config,
    cdiv,
    constexpr,
    jit,
    launch,
    tensor,
    tl,
)
from jaxtorch.kernels.operator import define

# rows_dot: a matrix and a vector for each sample


def rows_dot_reference(a: Tensor, x: Tensor) -> Tensor:
    """Multiply ``a[b] x[b]``; returns [B, M]."""
    # Traffic: a is read once, B M N elements; x is read, B M elements written.
    return torch.bmm(a, x.unsqueeze(2)).squeeze(2)


CONFIGS = {
    "rows": Config(
        "8 rows of 512 bytes and more: 16 byte loads along the row",
        {"BLOCK_R": 8, "BLOCK_N": 256},
    ),
    "long": Config(
        "a row of many thousands: all threads on one, four loads each in flight",
        {"BLOCK_R": 1, "BLOCK_N": 4096},
        num_warps=8,
    ),
    "columns": Config(
        "rows of at most 32, or lying beside each other: threads go along the rows",
        {"BLOCK_R": 128, "BLOCK_N": 32},
    ),
}
PROGRAMS = 528
"""Four for each multiprocessor of an H100: so many at least where rows allow it."""


def _config(a: Tensor) -> Config:
    rows, length = a.shape[1:]
    step = a.stride(1) if rows > 1 else a.stride(0)
    if length <= 32 or (step == 1 and a.stride(2) != 1):
        return CONFIGS["columns"]
    return CONFIGS["long" if length > 2048 else "rows"]


@jit
def _rows_kernel(
    out_ptr: tensor, a_ptr: tensor, x_ptr: tensor,
    a_batch_stride: tensor, a_row_stride: tensor, a_stride: tensor,
    x_batch_stride: tensor, x_stride: tensor,
    total: tensor, rows: tensor, length: tensor, share: tensor,
    BLOCK_R: constexpr, BLOCK_N: constexpr, SQUARED: constexpr, ROOT: constexpr,
) -> None:  # fmt: skip
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = (r < total)[:, None]
    b = (r // rows).to(tl.int64)[:, None]
    a_ptr += b * a_batch_stride + (r % rows).to(tl.int64)[:, None] * a_row_stride
    x_ptr += b * x_batch_stride
    first = tl.program_id(1) * share
    acc = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for start in range(first, tl.minimum(first + share, length), BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)[None, :]
        mask = inside & (n < length)
        a = tl.load(a_ptr + n * a_stride, mask=mask, other=0.0).to(tl.float32)
        if SQUARED:
            acc += a * a
        else:
            x = tl.load(x_ptr + n * x_stride, mask=mask, other=0.0).to(tl.float32)
            acc += a * x
    out = tl.sum(acc, 1)
    if ROOT:
        out = tl.sqrt(out)
    out_ptr += tl.program_id(1).to(tl.int64) * total
    tl.store(out_ptr + r, out.to(out_ptr.dtype.element_ty), mask=r < total)


def rows_dot(a: Tensor, x: Tensor, config: Config | None = None) -> Tensor:
    """Launch a program for some rows; where rows are few, several share their sums."""
    return _launch(a, x, config, root=False)


def _launch(a: Tensor, x: Tensor | None, config: Config | None, root: bool) -> Tensor:
    config = config or _config(a)
    batch, rows, length = a.shape
    total = batch * rows
    blocks = cdiv(total, config.blocks["BLOCK_R"])
    block = config.blocks["BLOCK_N"]
    splits = max(1, min(PROGRAMS // max(blocks, 1), cdiv(length, 4 * block)))
    share = cdiv(cdiv(length, block), splits) * block
    whole = splits == 1
    out = a.new_empty(splits, total, dtype=a.dtype if whole else torch.float32)
    second = a if x is None else x
    launch(
        _rows_kernel,
        (blocks, splits),
        config,
        out,
        a,
        second,
        *a.stride(),
        second.stride(0),
        second.stride(-1),
        total,
        max(rows, 1),
        length,
        share,
        SQUARED=x is None,
        ROOT=root and whole,
    )
    if not whole:
        out = out.sum(0, keepdim=True)
        out = (out.sqrt() if root else out).to(a.dtype)
    return out.view(batch, rows)


def rows_dot_supports(a: Tensor, x: Tensor) -> bool:
    """Tell whether these are a stack of matrices and vectors of their row length."""
    return (
        a.dim() == 3
        and x.dim() == 2
        and x.shape == (a.shape[0], a.shape[2])
        and a.dtype is x.dtype
        and a.dtype in DTYPES
        and a.device == x.device
        and a.shape[0] * a.shape[1] < LARGEST_GRID // 2
        and a.shape[2] < LARGEST_GRID // 2
    )


def rows_dot_flops(a: Any, x: Any, **unused: Any) -> int:
    """Count multiplications and additions."""
    return int(2 * a[0] * a[1] * a[2])


ROWS_DOT = define(
    "rows_dot(Tensor a, Tensor x) -> Tensor",
    reference=rows_dot_reference,
    launcher=rows_dot,
    supports=rows_dot_supports,
    flops=rows_dot_flops,
)


# rows_norm: the Euclidean norm of each row


def rows_norm_reference(x: Tensor) -> Tensor:
    """Return the norms [B] of the rows of ``x`` [B, N]."""
    # Traffic: x is read once, B elements are written.
    out: Tensor = torch.linalg.vector_norm(x, 2, [1])
    return out


def rows_norm(x: Tensor, config: Config | None = None) -> Tensor:
    """Sum squares as ``rows_dot`` does."""
    return _launch(x.unsqueeze(1), None, config, root=True).squeeze(1)


def rows_norm_supports(x: Tensor) -> bool:
    """Tell whether this is a stack of rows."""
    return (
        x.dim() == 2
        and x.dtype in DTYPES
        and x.shape[0] < LARGEST_GRID // 2
        and x.shape[1] < LARGEST_GRID // 2
    )


def rows_norm_flops(x: Any, **unused: Any) -> int:
    """Count squares, additions and roots."""
    return int(2 * x[0] * x[1] + x[0])


ROWS_NORM = define(
    "rows_norm(Tensor x) -> Tensor",
    reference=rows_norm_reference,
    launcher=rows_norm,
    supports=rows_norm_supports,
    flops=rows_norm_flops,
)
