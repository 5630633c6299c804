"""Attention without its matrix of weights, and with its tangent in the same pass.

With scores ``s = scale q k^T + mask`` the outputs are ``out = softmax(s) v`` and
``lse = logsumexp(s)``. The weights exist in tiles only (Dao et al. 2022).
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels.attention_tiles import (
    LN2,
    LOG2E,
    Layout,
    config_of,
    constants,
    lay_out,
    load_rows,
    masked,
    products,
    scores,
    scores_tangent,
    start_of,
    store_rows,
    supported,
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

# attention: the results and their statistics


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return ``out`` [*, L, D] and ``lse`` [*, L], in float32 at least.

    A query that may look at nothing has zeros and ``lse`` inf: that makes its weights
    ``exp(s - lse)`` zeros too.
    """
    # Traffic: q, k, v and the mask are read, out and L numbers a head written.
    s = scores(q, k, mask, causal, scale)
    empty = torch.all(s == -torch.inf, -1, keepdim=True)
    s = torch.where(empty, 0.0, s)
    lse = torch.logsumexp(s, -1, keepdim=True)
    p = torch.where(empty, 0.0, torch.exp(s - lse))
    out = torch.matmul(p, v.to(p.dtype)).to(q.dtype)
    return out, torch.where(empty, torch.inf, lse).squeeze(-1)


CONFIGS = {
    "half 64": Config(
        "many queries: keys and values are read once for each tile of them",
        {"BLOCK_M": 128, "BLOCK_N": 64},
        num_warps=8,
        num_stages=3,
    ),
    "half 128": Config(
        "the same; two stages of the keys are what shared memory holds",
        {"BLOCK_M": 128, "BLOCK_N": 64},
        num_warps=8,
    ),
    "half 256": Config(
        "half of each, so that two stages of the keys fit",
        {"BLOCK_M": 64, "BLOCK_N": 32},
        num_warps=8,
    ),
    "single 64": Config(
        "two warp groups, since three products in tf32 take more registers",
        {"BLOCK_M": 128, "BLOCK_N": 64},
        num_warps=8,
    ),
    "single 64, registers": Config(
        "operands in registers, each split in two: a quarter of the tile",
        {"BLOCK_M": 32, "BLOCK_N": 32},
        num_stages=1,
    ),
    "single 128": Config(
        "the same of twice the features",
        {"BLOCK_M": 32, "BLOCK_N": 32},
        num_warps=8,
        num_stages=1,
    ),
}


@jit
def _attention_kernel(
    out_ptr: tensor, lse_ptr: tensor, dout_ptr: tensor, dlse_ptr: tensor,
    q: tensor, k: tensor, v: tensor, dq: tensor, dk: tensor, dv: tensor, mask: tensor,
    sizes: tensor, queries: tensor, keys: tensor, scale: tensor,
    TANGENT: constexpr, CAUSAL: constexpr, MASK: constexpr, DIM: constexpr,
    BLOCK_D: constexpr, BLOCK_M: constexpr, BLOCK_N: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(queries, BLOCK_M)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    # The last queries, which look at the most keys, start first.
    i = (tiles - 1 - tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    k_ptr, v_ptr = start_of(k, batch, sizes), start_of(v, batch, sizes)
    m_ptr = start_of(mask, batch, sizes)
    q_tile = load_rows(start_of(q, batch, sizes), q[4], i, queries, d, DIM)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if TANGENT:
        dk_ptr, dv_ptr = start_of(dk, batch, sizes), start_of(dv, batch, sizes)
        dq_tile = load_rows(start_of(dq, batch, sizes), dq[4], i, queries, d, DIM)
        slope = tl.zeros((BLOCK_M,), tl.float32)
        dacc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    end = tl.minimum(keys, tl.max(i, 0) + 1) if CAUSAL else keys
    for start in range(0, end, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        nothing = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        k_tile = tl.trans(load_rows(k_ptr, k[4], j, keys, d, DIM))
        s = dot(q_tile, k_tile, nothing, PRECISION) * (scale * LOG2E)
        s = masked(s, i[:, None], j[None, :], queries, keys, m_ptr, mask, CAUSAL, MASK)
        larger = tl.maximum(largest, tl.max(s, 1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        rescale = tl.exp2(largest - shift)
        largest = larger
        p = tl.exp2(s - shift[:, None])
        total = total * rescale + tl.sum(p, 1)
        v_tile = load_rows(v_ptr, v[4], j, keys, d, DIM)
        p_tile = p.to(v_tile.dtype)
        acc = dot(p_tile, v_tile, acc * rescale[:, None], PRECISION)
        if TANGENT:
            ds = dot(dq_tile, k_tile, nothing, PRECISION)
            dk_tile = tl.trans(load_rows(dk_ptr, dk[4], j, keys, d, DIM))
            ds = dot(q_tile, dk_tile, ds, PRECISION) * scale
            pds = p * ds
            slope = slope * rescale + tl.sum(pds, 1)
            dacc = dot(pds.to(v_tile.dtype), v_tile, dacc * rescale[:, None], PRECISION)
            dv_tile = load_rows(dv_ptr, dv[4], j, keys, d, DIM)
            dacc = dot(p_tile, dv_tile, dacc, PRECISION)
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    acc = acc / total[:, None]
    store_rows(out_ptr, batch, i, queries, d, acc, DIM)
    lse = tl.where(empty, float("inf"), (largest + tl.log2(total)) * LN2)
    tl.store(lse_ptr + batch * queries + i, lse, mask=i < queries)
    if TANGENT:
        slope = slope / total
        dacc = dacc / total[:, None] - slope[:, None] * acc
        store_rows(dout_ptr, batch, i, queries, d, dacc, DIM)
        tl.store(dlse_ptr + batch * queries + i, slope, mask=i < queries)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch a program for each tile of queries."""
    out, lse = results(q)
    layout = lay_out((q, k, v), mask, (*q.shape[:-1], k.shape[-2]))
    operands = (*layout.operands[:3], *layout.operands[:3], layout.operands[3])
    config = config or config_of(CONFIGS, q)
    launch_tiles(
        (out, lse, out, lse), operands, layout, q, k, mask, causal, scale, config, False
    )
    return out, lse


def results(q: Tensor) -> tuple[Tensor, Tensor]:
    """Make an output and its statistics."""
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), lse


def launch_tiles(
    outs: tuple[Tensor, ...],
    operands: tuple[Any, ...],
    layout: Layout,
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    config: Config,
    tangent: bool,
) -> None:
    """Launch the kernel, with or without tangents."""
    queries, keys = q.shape[-2], k.shape[-2]
    grid = (layout.programs * cdiv(queries, config.blocks["BLOCK_M"]),)
    launch(
        _attention_kernel,
        grid,
        config,
        *outs,
        *operands,
        layout.sizes,
        queries,
        keys,
        scale,
        TANGENT=tangent,
        **constants(q, mask, causal),
    )


def attention_supports(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> bool:
    """Tell whether these are queries, keys and values of at most 256 features."""
    return k.shape == v.shape and supported(CONFIGS, (q, k, v), (), mask)


def attention_flops(*args: Any, **unused: Any) -> int:
    """Count two products."""
    return products(2, *args)


ATTENTION = define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale)"
    " -> (Tensor out, Tensor lse)",
    reference=attention_reference,
    launcher=attention,
    supports=attention_supports,
    flops=attention_flops,
)

# attention_tangent: the same and how they move


def attention_tangent_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``out``, ``lse`` and their tangents.

    With weights ``p`` and ``ds = scale (dq k^T + q dk^T)``: ``dlse = sum p ds`` and
    ``dout = (p ds) v + p dv - dlse out``. All of it are sums over keys that can be
    rescaled as those of ``out`` are when a larger score comes.
    """
    # Traffic: twice that of attention.
    out, lse = attention_reference(q, k, v, mask, causal, scale)
    p = torch.exp(scores(q, k, mask, causal, scale) - lse.unsqueeze(-1))
    ds = scores_tangent(q, k, dq, dk, scale)
    dlse = torch.sum(p * ds, -1)
    centered = p * (ds - dlse.unsqueeze(-1))
    dout = torch.matmul(centered, v.to(p.dtype)) + torch.matmul(p, dv.to(p.dtype))
    return out, lse, dout.to(q.dtype), dlse


TANGENT_CONFIGS = {
    "half 64": Config(
        "twice the operands and results of attention: half the queries",
        {"BLOCK_M": 64, "BLOCK_N": 64},
    ),
    "half 64, registers": Config(
        "two operands of the queries in registers: half the keys",
        {"BLOCK_M": 64, "BLOCK_N": 32},
    ),
    "half 128": Config(
        "a quarter of the keys: the four operands of more of them spill",
        {"BLOCK_M": 64, "BLOCK_N": 16},
    ),
    "half 128, registers": Config(
        "half the queries too",
        {"BLOCK_M": 32, "BLOCK_N": 32},
    ),
    "half 256": Config(
        "few queries, the results of which eight warps hold",
        {"BLOCK_M": 16, "BLOCK_N": 32},
        num_warps=8,
        num_stages=1,
    ),
    "single 64": Config(
        "operands split in two",
        {"BLOCK_M": 16, "BLOCK_N": 32},
        num_stages=1,
    ),
}


def attention_tangent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch a program for each tile of queries."""
    outs = (*results(q), *results(q))
    layout = lay_out((q, k, v, dq, dk, dv), mask, (*q.shape[:-1], k.shape[-2]))
    config = config or config_of(TANGENT_CONFIGS, q)
    launch_tiles(outs, layout.operands, layout, q, k, mask, causal, scale, config, True)
    return outs


def attention_tangent_supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> bool:
    """Tell whether attention is supported and the tangents are alike."""
    return (
        q.shape == dq.shape
        and k.shape == v.shape == dk.shape == dv.shape
        and supported(TANGENT_CONFIGS, (q, k, v, dq, dk, dv), (), mask)
    )


def attention_tangent_flops(*args: Any, **unused: Any) -> int:
    """Count six products: two of attention, two of ``ds``, two into the tangent."""
    return products(6, *args)


ATTENTION_TANGENT = define(
    "attention_tangent(Tensor q, Tensor k, Tensor v, Tensor dq, Tensor dk, Tensor dv,"
    " Tensor? mask, bool causal, float scale)"
    " -> (Tensor out, Tensor lse, Tensor dout, Tensor dlse)",
    reference=attention_tangent_reference,
    launcher=attention_tangent,
    supports=attention_tangent_supports,
    flops=attention_tangent_flops,
)
