"""Weight gradients of two-dimensional convolutions for each sample, and their norms.

Images ``x`` [B, N, C, H, W] and cotangents ``g`` [B, N, O, Y, X] make the gradient
[B, O, C, KH, KW]: the product of ``g`` with the unfolded images. The kernel unfolds
while it reads, so that the columns [B, C KH KW, Y X] are never in memory.
"""

import math
from collections.abc import Sequence
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
from jaxtorch.kernels.per_sample import refuse_complex
from jaxtorch.kernels.per_sample_norm import widened

Pair = Sequence[int]


def columns(
    x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Unfold [B, N, C, H, W] to [B, C KH KW, N Y X], where Y X are all positions."""
    flat = x.flatten(0, 1)
    out: Tensor = torch.ops.aten.im2col.default(flat, kernel, dilation, padding, stride)
    return torch.unflatten(out, 0, x.shape[:2]).movedim(1, 2).flatten(2)


# per_sample_convolution_weight: the gradients themselves


def per_sample_convolution_weight_reference(
    x: Tensor, g: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Multiply ``g`` with the unfolded images; returns [B, O, C, KH, KW]."""
    # Traffic: x is read, its columns, KH KW times as large, are written and read.
    out = _products(x, g, kernel, stride, padding, dilation)
    return torch.unflatten(out, 2, (x.shape[2], *kernel))


def _products(x: Tensor, g: Tensor, *geometry: Pair) -> Tensor:
    refuse_complex(g)
    rows = g.movedim(1, 2).flatten(2)
    return torch.bmm(rows, columns(x, *geometry).mT)


CONFIGS = {
    "few": Config(
        "at most 64 output channels: a tile of 128 would be half empty",
        {"BLOCK_P": 64, "BLOCK_O": 64, "BLOCK_K": 64},
    ),
    "many": Config(
        "each unfolded element serves 128 output channels",
        {"BLOCK_P": 64, "BLOCK_O": 128, "BLOCK_K": 64},
        num_warps=8,
    ),
    "float32": Config(
        "operands of twice the size, of which each is split in two",
        {"BLOCK_P": 32, "BLOCK_O": 64, "BLOCK_K": 64},
        num_warps=8,
    ),
}


@jit
def _convolution_kernel(
    out_ptr: tensor, x_ptr: tensor, g_ptr: tensor,
    images: tensor, channels: tensor, height: tensor, width: tensor,
    outs: tensor, out_height: tensor, out_width: tensor,
    GEOMETRY: constexpr, BLOCK_P: constexpr, BLOCK_O: constexpr, BLOCK_K: constexpr,
    SQUARED: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    size = channels * GEOMETRY[0] * GEOMETRY[1]
    tiles_k = tl.cdiv(size, BLOCK_K)
    tiles = tl.cdiv(outs, BLOCK_O) * tiles_k
    b = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    o = (tile // tiles_k) * BLOCK_O + tl.arange(0, BLOCK_O)
    k = (tile % tiles_k) * BLOCK_K + tl.arange(0, BLOCK_K)
    # Where each column's element lies from the position that it is read for.
    row = (k // GEOMETRY[1]) % GEOMETRY[0] * GEOMETRY[6] - GEOMETRY[4]
    column = k % GEOMETRY[1] * GEOMETRY[7] - GEOMETRY[5]
    plane = k // (GEOMETRY[0] * GEOMETRY[1]) * height * width
    positions = out_height * out_width
    x_ptr += b * images * channels * height * width
    g_ptr += b * images * outs * positions
    acc = tl.zeros((BLOCK_O, BLOCK_K), tl.float32)
    for _ in range(images):
        for start in range(0, positions, BLOCK_P):
            p = start + tl.arange(0, BLOCK_P)
            y = (p // out_width * GEOMETRY[2])[None, :] + row[:, None]
            z = (p % out_width * GEOMETRY[3])[None, :] + column[:, None]
            read = (p < positions)[None, :]
            inside = (y >= 0) & (y < height) & (z >= 0) & (z < width) & read
            x = tl.load(
                x_ptr + plane[:, None] + y * width + z,
                mask=inside & (k < size)[:, None], other=0.0,
            )  # fmt: skip
            g = tl.load(
                g_ptr + o[:, None] * positions + p[None, :],
                mask=(o < outs)[:, None] & read, other=0.0,
            )  # fmt: skip
            acc = dot(g, tl.trans(x), acc, PRECISION)
        x_ptr += channels * height * width
        g_ptr += outs * positions
    mask = (o < outs)[:, None] & (k < size)[None, :]
    if SQUARED:
        acc = tl.where(mask, acc, 0.0)  # an infinity times a zero behind the end
        tl.store(out_ptr + tl.program_id(0), tl.sum(acc * acc))
    else:
        offsets = (b * outs + o.to(tl.int64)[:, None]) * size + k[None, :]
        tl.store(out_ptr + offsets, acc.to(out_ptr.dtype.element_ty), mask=mask)


def per_sample_convolution_weight(
    x: Tensor,
    g: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    config: Config | None = None,
) -> Tensor:
    """Launch a program for each sample and tile of its gradient."""
    out = x.new_empty(x.shape[0], g.shape[2], x.shape[2], *kernel)
    config = config or _config(x, g)
    _launch(out, x, g, (kernel, stride, padding, dilation), config, squared=False)
    return out


def _config(x: Tensor, g: Tensor) -> Config:
    if x.dtype is torch.float32:
        return CONFIGS["float32"]
    return CONFIGS["few" if g.shape[2] <= 64 else "many"]


def _tiles(x: Tensor, g: Tensor, kernel: Pair, config: Config) -> int:
    tiles_o = cdiv(g.shape[2], config.blocks["BLOCK_O"])
    return tiles_o * cdiv(x.shape[2] * math.prod(kernel), config.blocks["BLOCK_K"])


def _launch(
    out: Tensor,
    x: Tensor,
    g: Tensor,
    geometry: Sequence[Pair],
    config: Config,
    squared: bool,
) -> None:
    launch(
        _convolution_kernel,
        (x.shape[0] * _tiles(x, g, geometry[0], config),),
        config,
        out,
        x.contiguous(),
        g.contiguous(),
        *x.shape[1:],
        *g.shape[2:],
        GEOMETRY=tuple(number for pair in geometry for number in pair),
        SQUARED=squared,
        PRECISION=dot_precision(x.dtype),
    )


def per_sample_convolution_weight_supports(
    x: Tensor, g: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> bool:
    """Tell whether ``g`` has all positions of the kernel, in images below 2^31.

    So offsets within an image take 32 bits.
    """
    if x.dim() != 5 or g.dim() != 5 or x.shape[:2] != g.shape[:2]:
        return False
    lengths = zip(x.shape[3:], kernel, stride, padding, dilation, strict=True)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in lengths]
    size = x.shape[2] * math.prod(kernel)
    return (
        list(g.shape[3:]) == sizes
        and x.dtype is g.dtype
        and x.dtype in DTYPES
        and x.device == g.device
        and max(math.prod(x.shape[2:]), math.prod(g.shape[2:])) < LARGEST_GRID
        and x.shape[0] * (g.shape[2] // 64 + 1) * (size // 64 + 1) < LARGEST_GRID
    )


def per_sample_convolution_weight_flops(
    x: Any, g: Any, kernel: Any, *geometry: Any, **unused: Any
) -> int:
    """Count the operations of the product."""
    return int(2 * math.prod(g) * x[2] * math.prod(kernel))


GEOMETRY = "int[2] kernel, int[2] stride, int[2] padding, int[2] dilation"
PER_SAMPLE_CONVOLUTION_WEIGHT = define(
    f"per_sample_convolution_weight(Tensor x, Tensor g, {GEOMETRY}) -> Tensor",
    reference=per_sample_convolution_weight_reference,
    launcher=per_sample_convolution_weight,
    supports=per_sample_convolution_weight_supports,
    flops=per_sample_convolution_weight_flops,
)


# per_sample_convolution_squared_norm: their squared norms


def per_sample_convolution_squared_norm_reference(
    x: Tensor, g: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Sum the squares of the gradients; returns [B], of half precision in float32."""
    # Traffic: as above, and the gradients are written and read.
    out = _products(widened(x), widened(g), kernel, stride, padding, dilation)
    return (out * out).sum((1, 2))


def per_sample_convolution_squared_norm(
    x: Tensor,
    g: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    config: Config | None = None,
) -> Tensor:
    """Launch a program for each tile; the sums of the tiles are added afterwards."""
    config = config or _config(x, g)
    tiles = _tiles(x, g, kernel, config)
    out = x.new_empty(x.shape[0], tiles, dtype=torch.float32)
    _launch(out, x, g, (kernel, stride, padding, dilation), config, squared=True)
    return out.sum(1)


PER_SAMPLE_CONVOLUTION_SQUARED_NORM = define(
    f"per_sample_convolution_squared_norm(Tensor x, Tensor g, {GEOMETRY}) -> Tensor",
    reference=per_sample_convolution_squared_norm_reference,
    launcher=per_sample_convolution_squared_norm,
    supports=per_sample_convolution_weight_supports,
    flops=per_sample_convolution_weight_flops,
)
