"""The second derivative of ``psi`` of attention_backward.py along a direction.

A direction moves all that ``psi`` depends on: ``(q, k, v, c, lse, delta)``. Its Hessian
is symmetric, so that one operator serves both the tangent of the gradient and the
gradient of the gradient.
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
    scores_tangent,
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

# attention_hessian: the Hessian of psi times a direction


def attention_hessian_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    c: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    dc: Tensor,
    lse: Tensor,
    delta: Tensor,
    dlse: Tensor,
    ddelta: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the derivatives of ``psi``'s gradient by (q, k, v, c, lse, delta).

    With ``e = ds - dlse`` and ``da = dc v^T + c dv^T - ddelta`` the weights move by
    ``p e``, and the gradient by the scores, ``w = p a``, by ``x = p (e a + da)``.
    """
    # Traffic: eight matrices and four numbers a query are read, four and two written.
    p = weights(q, k, lse, mask, causal, scale)
    e = scores_tangent(q, k, dq, dk, scale) - dlse.unsqueeze(-1)
    dtype = q.dtype
    q, k, v, c, dq, dk, dv, dc = (
        x.to(p.dtype) for x in (q, k, v, c, dq, dk, dv, dc)
    )  # fmt: skip
    a = torch.matmul(c, v.mT) - delta.unsqueeze(-1)
    da = torch.matmul(dc, v.mT) + torch.matmul(c, dv.mT) - ddelta.unsqueeze(-1)
    w, pe = p * a, p * e
    x = pe * a + p * da
    hq = (torch.matmul(x, k) + torch.matmul(w, dk)) * scale
    hk = (torch.matmul(x.mT, q) + torch.matmul(w.mT, dq)) * scale
    hv = torch.matmul(pe.mT, c) + torch.matmul(p.mT, dc)
    hc = torch.matmul(pe, v) + torch.matmul(p, dv)
    hq, hk, hv, hc = (h.to(dtype) for h in (hq, hk, hv, hc))
    return hq, hk, hv, hc, -torch.sum(x, -1), -torch.sum(pe, -1)


CONFIGS = {
    "half 64": Config(
        "one warp group, which reads what it does not own half as often as two of 32",
        {"BLOCK_OWN": 64, "BLOCK_OTHER": 32},
        num_stages=1,
    ),
    "half 64, registers": Config(
        "four operands and two results of the rows that a program owns",
        {"BLOCK_OWN": 32, "BLOCK_OTHER": 32},
        num_stages=1,
    ),
    "half 128": Config(
        "four operands and two results of twice the features, by twice the warps",
        {"BLOCK_OWN": 32, "BLOCK_OTHER": 16},
        num_warps=8,
        num_stages=1,
    ),
    "single 64": Config(
        "the least that tensor cores take: operands are split in two",
        {"BLOCK_OWN": 16, "BLOCK_OTHER": 16},
        num_warps=8,
        num_stages=1,
    ),
}


@jit
def _hessian_queries_kernel(
    hq_ptr: tensor, hc_ptr: tensor, hlse_ptr: tensor, hdelta_ptr: tensor,
    q: tensor, k: tensor, v: tensor, c: tensor, dq: tensor, dk: tensor, dv: tensor,
    dc: tensor, mask: tensor, lse_ptr: tensor, delta_ptr: tensor, dlse_ptr: tensor,
    ddelta_ptr: tensor, sizes: tensor, queries: tensor, keys: tensor, scale: tensor,
    CAUSAL: constexpr, MASK: constexpr, DIM: constexpr, BLOCK_D: constexpr,
    BLOCK_OWN: constexpr, BLOCK_OTHER: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(queries, BLOCK_OWN)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    i = (tiles - 1 - tl.program_id(0) % tiles) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    d = tl.arange(0, BLOCK_D)
    k_ptr, v_ptr = start_of(k, batch, sizes), start_of(v, batch, sizes)
    dk_ptr, dv_ptr = start_of(dk, batch, sizes), start_of(dv, batch, sizes)
    mask_ptr = start_of(mask, batch, sizes)
    q_tile = load_rows(start_of(q, batch, sizes), q[4], i, queries, d, DIM)
    c_tile = load_rows(start_of(c, batch, sizes), c[4], i, queries, d, DIM)
    dq_tile = load_rows(start_of(dq, batch, sizes), dq[4], i, queries, d, DIM)
    dc_tile = load_rows(start_of(dc, batch, sizes), dc[4], i, queries, d, DIM)
    lse = load_statistic(lse_ptr, batch, i, queries, float("inf"))[:, None] * LOG2E
    delta = load_statistic(delta_ptr, batch, i, queries, 0.0)[:, None]
    dlse = load_statistic(dlse_ptr, batch, i, queries, 0.0)[:, None]
    ddelta = load_statistic(ddelta_ptr, batch, i, queries, 0.0)[:, None]
    hq = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    hc = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    hlse = tl.zeros((BLOCK_OWN,), tl.float32)
    hdelta = tl.zeros((BLOCK_OWN,), tl.float32)
    end = tl.minimum(keys, tl.max(i, 0) + 1) if CAUSAL else keys
    for start in range(0, end, BLOCK_OTHER):
        j = start + tl.arange(0, BLOCK_OTHER)
        nothing = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
        k_tile = load_rows(k_ptr, k[4], j, keys, d, DIM)
        dk_tile = load_rows(dk_ptr, dk[4], j, keys, d, DIM)
        s = dot(q_tile, tl.trans(k_tile), nothing, PRECISION) * (scale * LOG2E)
        s = masked(
            s, i[:, None], j[None, :], queries, keys, mask_ptr, mask, CAUSAL, MASK
        )
        p = tl.exp2(s - lse)
        e = dot(dq_tile, tl.trans(k_tile), nothing, PRECISION)
        e = dot(q_tile, tl.trans(dk_tile), e, PRECISION) * scale - dlse
        v_tile = load_rows(v_ptr, v[4], j, keys, d, DIM)
        dv_tile = load_rows(dv_ptr, dv[4], j, keys, d, DIM)
        a = dot(c_tile, tl.trans(v_tile), nothing, PRECISION) - delta
        da = dot(dc_tile, tl.trans(v_tile), nothing, PRECISION)
        da = dot(c_tile, tl.trans(dv_tile), da, PRECISION) - ddelta
        pe = p * e
        hdelta -= tl.sum(pe, 1)
        hc = dot(p.to(k_tile.dtype), dv_tile, hc, PRECISION)
        hc = dot(pe.to(k_tile.dtype), v_tile, hc, PRECISION)
        x = pe * a + p * da
        hlse -= tl.sum(x, 1)
        hq = dot((p * a).to(k_tile.dtype), dk_tile, hq, PRECISION)
        hq = dot(x.to(k_tile.dtype), k_tile, hq, PRECISION)
    store_rows(hq_ptr, batch, i, queries, d, hq * scale, DIM)
    store_rows(hc_ptr, batch, i, queries, d, hc, DIM)
    tl.store(hlse_ptr + batch * queries + i, hlse, mask=i < queries)
    tl.store(hdelta_ptr + batch * queries + i, hdelta, mask=i < queries)


@jit
def _hessian_keys_kernel(
    hk_ptr: tensor, hv_ptr: tensor, q: tensor, k: tensor, v: tensor, c: tensor,
    dq: tensor, dk: tensor, dv: tensor, dc: tensor, mask: tensor, lse_ptr: tensor,
    delta_ptr: tensor, dlse_ptr: tensor, ddelta_ptr: tensor, sizes: tensor,
    queries: tensor, keys: tensor, scale: tensor,
    CAUSAL: constexpr, MASK: constexpr, DIM: constexpr, BLOCK_D: constexpr,
    BLOCK_OTHER: constexpr, BLOCK_OWN: constexpr, PRECISION: constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(keys, BLOCK_OWN)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    first = (tl.program_id(0) % tiles) * BLOCK_OWN
    j = first + tl.arange(0, BLOCK_OWN)
    d = tl.arange(0, BLOCK_D)
    q_ptr, c_ptr = start_of(q, batch, sizes), start_of(c, batch, sizes)
    dq_ptr, dc_ptr = start_of(dq, batch, sizes), start_of(dc, batch, sizes)
    mask_ptr = start_of(mask, batch, sizes)
    k_tile = load_rows(start_of(k, batch, sizes), k[4], j, keys, d, DIM)
    v_tile = load_rows(start_of(v, batch, sizes), v[4], j, keys, d, DIM)
    dk_tile = load_rows(start_of(dk, batch, sizes), dk[4], j, keys, d, DIM)
    dv_tile = load_rows(start_of(dv, batch, sizes), dv[4], j, keys, d, DIM)
    hk = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    hv = tl.zeros((BLOCK_OWN, BLOCK_D), tl.float32)
    for start in range(first if CAUSAL else 0, queries, BLOCK_OTHER):
        i = start + tl.arange(0, BLOCK_OTHER)
        nothing = tl.zeros((BLOCK_OWN, BLOCK_OTHER), tl.float32)
        q_tile = load_rows(q_ptr, q[4], i, queries, d, DIM)
        dq_tile = load_rows(dq_ptr, dq[4], i, queries, d, DIM)
        lse = load_statistic(lse_ptr, batch, i, queries, float("inf"))
        s = dot(k_tile, tl.trans(q_tile), nothing, PRECISION) * (scale * LOG2E)
        s = masked(
            s, i[None, :], j[:, None], queries, keys, mask_ptr, mask, CAUSAL, MASK
        )
        p = tl.exp2(s - lse[None, :] * LOG2E)
        dlse = load_statistic(dlse_ptr, batch, i, queries, 0.0)
        e = dot(dk_tile, tl.trans(q_tile), nothing, PRECISION)
        e = dot(k_tile, tl.trans(dq_tile), e, PRECISION) * scale - dlse[None, :]
        c_tile = load_rows(c_ptr, c[4], i, queries, d, DIM)
        dc_tile = load_rows(dc_ptr, dc[4], i, queries, d, DIM)
        delta = load_statistic(delta_ptr, batch, i, queries, 0.0)
        ddelta = load_statistic(ddelta_ptr, batch, i, queries, 0.0)
        a = dot(v_tile, tl.trans(c_tile), nothing, PRECISION) - delta[None, :]
        da = dot(dv_tile, tl.trans(c_tile), nothing, PRECISION)
        da = dot(v_tile, tl.trans(dc_tile), da, PRECISION) - ddelta[None, :]
        pe = p * e
        hv = dot(pe.to(q_tile.dtype), c_tile, hv, PRECISION)
        hv = dot(p.to(q_tile.dtype), dc_tile, hv, PRECISION)
        hk = dot((pe * a + p * da).to(q_tile.dtype), q_tile, hk, PRECISION)
        hk = dot((p * a).to(q_tile.dtype), dq_tile, hk, PRECISION)
    store_rows(hk_ptr, batch, j, keys, d, hk * scale, DIM)
    store_rows(hv_ptr, batch, j, keys, d, hv, DIM)


def attention_hessian(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    c: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    dc: Tensor,
    lse: Tensor,
    delta: Tensor,
    dlse: Tensor,
    ddelta: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch a program for each tile of queries, then one for each tile of keys."""
    hq, hk, hv, hc, hlse, hdelta = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x in (q, k, v, c, lse, delta)
    )
    matrices = q, k, v, c, dq, dk, dv, dc
    layout = lay_out(matrices, mask, (*q.shape[:-1], k.shape[-2]))
    config = config or config_of(CONFIGS, q)
    queries, keys = q.shape[-2], k.shape[-2]
    statistics = (x.contiguous() for x in (lse, delta, dlse, ddelta))
    rest = (*layout.operands, *statistics, layout.sizes, queries, keys, scale)
    own = constants(q, mask, causal)
    tiles_m = layout.programs * cdiv(queries, config.blocks["BLOCK_OWN"])
    tiles_n = layout.programs * cdiv(keys, config.blocks["BLOCK_OWN"])
    outs = hq, hc, hlse, hdelta
    launch(_hessian_queries_kernel, (tiles_m,), config, *outs, *rest, **own)
    launch(_hessian_keys_kernel, (tiles_n,), config, hk, hv, *rest, **own)
    return hq, hk, hv, hc, hlse, hdelta


def attention_hessian_supports(*args: Any) -> bool:
    """Tell whether attention is supported and the others fit; see the reference."""
    q, k, v, c, dq, dk, dv, dc, *statistics, mask, _, _ = args
    return (
        q.shape == c.shape == dq.shape == dc.shape
        and k.shape == v.shape == dk.shape == dv.shape
        and supported(CONFIGS, (q, k, v, c, dq, dk, dv, dc), statistics, mask)
    )


def attention_hessian_flops(*args: Any, **unused: Any) -> int:
    """Count fourteen products; the kernels do twenty, six of them in both."""
    return products(14, *args)


ATTENTION_HESSIAN = define(
    "attention_hessian(Tensor q, Tensor k, Tensor v, Tensor c, Tensor dq, Tensor dk,"
    " Tensor dv, Tensor dc, Tensor lse, Tensor delta, Tensor dlse, Tensor ddelta,"
    " Tensor? mask, bool causal, float scale) -> (Tensor hq, Tensor hk, Tensor hv,"
    " Tensor hc, Tensor hlse, Tensor hdelta)",
    reference=attention_hessian_reference,
    launcher=attention_hessian,
    supports=attention_hessian_supports,
    flops=attention_hessian_flops,
)
