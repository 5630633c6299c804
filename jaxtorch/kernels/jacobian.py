"""Blocks of tangents through a layer, and the products ``J^T diag(d) J`` of Jacobians.

The basis of the first layer is the identity, whose product with a matrix is the matrix:
``jit`` drops it, and no kernel reads one.
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
from jaxtorch.kernels.matmul import (
    SHARED_CONFIGS,
    shared_bmm_supports,
    shared_product,
)
from jaxtorch.kernels.operator import define

# push_layer: tangents through a linear layer and an activation of known slope


def push_layer_reference(t: Tensor, w: Tensor, d: Tensor) -> Tensor:
    """Multiply ``(t[b] w) diag(d[b])``; [B, S, K], [K, N] and [B, N] to [B, S, N]."""
    # Traffic: t is read and B S N elements written, once; w and d are small beside.
    return torch.matmul(t, w) * d.unsqueeze(1)


PUSH_CONFIGS = {
    "narrow": SHARED_CONFIGS["narrow"],
    "wide": SHARED_CONFIGS["wide"],
    "float32": Config(
        "half as wide: the slopes of a whole tile are in registers at its end",
        {"BLOCK_R": 128, "BLOCK_N": 64, "BLOCK_K": 32},
        num_warps=8,
    ),
}


def _push_config(t: Tensor, w: Tensor) -> Config:
    if t.dtype is torch.float32:
        return PUSH_CONFIGS["float32"]
    return PUSH_CONFIGS["narrow" if w.shape[1] <= 64 else "wide"]


def push_layer(t: Tensor, w: Tensor, d: Tensor, config: Config | None = None) -> Tensor:
    """Launch the product that all rows share; slopes multiply what it stores."""
    return shared_product(t, w, d, config or _push_config(t, w))


def push_layer_supports(t: Tensor, w: Tensor, d: Tensor) -> bool:
    """Tell whether there is a slope for each sample and output."""
    return (
        shared_bmm_supports(t, w)
        and d.shape == (t.shape[0], w.shape[1])
        and d.dtype is t.dtype
        and d.device == t.device
    )


def push_layer_flops(t: Any, w: Any, d: Any, **unused: Any) -> int:
    """Count the product and the scaling."""
    return int(t[0] * t[1] * w[1] * (2 * t[2] + 1))


PUSH_LAYER = define(
    "push_layer(Tensor t, Tensor w, Tensor d) -> Tensor",
    reference=push_layer_reference,
    launcher=push_layer,
    supports=push_layer_supports,
    flops=push_layer_flops,
)


# weighted_gram: J^T diag(d) J, of which one half is multiplied


def weighted_gram_reference(j: Tensor, d: Tensor) -> Tensor:
    """Multiply ``j[b]^T diag(d[b]) j[b]``; [B, O, N] and [B, O] to [B, N, N]."""
    # Traffic: j is read for each tile beside it, at least once; B N N are written.
    return torch.bmm(j.mT, j * d.unsqueeze(2))


GRAM_CONFIGS = {
    "small": Config(
        "up to 64 columns: one tile, so that j is read once",
        {"BLOCK_N": 64, "BLOCK_O": 32},
    ),
    "large": Config(
        "tiles of 128 are read half as often; 8 warps hold the tile and its transpose",
        {"BLOCK_N": 128, "BLOCK_O": 32},
        num_warps=8,
    ),
    "float32": Config(
        "each operand is split in two: a tile of 64 is all that registers hold",
        {"BLOCK_N": 64, "BLOCK_O": 32},
        num_warps=8,
    ),
}


def _gram_config(j: Tensor) -> Config:
    if j.dtype is torch.float32:
        return GRAM_CONFIGS["float32"]
    return GRAM_CONFIGS["small" if j.shape[2] <= 64 else "large"]


@jit
def _gram_kernel(
    out_ptr: tensor, j_ptr: tensor, d_ptr: tensor,
    j_batch_stride: tensor, j_row_stride: tensor, j_stride: tensor,
    d_batch_stride: tensor, d_stride: tensor, rows: tensor, size: tensor,
    BLOCK_N: constexpr, BLOCK_O: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(size, BLOCK_N)
    b = (tl.program_id(0) // (tiles * tiles)).to(tl.int64)
    upper = tl.program_id(0) // tiles % tiles
    lower = tl.program_id(0) % tiles
    if upper <= lower:
        m = (upper * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        n = (lower * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        j_ptr += b * j_batch_stride
        d_ptr += b * d_batch_stride
        acc = tl.zeros((BLOCK_N, BLOCK_N), tl.float32)
        for start in range(0, rows, BLOCK_O):
            o = (start + tl.arange(0, BLOCK_O)).to(tl.int64)
            inside = (o < rows)[:, None]
            d = tl.load(d_ptr + o * d_stride, mask=o < rows, other=0.0)
            row_ptr = j_ptr + o[:, None] * j_row_stride
            left = tl.load(
                row_ptr + m[None, :] * j_stride,
                mask=inside & (m < size)[None, :], other=0.0,
            )  # fmt: skip
            right = tl.load(
                row_ptr + n[None, :] * j_stride,
                mask=inside & (n < size)[None, :], other=0.0,
            )  # fmt: skip
            scaled = right.to(tl.float32) * d.to(tl.float32)[:, None]
            acc = dot(tl.trans(left), scaled.to(left.dtype), acc, PRECISION)
        turned = tl.trans(acc)
        if upper == lower:
            acc = 0.5 * (acc + turned)
        out_ptr += b * size * size
        dtype = out_ptr.dtype.element_ty
        mask = (m < size)[:, None] & (n < size)[None, :]
        tl.store(out_ptr + m[:, None] * size + n[None, :], acc.to(dtype), mask=mask)
        if upper < lower:
            mask = (n < size)[:, None] & (m < size)[None, :]
            place = out_ptr + n[:, None] * size + m[None, :]
            tl.store(place, turned.to(dtype), mask=mask)


def weighted_gram(j: Tensor, d: Tensor, config: Config | None = None) -> Tensor:
    """Launch a program for each tile; those below the diagonal have nothing to do."""
    config = config or _gram_config(j)
    batch, rows, size = j.shape
    out = j.new_empty(batch, size, size)
    tiles = cdiv(size, config.blocks["BLOCK_N"])
    launch(
        _gram_kernel, (batch * tiles * tiles,), config,
        out, j, d, *j.stride(), *d.stride(), rows, size,
        PRECISION=dot_precision(j.dtype),
    )  # fmt: skip
    return out


def weighted_gram_supports(j: Tensor, d: Tensor) -> bool:
    """Tell whether these are a stack of Jacobians and the weights of their rows."""
    return (
        j.dim() == 3
        and d.shape == j.shape[:2]
        and j.dtype is d.dtype
        and j.dtype in DTYPES
        and j.device == d.device
        and j.shape[0] * (j.shape[2] // 64 + 1) ** 2 < LARGEST_GRID
    )


def weighted_gram_flops(j: Any, d: Any, **unused: Any) -> int:
    """Count one half of the product, and the scaling."""
    return int(j[0] * j[1] * j[2] * (j[2] + 2))


WEIGHTED_GRAM = define(
    "weighted_gram(Tensor j, Tensor d) -> Tensor",
    reference=weighted_gram_reference,
    launcher=weighted_gram,
    supports=weighted_gram_supports,
    flops=weighted_gram_flops,
)


# gram_diagonal: the diagonal of J^T diag(d) J alone


def gram_diagonal_reference(j: Tensor, d: Tensor) -> Tensor:
    """Sum ``d[b, o] j[b, o, n]^2``; [B, O, N] and [B, O] to [B, N]."""
    # Traffic: j is read once; d is read, B N elements are written.
    return torch.bmm(d.unsqueeze(1), j * j).squeeze(1)


DIAGONAL_CONFIGS = {
    "rows": Config(
        "rows in one piece: long loads along them",
        {"BLOCK_O": 8, "BLOCK_N": 256},
    ),
    "columns": Config(
        "columns in one piece, as of a transposed Jacobian: loads along those",
        {"BLOCK_O": 256, "BLOCK_N": 16},
    ),
}


@jit
def _diagonal_kernel(
    out_ptr: tensor, j_ptr: tensor, d_ptr: tensor,
    j_batch_stride: tensor, j_row_stride: tensor, j_stride: tensor,
    d_batch_stride: tensor, d_stride: tensor, rows: tensor, size: tensor,
    BLOCK_N: constexpr, BLOCK_O: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(size, BLOCK_N)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    n = (tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    j_ptr += b * j_batch_stride + n[None, :] * j_stride
    d_ptr += b * d_batch_stride
    acc = tl.zeros((BLOCK_O, BLOCK_N), tl.float32)
    for start in range(0, rows, BLOCK_O):
        o = (start + tl.arange(0, BLOCK_O)).to(tl.int64)
        d = tl.load(d_ptr + o * d_stride, mask=o < rows, other=0.0).to(tl.float32)
        mask = (o < rows)[:, None] & (n < size)[None, :]
        j = tl.load(j_ptr + o[:, None] * j_row_stride, mask=mask, other=0.0)
        j = j.to(tl.float32)
        acc += d[:, None] * (j * j)
    out = tl.sum(acc, 0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + b * size + n, out, mask=n < size)


def gram_diagonal(j: Tensor, d: Tensor, config: Config | None = None) -> Tensor:
    """Launch a program for some columns of a sample."""
    turned = j.stride(1) == 1 and j.stride(2) != 1
    config = config or DIAGONAL_CONFIGS["columns" if turned else "rows"]
    batch, rows, size = j.shape
    out = j.new_empty(batch, size)
    tiles = cdiv(size, config.blocks["BLOCK_N"])
    launch(
        _diagonal_kernel, (batch * tiles,), config,
        out, j, d, *j.stride(), *d.stride(), rows, size,
    )  # fmt: skip
    return out


def gram_diagonal_flops(j: Any, d: Any, **unused: Any) -> int:
    """Count squares, products with weights, and sums."""
    return int(3 * j[0] * j[1] * j[2])


GRAM_DIAGONAL = define(
    "gram_diagonal(Tensor j, Tensor d) -> Tensor",
    reference=gram_diagonal_reference,
    launcher=gram_diagonal,
    supports=weighted_gram_supports,
    flops=gram_diagonal_flops,
)
