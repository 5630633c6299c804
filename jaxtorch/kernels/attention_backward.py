"""The gradient of attention, its weights computed anew from ``lse``. No forward.

For cotangents ``c`` of ``out`` and ``g`` of ``lse`` let ``delta = sum c out - g``. Then
the cotangents of queries, keys and values are the gradient of

    psi = sum_ij p_ij a_ij,    p = exp(s - lse),    a = c v^T - delta

with ``lse`` and ``delta`` held. Both are inputs like any other here; that makes the
second order right.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels.attention_tiles import (
    LOG2E,
    config_of,
    constants,
    lay_out,
    load_rows,
    load_statistic,
    masked,
    products,
    start_of,
    store_rows,
    supported,
    weights,
)
from jaxtorch.kernels.language import (
    Config,
    cdiv,
    constexpr,
    dot,
    jit,
    launch,
    tensor,
    tl,
)
from jaxtorch.kernels.operator import define

# attention_backward: the cotangents of queries, keys and values


def attention_backward_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    c: Tensor,
    lse: Tensor,
    delta: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``scale w k``, ``scale w^T q`` and ``p^T c``, where ``w = p a``."""
    # Traffic: q, k, v, c and two numbers a query are read; three results are written.
    p = weights(q, k, lse, mask, causal, scale)
    wide = [x.to(p.dtype) for x in (q, k, v, c)]
    a = torch.matmul(wide[3], wide[2].mT) - delta.unsqueeze(-1)
    w = p * a * scale
    outs = (
        torch.matmul(w, wide[1]),
        torch.matmul(w.mT, wide[0]),
        torch.matmul(p.mT, wide[3]),
    )
    gq, gk, gv = (x.to(q.dtype) for x in outs)
    return gq, gk, gv


CONFIGS = {
    "half 64": Config(
        "one warp group; results for 64 queries, then for 64 keys",
        {"BLOCK_OWN": 64, "BLOCK_OTHER": 64},
    ),
    "half 64, registers": Config(
        "half the keys, since operands lie beside results",
        {"BLOCK_OWN": 64, "BLOCK_OTHER": 32},
    ),
    "half 128": Config(
        "two warp groups for twice the features",
        {"BLOCK_OWN": 64, "BLOCK_OTHER": 64},
        num_warps=8,
    ),
    "half 128, registers": Config(
        "half the keys",
        {"BLOCK_OWN": 64, "BLOCK_OTHER": 32},
        num_warps=8,
    ),
    "half 256": Config(
        "what the registers take of heads so wide",
        {"BLOCK_OWN": 32, "BLOCK_OTHER": 32},
        num_warps=8,
    ),
    "single 64": Config(
        "64 rows in two warp groups, since operands are split in two",
        {"BLOCK_OWN": 64, "BLOCK_OTHER": 32},
        num_warps=8,
        num_stages=1,
    ),
    "single 64, registers": Config(
        "operands in registers, each split in two: half the rows",
        {"BLOCK_OWN": 32, "BLOCK_OTHER": 32},
        num_warps=8,
    ),
    "single 128": Config(
        "the least that tensor cores take",
        {"BLOCK_OWN": 16, "BLOCK_OTHER": 16},
        num_warps=8,
    ),
}


@jit
def _queries_kernel(
    gq_ptr: tensor, q: tensor, k: tensor, v: tensor, c: tensor, mask: tensor,
    lse_ptr: tensor, delta_ptr: tensor, sizes: tensor, queries: tensor, keys: tensor,
    scale: tensor, CAUSAL: constexpr, MASK: constexpr, DIM: constexpr,
    BLOCK_D: constexpr, BLOCK_OWN: constexpr, BLOCK_OTHER: constexpr,
    PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(queries, BLOCK_OWN)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    i = (tiles - 1 - tl.program_id(0) % tiles) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    d = tl.arange(0, BLOCK_D)
    k_ptr, v_ptr = start_of(k, batch, sizes), start_of(v, batch, sizes)
    mask_ptr = start_of(mask, batch, sizes)
    q_tile = load_rows(start_of(q, batch, sizes), q[4], i, queries, d, DIM)
    c_tile = load_rows(start_of(c, batch, sizes), c[4], i, queries, d, DIM)
    lse = load_statistic(lse_ptr, batch, i, queries, float("inf"))[:, None] * LOG2E
    delta = load_statistic(delta_ptr, batch, i, queries, 0.0)[:, None]
    acc = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    end = tl.minimum(keys, tl.max(i, 0) + 1) if CAUSAL else keys
    for start in range(0, end, BLOCK_OTHER):
        j = start + tl.arange(0, BLOCK_OTHER)
        nothing = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
        k_tile = load_rows(k_ptr, k[4], j, keys, d, DIM)
        s = dot(q_tile, tl.trans(k_tile), nothing, PRECISION) * (scale * LOG2E)
        s = masked(
            s, i[:, None], j[None, :], queries, keys, mask_ptr, mask, CAUSAL, MASK
        )
        v_tile = load_rows(v_ptr, v[4], j, keys, d, DIM)
        a = dot(c_tile, tl.trans(v_tile), nothing, PRECISION) - delta
        w = tl.exp2(s - lse) * a
        acc = dot(w.to(k_tile.dtype), k_tile, acc, PRECISION)
    store_rows(gq_ptr, batch, i, queries, d, acc * scale, DIM)


@jit
def _keys_kernel(
    gk_ptr: tensor, gv_ptr: tensor, q: tensor, k: tensor, v: tensor, c: tensor,
    mask: tensor, lse_ptr: tensor, delta_ptr: tensor, sizes: tensor, queries: tensor,
    keys: tensor, scale: tensor, CAUSAL: constexpr, MASK: constexpr, DIM: constexpr,
    BLOCK_D: constexpr, BLOCK_OTHER: constexpr, BLOCK_OWN: constexpr,
    PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(keys, BLOCK_OWN)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    first = (tl.program_id(0) % tiles) * BLOCK_OWN
    j = first + tl.arange(0, BLOCK_OWN)
    d = tl.arange(0, BLOCK_D)
    q_ptr, c_ptr = start_of(q, batch, sizes), start_of(c, batch, sizes)
    mask_ptr = start_of(mask, batch, sizes)
    k_tile = load_rows(start_of(k, batch, sizes), k[4], j, keys, d, DIM)
    v_tile = load_rows(start_of(v, batch, sizes), v[4], j, keys, d, DIM)
    gk = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    gv = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    for start in range(first if CAUSAL else 0, queries, BLOCK_OTHER):
        i = start + tl.arange(0, BLOCK_OTHER)
        nothing = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
        q_tile = load_rows(q_ptr, q[4], i, queries, d, DIM)
        s = dot(k_tile, tl.trans(q_tile), nothing, PRECISION) * (scale * LOG2E)
        s = masked(
            s, i[None, :], j[:, None], queries, keys, mask_ptr, mask, CAUSAL, MASK
        )
        lse = load_statistic(lse_ptr, batch, i, queries, float("inf"))[None, :] * LOG2E
        p = tl.exp2(s - lse)
        c_tile = load_rows(c_ptr, c[4], i, queries, d, DIM)
        gv = dot(p.to(c_tile.dtype), c_tile, gv, PRECISION)
        delta = load_statistic(delta_ptr, batch, i, queries, 0.0)[None, :]
        w = p * (dot(v_tile, tl.trans(c_tile), nothing, PRECISION) - delta)
        gk = dot(w.to(q_tile.dtype), q_tile, gk, PRECISION)
    store_rows(gk_ptr, batch, j, keys, d, gk * scale, DIM)
    store_rows(gv_ptr, batch, j, keys, d, gv, DIM)


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    c: Tensor,
    lse: Tensor,
    delta: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch a program for each tile of queries, then one for each tile of keys."""
    gq, gk, gv = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)
    )
    layout = lay_out((q, k, v, c), mask, (*q.shape[:-1], k.shape[-2]))
    config = config or config_of(CONFIGS, q)
    queries, keys = q.shape[-2], k.shape[-2]
    rest = (
        *layout.operands,
        lse.contiguous(),
        delta.contiguous(),
        layout.sizes,
        queries,
        keys,
        scale,
    )
    own = constants(q, mask, causal)
    tiles_m = layout.programs * cdiv(queries, config.blocks["BLOCK_OWN"])
    tiles_n = layout.programs * cdiv(keys, config.blocks["BLOCK_OWN"])
    launch(_queries_kernel, (tiles_m,), config, gq, *rest, **own)
    launch(_keys_kernel, (tiles_n,), config, gk, gv, *rest, **own)
    return gq, gk, gv


def attention_backward_supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    c: Tensor,
    lse: Tensor,
    delta: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> bool:
    """Tell whether attention is supported and the others fit."""
    return (
        q.shape == c.shape
        and k.shape == v.shape
        and supported(CONFIGS, (q, k, v, c), (lse, delta), mask)
    )


def attention_backward_flops(*args: Any, **unused: Any) -> int:
    """Count five products; the kernels do seven, two of them in both."""
    return products(5, *args)


ATTENTION_BACKWARD = define(
    "attention_backward(Tensor q, Tensor k, Tensor v, Tensor c, Tensor lse,"
    " Tensor delta, Tensor? mask, bool causal, float scale)"
    " -> (Tensor gq, Tensor gk, Tensor gv)",
    reference=attention_backward_reference,
    launcher=attention_backward,
    supports=attention_backward_supports,
    flops=attention_backward_flops,
)
