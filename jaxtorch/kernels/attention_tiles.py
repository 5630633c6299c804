"""What the kernels of attention share: tiles, masks, strides, weights. No operator.

Queries [*, L, D], keys and values [*, S, D] have equal leading dims; a mask broadcasts
with [*, L, S].
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch.kernels.language import (
    DTYPES,
    LARGEST_GRID,
    Config,
    cdiv,
    constexpr,
    dot_precision,
    jit,
    tensor,
    tl,
    warp_groups,
)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
SMALLEST_BLOCK = 16
"""The least number of rows in a tile of tensor cores, and the least size of a block."""


def scores(
    q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Return ``scale q k^T`` and the mask on it [*, L, S], in float32 at least."""
    work = torch.promote_types(q.dtype, torch.float32)
    out = torch.matmul(q.to(work) * scale, k.to(work).mT)
    if causal:
        ones = torch.ones(out.shape[-2:], dtype=torch.bool, device=out.device)
        out = torch.where(ones.tril(), out, -torch.inf)
    if mask is None:
        return out
    if mask.dtype is torch.bool:
        return torch.where(mask, out, -torch.inf)
    return out + mask


def weights(
    q: Tensor, k: Tensor, lse: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Return ``exp(scores - lse)`` [*, L, S]."""
    return torch.exp(scores(q, k, mask, causal, scale) - lse.unsqueeze(-1))


def scores_tangent(
    q: Tensor, k: Tensor, dq: Tensor, dk: Tensor, scale: float
) -> Tensor:
    """Return ``scale (dq k^T + q dk^T)`` [*, L, S], in float32 at least."""
    work = torch.promote_types(q.dtype, torch.float32)
    q, k, dq, dk = (x.to(work) for x in (q, k, dq, dk))
    return (torch.matmul(dq, k.mT) + torch.matmul(q, dk.mT)) * scale


@jit
def start_of(operand: tensor, batch: tensor, sizes: tensor) -> tensor:
    """Point to the matrix that a program works on."""
    inner = batch % sizes[1]
    middle = batch // sizes[1] % sizes[0]
    outer = batch // (sizes[0] * sizes[1])
    return operand[0] + outer * operand[1] + middle * operand[2] + inner * operand[3]


@jit
def inside(i: tensor, length: tensor, d: tensor, DIM: constexpr) -> tensor:
    """Tell which elements of a tile lie in a matrix of ``length`` rows."""
    rows = (i < length)[:, None]
    if d.shape[0] != DIM:
        rows = rows & (d < DIM)[None, :]
    return rows


@jit
def load_rows(
    ptr: tensor, stride: tensor, i: tensor, length: tensor, d: tensor, DIM: constexpr
) -> tensor:
    """Load rows of a matrix; zeros stand where it has none."""
    offsets = i.to(tl.int64)[:, None] * stride + d[None, :]
    return tl.load(ptr + offsets, mask=inside(i, length, d, DIM), other=0.0)


@jit
def load_statistic(
    ptr: tensor, batch: tensor, i: tensor, queries: tensor, OTHER: constexpr
) -> tensor:
    """Load a number of each query. An ``lse`` of inf makes the weights zero."""
    return tl.load(ptr + batch * queries + i, mask=i < queries, other=OTHER)


@jit
def store_rows(
    ptr: tensor, batch: tensor, i: tensor, length: tensor, d: tensor, tile: tensor,
    DIM: constexpr,
) -> None:  # fmt: skip
    """Store rows of a contiguous result."""
    offsets = (batch * length + i)[:, None] * DIM + d[None, :]
    tl.store(
        ptr + offsets, tile.to(ptr.dtype.element_ty), mask=inside(i, length, d, DIM)
    )


@jit
def masked(
    s: tensor, i: tensor, j: tensor, queries: tensor, keys: tensor, ptr: tensor,
    mask: tensor, CAUSAL: constexpr, MASK: constexpr,
) -> tensor:  # fmt: skip
    """Mask scores in base 2: by the end of the keys, causally, by a tensor.

    ``i`` and ``j`` number queries and keys and broadcast with the tile.
    """
    allowed = j < keys
    if CAUSAL:
        allowed = allowed & (j <= i)
    if MASK != 0:
        offsets = i.to(tl.int64) * mask[4] + j.to(tl.int64) * mask[5]
        own = tl.load(ptr + offsets, mask=(i < queries) & (j < keys), other=0)
        if MASK == 1:
            allowed = allowed & (own != 0)
        else:
            s += own.to(tl.float32) * LOG2E
    return tl.where(allowed, s, float("-inf"))


class Layout(NamedTuple):
    """Matrices with their leading dims merged into three, as kernels take them.

    Attributes:
        operands: of each matrix the tensor, three strides of the leading dims, and the
            stride of its rows; of a mask also that of its columns.
        sizes: of the last two leading dims.
        programs: the product of all three.
    """

    operands: tuple[tuple[Any, ...], ...]
    sizes: tuple[int, int]
    programs: int


def lay_out(
    matrices: Sequence[Tensor], mask: Tensor | None, shape: tuple[int, ...]
) -> Layout:
    """Merge leading dims where the strides allow, else copy; the mask comes last."""
    found = [x if x.stride(-1) == 1 else x.contiguous() for x in matrices]
    if mask is not None:
        flags = mask.dtype is torch.bool
        found.append((mask.view(torch.uint8) if flags else mask).expand(shape))
    merged = merge(found)
    if len(merged) > 3:
        found = [x.contiguous() for x in found]
        merged = merge(found)
    filled = [(1, (0,) * len(found))] * (3 - len(merged)) + merged
    last = [x.stride()[-2:] if i == len(matrices) else x.stride()[-2:-1]
            for i, x in enumerate(found)]  # fmt: skip
    operands = tuple(
        (x, *(strides[i] for _, strides in filled), *last[i])
        for i, x in enumerate(found)
    )
    if mask is None:
        operands = (*operands, operands[0])
    sizes = [size for size, _ in filled]
    return Layout(operands, (sizes[1], sizes[2]), sizes[0] * sizes[1] * sizes[2])


def merge(matrices: Sequence[Tensor]) -> list[tuple[int, tuple[int, ...]]]:
    """Return sizes and strides of the leading dims, as few as the strides allow."""
    found: list[tuple[int, tuple[int, ...]]] = []
    for dim, size in enumerate(matrices[0].shape[:-2]):
        strides = tuple(x.stride(dim) for x in matrices)
        if size == 1:
            continue
        if found and found[-1][1] == tuple(size * s for s in strides):
            found[-1] = (found[-1][0] * size, strides)
        else:
            found.append((size, strides))
    return found


def constants(q: Tensor, mask: Tensor | None, causal: bool) -> dict[str, Any]:
    """Return the constexpr parameters that all kernels have."""
    kind = 0 if mask is None else 1 if mask.dtype is torch.bool else 2
    return {
        "CAUSAL": causal,
        "MASK": kind,
        "DIM": q.shape[-1],
        "BLOCK_D": max(SMALLEST_BLOCK, 1 << (q.shape[-1] - 1).bit_length()),
        "PRECISION": dot_precision(q.dtype),
    }


def config_name(q: Tensor) -> str:
    """Say what decides on a config: how wide the elements are, and the heads."""
    size = next((size for size in (64, 128, 256) if q.shape[-1] <= size), 0)
    return f"{'half' if q.element_size() == 2 else 'single'} {size}"


def config_of(configs: dict[str, Config], q: Tensor) -> Config:
    """Choose; without warp groups the operands of a product lie in registers."""
    name = config_name(q)
    if warp_groups():
        return configs[name]
    return configs.get(f"{name}, registers", configs[name])


def supported(
    configs: dict[str, Config],
    matrices: Sequence[Tensor],
    statistics: Sequence[Tensor],
    mask: Tensor | None,
) -> bool:
    """Tell whether kernels take these: ``matrices`` starts with queries and keys.

    ``statistics`` are [*, L].
    """
    q, k = matrices[:2]
    shape = q.shape
    return (
        q.dtype in DTYPES
        and q.dim() >= 2
        and k.dim() == q.dim()
        and k.shape[:-2] == shape[:-2]
        and shape[-1] > 0
        and config_name(q) in configs
        and all(
            x.dtype is q.dtype
            and x.device == q.device
            and (x.shape == shape or x.shape == k.shape)
            for x in matrices
        )
        and all(x.dtype is torch.float32 and x.shape == shape[:-1] for x in statistics)
        and (mask is None or mask_supported(q, k, mask))
        and programs_of(q, k) < LARGEST_GRID
    )


def mask_supported(q: Tensor, k: Tensor, mask: Tensor) -> bool:
    """Tell whether a mask broadcasts with the scores."""
    shape = (*q.shape[:-1], k.shape[-2])
    return (
        (mask.dtype is torch.bool or mask.dtype in DTYPES)
        and mask.device == q.device
        and mask.dim() <= q.dim()
        and all(
            own in (1, size)
            for own, size in zip(reversed(mask.shape), reversed(shape), strict=False)
        )
    )


def programs_of(q: Tensor, k: Tensor) -> int:
    """Bound the number of programs of a launch."""
    longest = max(q.shape[-2], k.shape[-2])
    return q.shape[:-2].numel() * cdiv(longest, SMALLEST_BLOCK)


def products(count: int, q: Any, k: Any, *rest: Any) -> int:
    """Return the operations of ``count`` products of the size of ``q k^T``.

    Of a causal one only the part that is not masked counts.
    """
    *lead, queries, dim = q
    keys, causal = k[-2], rest[-2]
    pairs = queries * keys
    if causal:
        short = min(queries, keys)
        pairs = short * (short + 1) // 2 + (queries - short) * keys
    return int(2 * count * math.prod(lead) * pairs * dim)
