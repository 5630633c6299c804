"""Squared norms of each sample's weight gradient, without making the gradient.

Of linear layers by two routes (Goodfellow 2015; Li et al. 2022, "ghost clipping"): by
the tiles of ``G[b] = sum_t g[b, t] a[b, t]^T``, which are squared and summed in
registers, or by ``sum_tu (a_t . a_u) (g_t . g_u)``, whichever has fewer operations. Of
embeddings by the second, where ``a_t . a_u`` says whether two tokens are equal.
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
from jaxtorch.kernels.per_sample import (
    launch_weight,
    operands,
    per_sample_weight_supports,
    refuse_complex,
    tiles_of,
    weight_config,
)


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in float32 at least: squares overflow in half precision."""
    refuse_complex(x)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def gram_is_cheaper(length: int, ins: int, outs: int) -> bool:
    """Tell whether products of all pairs of rows are fewer than those of features."""
    return (length + 1) * (ins + outs) < 2 * ins * outs


# per_sample_squared_norm: of linear layers


def per_sample_squared_norm_reference(a: Tensor, g: Tensor) -> Tensor:
    """Sum the squares of ``g[b]^T a[b]``; returns [B], of half precision in float32."""
    # Traffic: a and g are read twice; two stacks [B, T, T] or one [B, O, I] are written
    # and read. The kernels read a and g once for each tile and write next to nothing.
    a, g = widened(a), widened(g)
    if gram_is_cheaper(a.shape[1], a.shape[2], g.shape[2]):
        return (torch.bmm(a, a.mT) * torch.bmm(g, g.mT)).sum((1, 2))
    gradient = torch.bmm(g.mT, a)
    return (gradient * gradient).sum((1, 2))


GRAM_CONFIGS = {
    "short": Config(
        "sequences of at most 16: two warps are enough for a tile that small",
        {"BLOCK_T": 16, "BLOCK_K": 64},
        num_warps=2,
    ),
    "long": Config(
        "two products in one program: tiles of 64 leave registers for both",
        {"BLOCK_T": 64, "BLOCK_K": 64},
        num_stages=3,
    ),
    "float32 short": Config(
        "as short; half the columns, since each operand is split in two",
        {"BLOCK_T": 16, "BLOCK_K": 32},
    ),
    "float32 long": Config(
        "as long; operands of twice the size, of which each is split in two",
        {"BLOCK_T": 64, "BLOCK_K": 32},
    ),
}


def gram_config(length: int, dtype: torch.dtype) -> Config:
    """Choose by the length of the sequences."""
    size = "short" if length <= 16 else "long"
    return GRAM_CONFIGS[f"float32 {size}" if dtype is torch.float32 else size]


@jit
def _gram(
    x_ptr: tensor, row_stride: tensor, t: tensor, u: tensor, length: tensor,
    size: tensor, BLOCK_T: constexpr, BLOCK_K: constexpr, PRECISION: constexpr,
) -> tensor:  # fmt: skip
    """Multiply the rows ``t`` with the rows ``u``; rows behind the last are zero."""
    left = x_ptr + t.to(tl.int64)[:, None] * row_stride
    right = x_ptr + u.to(tl.int64)[:, None] * row_stride
    acc = tl.zeros((BLOCK_T, BLOCK_T), tl.float32)
    for start in range(0, size, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        column = (k < size)[None, :]
        x = tl.load(left + k[None, :], mask=(t < length)[:, None] & column, other=0.0)
        y = tl.load(right + k[None, :], mask=(u < length)[:, None] & column, other=0.0)
        acc = dot(x, tl.trans(y), acc, PRECISION)
    return acc


@jit
def _pair(index: tensor) -> tensor:
    """Return row and column of place ``index`` in a lower triangle, read by rows."""
    row = ((tl.sqrt(8.0 * index + 1.0) - 1.0) / 2.0).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > index, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= index, row + 1, row)
    return row, index - row * (row + 1) // 2


@jit
def _gram_kernel(
    out_ptr: tensor, a_ptr: tensor, g_ptr: tensor,
    a_batch_stride: tensor, a_row_stride: tensor, g_batch_stride: tensor,
    g_row_stride: tensor, length: tensor, outs: tensor, ins: tensor,
    BLOCK_T: constexpr, BLOCK_K: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    blocks = tl.cdiv(length, BLOCK_T)
    pairs = blocks * (blocks + 1) // 2
    b = (tl.program_id(0) // pairs).to(tl.int64)
    row, column = _pair(tl.program_id(0) % pairs)
    t = row * BLOCK_T + tl.arange(0, BLOCK_T)
    u = column * BLOCK_T + tl.arange(0, BLOCK_T)
    a = _gram(
        a_ptr + b * a_batch_stride, a_row_stride, t, u, length, ins,
        BLOCK_T, BLOCK_K, PRECISION,
    )  # fmt: skip
    g = _gram(
        g_ptr + b * g_batch_stride, g_row_stride, t, u, length, outs,
        BLOCK_T, BLOCK_K, PRECISION,
    )  # fmt: skip
    inside = (t < length)[:, None] & (u < length)[None, :]
    # An infinity times a zero behind the end is no part of the sum.
    total = tl.sum(tl.where(inside, a * g, 0.0))
    tl.store(out_ptr + tl.program_id(0), tl.where(row == column, total, 2 * total))


def pairs_of(length: int, config: Config) -> int:
    """Return how many tiles the lower triangle of a Gram matrix has."""
    blocks = cdiv(length, config.blocks["BLOCK_T"])
    return blocks * (blocks + 1) // 2


def per_sample_squared_norm(
    a: Tensor, g: Tensor, config: Config | None = None
) -> Tensor:
    """Launch a program for each tile; the sums of the tiles are added afterwards."""
    length = a.shape[1]
    by_rows = gram_is_cheaper(length, a.shape[2], g.shape[2])
    if config is None:
        config = gram_config(length, a.dtype) if by_rows else weight_config(a, g)
    if "BLOCK_K" in config.blocks:
        pairs = pairs_of(length, config)
        out = a.new_empty(a.shape[0], pairs, dtype=torch.float32)
        precision = dot_precision(a.dtype)
        grid = (a.shape[0] * pairs,)
        launch(_gram_kernel, grid, config, *operands(out, a, g), PRECISION=precision)
    else:
        tiles = tiles_of(a, g, config)
        out = a.new_empty(a.shape[0], tiles // max(a.shape[0], 1), dtype=torch.float32)
        launch_weight(out, a, g, config, squared=True)
    return out.sum(1)


def per_sample_squared_norm_supports(a: Tensor, g: Tensor) -> bool:
    """Tell whether these are two stacks of sequences of one length and dtype."""
    return per_sample_weight_supports(a, g) and _has_grid(a)


def _has_grid(x: Tensor) -> bool:
    return x.shape[0] * (x.shape[1] // 16 + 1) ** 2 < LARGEST_GRID


def per_sample_squared_norm_flops(a: Any, g: Any, **unused: Any) -> int:
    """Count the operations of the cheaper route."""
    gram = (a[1] + 1) * (a[2] + g[2])
    return int(a[0] * a[1] * min(gram, 2 * a[2] * g[2]))


PER_SAMPLE_SQUARED_NORM = define(
    "per_sample_squared_norm(Tensor a, Tensor g) -> Tensor",
    reference=per_sample_squared_norm_reference,
    launcher=per_sample_squared_norm,
    supports=per_sample_squared_norm_supports,
    flops=per_sample_squared_norm_flops,
)


# per_sample_embedding_squared_norm: of tables of which each token takes one row


def per_sample_embedding_squared_norm_reference(
    tokens: Tensor, g: Tensor, padding_idx: int = -1
) -> Tensor:
    """Sum ``g_t . g_u`` over the pairs of equal tokens [B, T]; returns [B]."""
    # Traffic: g is read twice, two stacks [B, T, T] are written and read.
    g = widened(g)
    equal = tokens[:, :, None] == tokens[:, None, :]
    if padding_idx >= 0:
        equal = equal & (tokens != padding_idx)[:, :, None]
    return torch.where(equal, torch.bmm(g, g.mT), 0).sum((1, 2))


@jit
def _embedding_kernel(
    out_ptr: tensor, tokens_ptr: tensor, g_ptr: tensor,
    g_batch_stride: tensor, g_row_stride: tensor,
    length: tensor, size: tensor, padding_idx: tensor,
    BLOCK_T: constexpr, BLOCK_K: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    blocks = tl.cdiv(length, BLOCK_T)
    pairs = blocks * (blocks + 1) // 2
    b = (tl.program_id(0) // pairs).to(tl.int64)
    row, column = _pair(tl.program_id(0) % pairs)
    t = row * BLOCK_T + tl.arange(0, BLOCK_T)
    u = column * BLOCK_T + tl.arange(0, BLOCK_T)
    tokens_ptr += b * length
    first = tl.load(tokens_ptr + t, mask=t < length, other=padding_idx)
    second = tl.load(tokens_ptr + u, mask=u < length, other=padding_idx)
    equal = first[:, None] == second[None, :]
    equal &= ((t < length) & ((first != padding_idx) | (padding_idx < 0)))[:, None]
    equal &= (u < length)[None, :]
    total = 0.0
    if tl.max(equal.to(tl.int32)) > 0:
        g = _gram(
            g_ptr + b * g_batch_stride, g_row_stride, t, u, length, size,
            BLOCK_T, BLOCK_K, PRECISION,
        )  # fmt: skip
        total = tl.sum(tl.where(equal, g, 0.0))
    tl.store(out_ptr + tl.program_id(0), tl.where(row == column, total, 2 * total))


def per_sample_embedding_squared_norm(
    tokens: Tensor, g: Tensor, padding_idx: int = -1, config: Config | None = None
) -> Tensor:
    """Launch a program for each pair of blocks; one without equal tokens reads no g."""
    length = g.shape[1]
    config = config or gram_config(length, g.dtype)
    g = g if g.stride(2) == 1 else g.contiguous()
    pairs = pairs_of(length, config)
    out = g.new_empty(g.shape[0], pairs, dtype=torch.float32)
    launch(
        _embedding_kernel,
        (g.shape[0] * pairs,),
        config,
        out,
        tokens.contiguous(),
        g,
        g.stride(0),
        g.stride(1),
        length,
        g.shape[2],
        padding_idx,
        PRECISION=dot_precision(g.dtype),
    )
    return out.sum(1)


def per_sample_embedding_squared_norm_supports(
    tokens: Tensor, g: Tensor, padding_idx: int = -1
) -> bool:
    """Tell whether each token has a row."""
    return (
        g.dim() == 3
        and tokens.shape == g.shape[:2]
        and tokens.dtype in (torch.int32, torch.int64)
        and g.dtype in DTYPES
        and tokens.device == g.device
        and _has_grid(g)
    )


def per_sample_embedding_squared_norm_flops(
    tokens: Any, g: Any, padding_idx: int = -1, **unused: Any
) -> int:
    """Count the operations as if all pairs of tokens were equal."""
    return int(g[0] * g[1] * (g[1] + 1) * g[2])


PER_SAMPLE_EMBEDDING_SQUARED_NORM = define(
    "per_sample_embedding_squared_norm(Tensor tokens, Tensor g, int padding_idx=-1)"
    " -> Tensor",
    reference=per_sample_embedding_squared_norm_reference,
    launcher=per_sample_embedding_squared_norm,
    supports=per_sample_embedding_squared_norm_supports,
    flops=per_sample_embedding_squared_norm_flops,
)
