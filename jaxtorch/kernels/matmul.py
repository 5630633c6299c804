"""Products of many small or skinny matrices, and of many with one that they share.

Outer products and products with one row or column are in ``per_sample`` and ``dot``.
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
    dot,
    dot_precision,
    jit,
    launch,
    tensor,
    tl,
)
from jaxtorch.kernels.operator import define

# small_bmm: a stack of products, each too small for the tiles of a large one


def small_bmm_reference(a: Tensor, b: Tensor) -> Tensor:
    """Multiply ``a[i] b[i]``; returns [B, M, N]."""
    # Traffic: B (M K + K N + M N) elements, each once where a tile covers M or N.
    return torch.bmm(a, b)


TINY = 16
SMALL_CONFIGS = {
    "tiny": Config(
        "up to 16: 8 matrices a program, else loads would be too short to wait for",
        {"BLOCK_B": 8, "BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16},
    ),
    "quarter": Config(
        "up to 32: one warp a matrix, so that no warp waits for another",
        {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32},
        num_warps=1,
    ),
    "square": Config(
        "up to 64, and longer sums or outputs of which 64 is a side",
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32},
        num_stages=3,
    ),
    "float32 square": Config(
        "as square; 4 warps run out of registers, as each operand is split in two",
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32},
        num_warps=8,
    ),
    "rows": Config(
        "few rows: long loads and stores along the columns",
        {"BLOCK_M": 16, "BLOCK_N": 128, "BLOCK_K": 32},
        num_stages=3,
    ),
    "columns": Config(
        "few columns: the same with the rows",
        {"BLOCK_M": 128, "BLOCK_N": 16, "BLOCK_K": 32},
        num_stages=3,
    ),
}


def _small_config(m: int, n: int, k: int, dtype: torch.dtype) -> Config:
    if max(m, n, k) <= TINY:
        return SMALL_CONFIGS["tiny"]
    if max(m, n) <= 32:
        return SMALL_CONFIGS["quarter"]
    if min(m, n) <= 16:
        return SMALL_CONFIGS["rows" if m < n else "columns"]
    return SMALL_CONFIGS["float32 square" if dtype is torch.float32 else "square"]


@jit
def _tiny_kernel(
    out_ptr: tensor, a_ptr: tensor, b_ptr: tensor,
    a_batch_stride: tensor, a_row_stride: tensor, a_stride: tensor,
    b_batch_stride: tensor, b_row_stride: tensor, b_stride: tensor,
    batch: tensor, rows: tensor, columns: tensor, length: tensor,
    BLOCK_B: constexpr, BLOCK_M: constexpr, BLOCK_N: constexpr, BLOCK_K: constexpr,
    PRECISION: constexpr,
) -> None:  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    i = i[:, None, None]
    m = tl.arange(0, BLOCK_M)[None, :, None]
    n = tl.arange(0, BLOCK_N)[None, None, :]
    left_k = tl.arange(0, BLOCK_K)[None, None, :]
    right_k = tl.arange(0, BLOCK_K)[None, :, None]
    a = tl.load(
        a_ptr + i * a_batch_stride + m * a_row_stride + left_k * a_stride,
        mask=(i < batch) & (m < rows) & (left_k < length), other=0.0,
    )  # fmt: skip
    b = tl.load(
        b_ptr + i * b_batch_stride + right_k * b_row_stride + n * b_stride,
        mask=(i < batch) & (right_k < length) & (n < columns), other=0.0,
    )  # fmt: skip
    acc = tl.zeros((BLOCK_B, BLOCK_M, BLOCK_N), tl.float32)
    acc = dot(a, b, acc, PRECISION)
    tl.store(
        out_ptr + (i * rows + m) * columns + n,
        acc.to(out_ptr.dtype.element_ty),
        mask=(i < batch) & (m < rows) & (n < columns),
    )


@jit
def _small_kernel(
    out_ptr: tensor, a_ptr: tensor, b_ptr: tensor,
    a_batch_stride: tensor, a_row_stride: tensor, a_stride: tensor,
    b_batch_stride: tensor, b_row_stride: tensor, b_stride: tensor,
    rows: tensor, columns: tensor, length: tensor,
    BLOCK_M: constexpr, BLOCK_N: constexpr, BLOCK_K: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles_n = tl.cdiv(columns, BLOCK_N)
    tiles = tl.cdiv(rows, BLOCK_M) * tiles_n
    i = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    m = (tile // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
    n = (tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)[None, :]
    a_ptr += i * a_batch_stride + m * a_row_stride
    b_ptr += i * b_batch_stride + n * b_stride
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, length, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)
        left = k[None, :]
        right = k[:, None]
        a = tl.load(
            a_ptr + left * a_stride, mask=(m < rows) & (left < length), other=0.0
        )
        b = tl.load(
            b_ptr + right * b_row_stride,
            mask=(right < length) & (n < columns), other=0.0,
        )  # fmt: skip
        acc = dot(a, b, acc, PRECISION)
    tl.store(
        out_ptr + (i * rows + m) * columns + n,
        acc.to(out_ptr.dtype.element_ty),
        mask=(m < rows) & (n < columns),
    )


def small_bmm(a: Tensor, b: Tensor, config: Config | None = None) -> Tensor:
    """Launch a program for each tile, or for some whole products."""
    batch, rows, length = a.shape
    columns = b.shape[2]
    config = config or _small_config(rows, columns, length, a.dtype)
    out = a.new_empty(batch, rows, columns)
    operands = (out, a, b, *a.stride(), *b.stride())
    precision = dot_precision(a.dtype)
    blocks = config.blocks
    if config is SMALL_CONFIGS["tiny"]:
        grid = (cdiv(batch, blocks["BLOCK_B"]) if rows * columns else 0,)
        launch(
            _tiny_kernel, grid, config, *operands, batch, rows, columns, length,
            PRECISION=precision,
        )  # fmt: skip
    else:
        tiles = cdiv(rows, blocks["BLOCK_M"]) * cdiv(columns, blocks["BLOCK_N"])
        launch(
            _small_kernel, (batch * tiles,), config, *operands, rows, columns, length,
            PRECISION=precision,
        )  # fmt: skip
    return out


def small_bmm_supports(a: Tensor, b: Tensor) -> bool:
    """Tell whether these are stacks of matrices, small in two of the three sizes."""
    if not (a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0]):
        return False
    rows, columns, length = a.shape[1], b.shape[2], a.shape[2]
    return (
        length == b.shape[1]
        and sorted((rows, columns, length))[1] <= 64
        and a.dtype is b.dtype
        and a.dtype in DTYPES
        and a.device == b.device
        and a.shape[0] * (rows // 16 + 1) * (columns // 16 + 1) < LARGEST_GRID
    )


def small_bmm_flops(a: Any, b: Any, **unused: Any) -> int:
    """Count multiplications and additions."""
    return int(2 * a[0] * a[1] * a[2] * b[2])


SMALL_BMM = define(
    "small_bmm(Tensor a, Tensor b) -> Tensor",
    reference=small_bmm_reference,
    launcher=small_bmm,
    supports=small_bmm_supports,
    flops=small_bmm_flops,
)


# shared_bmm: one product of the rows of all matrices with the shared matrix


def shared_bmm_reference(x: Tensor, w: Tensor) -> Tensor:
    """Multiply ``x[i] w``; returns [B, M, N]."""
    # Traffic: x is read once for each tile of columns, however its rows lie.
    return torch.matmul(x, w)


SHARED_CONFIGS = {
    "narrow": Config(
        "at most 64 columns: one tile, so that x is read once",
        {"BLOCK_R": 128, "BLOCK_N": 64, "BLOCK_K": 64},
        num_stages=3,
    ),
    "wide": Config(
        "two warp groups share a tile of 128, whose operands are read half as often",
        {"BLOCK_R": 128, "BLOCK_N": 128, "BLOCK_K": 64},
        num_warps=8,
        num_stages=3,
    ),
    "float32 narrow": Config(
        "as narrow; operands of twice the size, of which each is split in two",
        {"BLOCK_R": 64, "BLOCK_N": 64, "BLOCK_K": 32},
        num_warps=8,
    ),
    "float32 wide": Config(
        "as wide; the same for float32",
        {"BLOCK_R": 128, "BLOCK_N": 128, "BLOCK_K": 32},
        num_warps=8,
    ),
}


@jit
def _shared_kernel(
    out_ptr: tensor, x_ptr: tensor, w_ptr: tensor, d_ptr: tensor,
    x_batch_stride: tensor, x_row_stride: tensor, x_stride: tensor,
    w_row_stride: tensor, w_stride: tensor, d_batch_stride: tensor, d_stride: tensor,
    total: tensor, rows: tensor, columns: tensor, length: tensor,
    BLOCK_R: constexpr, BLOCK_N: constexpr, BLOCK_K: constexpr, SCALED: constexpr,
    PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles_n = tl.cdiv(columns, BLOCK_N)
    r = tl.program_id(0) // tiles_n * BLOCK_R + tl.arange(0, BLOCK_R)
    n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    i = (r // rows).to(tl.int64)[:, None]
    x_ptr += i * x_batch_stride + (r % rows).to(tl.int64)[:, None] * x_row_stride
    r = r.to(tl.int64)[:, None]
    n = n.to(tl.int64)[None, :]
    acc = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for start in range(0, length, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K)).to(tl.int64)
        left = k[None, :]
        right = k[:, None]
        x = tl.load(
            x_ptr + left * x_stride, mask=(r < total) & (left < length), other=0.0
        )
        w = tl.load(
            w_ptr + right * w_row_stride + n * w_stride,
            mask=(right < length) & (n < columns), other=0.0,
        )  # fmt: skip
        acc = dot(x, w, acc, PRECISION)
    mask = (r < total) & (n < columns)
    if SCALED:
        scale = tl.load(d_ptr + i * d_batch_stride + n * d_stride, mask=mask, other=0.0)
        acc *= scale.to(tl.float32)
    tl.store(out_ptr + r * columns + n, acc.to(out_ptr.dtype.element_ty), mask=mask)


def shared_bmm(x: Tensor, w: Tensor, config: Config | None = None) -> Tensor:
    """Launch a program for each tile of all rows."""
    return shared_product(x, w, None, config)


def shared_product(
    x: Tensor, w: Tensor, d: Tensor | None, config: Config | None
) -> Tensor:
    """Multiply ``x[i] w`` and, if there is ``d`` [B, N], each column by ``d[i, n]``."""
    batch, rows, length = x.shape
    columns = w.shape[1]
    config = config or _shared_config(x, columns)
    total = batch * rows
    out = x.new_empty(batch, rows, columns)
    blocks = config.blocks
    grid = cdiv(total, blocks["BLOCK_R"]) * cdiv(columns, blocks["BLOCK_N"])
    launch(
        _shared_kernel,
        (grid,),
        config,
        out,
        x,
        w,
        out if d is None else d,
        *x.stride(),
        *w.stride(),
        *((0, 0) if d is None else d.stride()),
        total,
        max(rows, 1),
        columns,
        length,
        SCALED=d is not None,
        PRECISION=dot_precision(x.dtype),
    )
    return out


def _shared_config(x: Tensor, columns: int) -> Config:
    width = "narrow" if columns <= 64 else "wide"
    return SHARED_CONFIGS["float32 " + width if x.dtype is torch.float32 else width]


def shared_bmm_supports(x: Tensor, w: Tensor) -> bool:
    """Tell whether this is a stack of matrices and one that fits each of them."""
    return (
        x.dim() == 3
        and w.dim() == 2
        and x.shape[2] == w.shape[0]
        and x.dtype is w.dtype
        and x.dtype in DTYPES
        and x.device == w.device
        and x.shape[0] * x.shape[1] < LARGEST_GRID // 2
        and (x.shape[0] * x.shape[1] // 64 + 1) * (w.shape[1] // 64 + 1) < LARGEST_GRID
    )


def shared_bmm_flops(x: Any, w: Any, **unused: Any) -> int:
    """Count multiplications and additions."""
    return int(2 * x[0] * x[1] * x[2] * w[1])


SHARED_BMM = define(
    "shared_bmm(Tensor x, Tensor w) -> Tensor",
    reference=shared_bmm_reference,
    launcher=shared_bmm,
    supports=shared_bmm_supports,
    flops=shared_bmm_flops,
)
