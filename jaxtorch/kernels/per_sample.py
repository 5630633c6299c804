"""Weight gradients of linear layers for each sample, and their weighted sum.

Activations ``a`` [B, T, I] and cotangents ``g`` [B, T, O] make the gradient
``G[b] = sum_t g[b, t] a[b, t]^T`` [O, I] of sample b; without a sequence T is 1.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import UsageError, explain
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

# per_sample_weight: the gradients themselves


def per_sample_weight_reference(a: Tensor, g: Tensor) -> Tensor:
    """Multiply ``g[b]^T a[b]``; returns [B, O, I]."""
    # Traffic: a and g are read, B O I elements written: by far the most if T < I, O.
    return torch.bmm(g.mT, a)


SHORT = 8
"""The longest sequence that is multiplied without tensor cores."""

WEIGHT_CONFIGS = {
    "short": Config(
        "writing is all there is: long rows of 16 byte stores",
        {"BLOCK_O": 16, "BLOCK_I": 256},
    ),
    "small": Config(
        "layers of at most 64: more programs than tiles of 128 would make",
        {"BLOCK_T": 64, "BLOCK_O": 64, "BLOCK_I": 64},
        num_stages=3,
    ),
    "large": Config(
        "two warp groups share a tile of 128, whose operands are read half as often",
        {"BLOCK_T": 64, "BLOCK_O": 128, "BLOCK_I": 128},
        num_warps=8,
        num_stages=3,
    ),
    "float32 small": Config(
        "as small; operands of twice the size, of which each is split in two",
        {"BLOCK_T": 32, "BLOCK_O": 64, "BLOCK_I": 64},
    ),
    "float32 large": Config(
        "as large; the same for float32",
        {"BLOCK_T": 32, "BLOCK_O": 128, "BLOCK_I": 128},
        num_warps=8,
    ),
}


def weight_config(a: Tensor, g: Tensor) -> Config:
    """Choose how to run on tensor cores."""
    size = "small" if min(a.shape[2], g.shape[2]) <= 64 else "large"
    return WEIGHT_CONFIGS["float32 " + size if a.dtype is torch.float32 else size]


@jit
def _outer_kernel(
    out_ptr: tensor, a_ptr: tensor, g_ptr: tensor,
    a_batch_stride: tensor, a_row_stride: tensor, g_batch_stride: tensor,
    g_row_stride: tensor, length: tensor, outs: tensor, ins: tensor,
    BLOCK_O: constexpr, BLOCK_I: constexpr,
) -> None:  # fmt: skip
    tiles_i = tl.cdiv(ins, BLOCK_I)
    tiles = tl.cdiv(outs, BLOCK_O) * tiles_i
    b = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    o = (tile // tiles_i) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = (tile % tiles_i) * BLOCK_I + tl.arange(0, BLOCK_I)
    a_ptr += b * a_batch_stride
    g_ptr += b * g_batch_stride
    acc = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    for _ in range(length):
        a = tl.load(a_ptr + i, mask=i < ins, other=0.0).to(tl.float32)
        g = tl.load(g_ptr + o, mask=o < outs, other=0.0).to(tl.float32)
        acc += g[:, None] * a[None, :]
        a_ptr += a_row_stride
        g_ptr += g_row_stride
    offsets = b * outs * ins + o.to(tl.int64)[:, None] * ins + i[None, :]
    mask = (o < outs)[:, None] & (i < ins)[None, :]
    tl.store(out_ptr + offsets, acc.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _weight_kernel(
    out_ptr: tensor, a_ptr: tensor, g_ptr: tensor,
    a_batch_stride: tensor, a_row_stride: tensor, g_batch_stride: tensor,
    g_row_stride: tensor, length: tensor, outs: tensor, ins: tensor,
    BLOCK_T: constexpr, BLOCK_O: constexpr, BLOCK_I: constexpr, SQUARED: constexpr,
    PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles_i = tl.cdiv(ins, BLOCK_I)
    tiles = tl.cdiv(outs, BLOCK_O) * tiles_i
    b = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    o = (tile // tiles_i) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = (tile % tiles_i) * BLOCK_I + tl.arange(0, BLOCK_I)
    a_ptr += b * a_batch_stride
    g_ptr += b * g_batch_stride
    acc = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    for start in range(0, length, BLOCK_T):
        t = (start + tl.arange(0, BLOCK_T)).to(tl.int64)
        inside = (t < length)[:, None]
        a = tl.load(
            a_ptr + t[:, None] * a_row_stride + i[None, :],
            mask=inside & (i < ins)[None, :], other=0.0,
        )  # fmt: skip
        g = tl.load(
            g_ptr + t[:, None] * g_row_stride + o[None, :],
            mask=inside & (o < outs)[None, :], other=0.0,
        )  # fmt: skip
        acc = dot(tl.trans(g), a, acc, PRECISION)
    mask = (o < outs)[:, None] & (i < ins)[None, :]
    if SQUARED:
        acc = tl.where(mask, acc, 0.0)  # an infinity times a zero behind the end
        tl.store(out_ptr + tl.program_id(0), tl.sum(acc * acc))
    else:
        offsets = b * outs * ins + o.to(tl.int64)[:, None] * ins + i[None, :]
        tl.store(out_ptr + offsets, acc.to(out_ptr.dtype.element_ty), mask=mask)


def per_sample_weight(a: Tensor, g: Tensor, config: Config | None = None) -> Tensor:
    """Launch a program for each sample and tile of its gradient."""
    out = a.new_empty(a.shape[0], g.shape[2], a.shape[2])
    if config is None and a.shape[1] <= SHORT:
        config = WEIGHT_CONFIGS["short"]
    config = config or weight_config(a, g)
    if config is WEIGHT_CONFIGS["short"]:
        launch(_outer_kernel, (tiles_of(a, g, config),), config, *operands(out, a, g))
    else:
        launch_weight(out, a, g, config, squared=False)
    return out


def tiles_of(a: Tensor, g: Tensor, config: Config) -> int:
    """Return how many tiles the gradients of all samples have."""
    blocks = config.blocks
    per_sample = cdiv(g.shape[2], blocks["BLOCK_O"]) * cdiv(
        a.shape[2], blocks["BLOCK_I"]
    )
    return a.shape[0] * per_sample


def operands(out: Tensor, a: Tensor, g: Tensor) -> tuple[Any, ...]:
    """Return what kernels of two stacks of rows take; the rows are made contiguous."""
    a = a if a.stride(2) == 1 else a.contiguous()
    g = g if g.stride(2) == 1 else g.contiguous()
    strides = (a.stride(0), a.stride(1), g.stride(0), g.stride(1))
    return (out, a, g, *strides, a.shape[1], g.shape[2], a.shape[2])


def launch_weight(
    out: Tensor, a: Tensor, g: Tensor, config: Config, squared: bool
) -> None:
    """Launch the kernel of tensor cores; ``squared`` stores only sums of squares."""
    launch(
        _weight_kernel,
        (tiles_of(a, g, config),),
        config,
        *operands(out, a, g),
        SQUARED=squared,
        PRECISION=dot_precision(a.dtype),
    )


def per_sample_weight_supports(a: Tensor, g: Tensor) -> bool:
    """Tell whether these are two stacks of sequences of one length and dtype."""
    return (
        a.dim() == 3
        and g.dim() == 3
        and a.shape[:2] == g.shape[:2]
        and a.dtype is g.dtype
        and a.dtype in DTYPES
        and a.device == g.device
        and a.shape[0] * (g.shape[2] // 16 + 1) * (a.shape[2] // 64 + 1) < LARGEST_GRID
    )


def per_sample_weight_flops(a: Any, g: Any, **unused: Any) -> int:
    """Count the operations of the products."""
    return int(2 * a[0] * a[1] * a[2] * g[2])


PER_SAMPLE_WEIGHT = define(
    "per_sample_weight(Tensor a, Tensor g) -> Tensor",
    reference=per_sample_weight_reference,
    launcher=per_sample_weight,
    supports=per_sample_weight_supports,
    flops=per_sample_weight_flops,
)


def refuse_complex(x: Tensor) -> None:
    """Raise for complex tensors, of which the derivatives are not written."""
    if x.is_complex():
        raise UsageError(
            explain(
                "torch.ops.jaxtorch.per_sample",
                "complex tensors are not taken.",
                "write the products with torch.einsum",
            )
        )


# per_sample_weighted_sum: gradients clipped, scaled and summed as in DP-SGD


def per_sample_weighted_sum_reference(a: Tensor, g: Tensor, s: Tensor) -> Tensor:
    """Sum ``s[b] g[b]^T a[b]`` over the samples; returns [O, I]."""
    # Traffic: g is read, written scaled and read again, a is read, O I are written.
    refuse_complex(g)
    scaled = (g * s[:, None, None]).to(g.dtype)
    return torch.mm(scaled.flatten(0, 1).mT, a.flatten(0, 1))


SUM_CONFIGS = {
    "small": Config(
        "layers of at most 64 columns or rows",
        {"BLOCK_T": 64, "BLOCK_O": 64, "BLOCK_I": 64},
        num_stages=3,
    ),
    "large": Config(
        "scaling needs the tile of g in registers: 8 warps share it",
        {"BLOCK_T": 64, "BLOCK_O": 128, "BLOCK_I": 128},
        num_warps=8,
        num_stages=3,
    ),
    "float32 small": WEIGHT_CONFIGS["float32 small"],
    "float32 large": WEIGHT_CONFIGS["float32 large"],
}
PROGRAMS = 264
"""Two for each multiprocessor of an H100: so many at least where the sum allows it."""


@jit
def _sum_kernel(
    out_ptr: tensor, a_ptr: tensor, g_ptr: tensor, s_ptr: tensor,
    a_row_stride: tensor, g_row_stride: tensor,
    length: tensor, rows: tensor, outs: tensor, ins: tensor,
    BLOCK_T: constexpr, BLOCK_O: constexpr, BLOCK_I: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles_i = tl.cdiv(ins, BLOCK_I)
    o = (tl.program_id(0) // tiles_i) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = (tl.program_id(0) % tiles_i) * BLOCK_I + tl.arange(0, BLOCK_I)
    share = tl.cdiv(tl.cdiv(rows, BLOCK_T), tl.num_programs(1)) * BLOCK_T
    first = tl.program_id(1) * share
    acc = tl.zeros((BLOCK_O, BLOCK_I), tl.float32)
    for start in range(first, tl.minimum(first + share, rows), BLOCK_T):
        row = start + tl.arange(0, BLOCK_T)
        inside = row < rows
        wide = row.to(tl.int64)[:, None]
        a = tl.load(
            a_ptr + wide * a_row_stride + i[None, :],
            mask=inside[:, None] & (i < ins)[None, :], other=0.0,
        )  # fmt: skip
        g = tl.load(
            g_ptr + wide * g_row_stride + o[None, :],
            mask=inside[:, None] & (o < outs)[None, :], other=0.0,
        )  # fmt: skip
        s = tl.load(s_ptr + row // length, mask=inside, other=0.0)
        scaled = (g.to(tl.float32) * s.to(tl.float32)[:, None]).to(g.dtype)
        acc = dot(tl.trans(scaled), a, acc, PRECISION)
    split = tl.program_id(1).to(tl.int64)
    offsets = (split * outs + o.to(tl.int64)[:, None]) * ins + i[None, :]
    mask = (o < outs)[:, None] & (i < ins)[None, :]
    tl.store(out_ptr + offsets, acc.to(out_ptr.dtype.element_ty), mask=mask)


def per_sample_weighted_sum(
    a: Tensor, g: Tensor, s: Tensor, config: Config | None = None
) -> Tensor:
    """Launch a program for each tile; where tiles are few, several share its sum."""
    config = config or _sum_config(a, g)
    length, outs, ins = a.shape[1], g.shape[2], a.shape[2]
    a, g = a.flatten(0, 1), g.flatten(0, 1)
    a = a if a.stride(1) == 1 else a.contiguous()
    g = g if g.stride(1) == 1 else g.contiguous()
    rows = a.shape[0]
    blocks = config.blocks
    tiles = cdiv(outs, blocks["BLOCK_O"]) * cdiv(ins, blocks["BLOCK_I"])
    most = cdiv(rows, 4 * blocks["BLOCK_T"])
    splits = max(1, min(PROGRAMS // max(tiles, 1), most))
    dtype = a.dtype if splits == 1 else torch.float32
    out = a.new_empty(splits, outs, ins, dtype=dtype)
    launch(
        _sum_kernel,
        (tiles, splits),
        config,
        out,
        a,
        g,
        s.contiguous(),
        a.stride(0),
        g.stride(0),
        max(length, 1),
        rows,
        outs,
        ins,
        PRECISION=dot_precision(a.dtype),
    )
    return out[0] if splits == 1 else out.sum(0).to(a.dtype)


def _sum_config(a: Tensor, g: Tensor) -> Config:
    size = "small" if min(a.shape[2], g.shape[2]) <= 64 else "large"
    return SUM_CONFIGS["float32 " + size if a.dtype is torch.float32 else size]


def per_sample_weighted_sum_supports(a: Tensor, g: Tensor, s: Tensor) -> bool:
    """Tell whether there is one weight for each sample of two stacks of sequences."""
    return (
        per_sample_weight_supports(a, g)
        and s.shape == a.shape[:1]
        and s.dtype in DTYPES
        and s.device == a.device
        and a.shape[0] * a.shape[1] < LARGEST_GRID
    )


def per_sample_weighted_sum_flops(a: Any, g: Any, s: Any, **unused: Any) -> int:
    """Count the operations of the product and of the scaling."""
    return int(a[0] * a[1] * g[2] * (2 * a[2] + 1))


PER_SAMPLE_WEIGHTED_SUM = define(
    "per_sample_weighted_sum(Tensor a, Tensor g, Tensor s) -> Tensor",
    reference=per_sample_weighted_sum_reference,
    launcher=per_sample_weighted_sum,
    supports=per_sample_weighted_sum_supports,
    flops=per_sample_weighted_sum_flops,
)
