"""The operators of kernels/per_sample_norm.py: their batching rules and derivatives."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.rows import RowDot
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

squared_norm: Any = KERNELS.per_sample_squared_norm.default
embedding_squared_norm: Any = KERNELS.per_sample_embedding_squared_norm.default


def per_sample_squared_norm_batch(size: int, dims: Any, a: Tensor, g: Tensor) -> Any:
    """Fold the batch into the samples."""
    a = batched_at_front(a, dims[0], size)
    g = batched_at_front(g, dims[1], size)
    out = squared_norm(a.flatten(0, 1), g.flatten(0, 1))
    return torch.unflatten(out, 0, a.shape[:2]), 0


def slope(a: Tensor, g: Tensor) -> Tensor:
    """Return ``2 g g^T a``, half the derivative of ``|g^T a|^2`` with respect to ``a``.

    In the order of fewer operations: by the length T or by the features.
    """
    if a.shape[1] * (a.shape[2] + g.shape[2]) <= 2 * a.shape[2] * g.shape[2]:
        return 2 * torch.bmm(torch.bmm(g, g.mT), a)
    return 2 * torch.bmm(g, torch.bmm(g.mT, a))


def per_sample_squared_norm_linearize(wanted: Any, a: Tensor, g: Tensor) -> Any:
    """``d|g^T a|^2 = 2 <g g^T a, da> + 2 <a a^T g, dg>``."""
    out = squared_norm(a, g)
    return out, (
        wanted[0] and RowDot(lambda: slope(a, g), out.dtype),
        wanted[1] and RowDot(lambda: slope(g, a), out.dtype),
    )


def per_sample_embedding_squared_norm_batch(
    size: int, dims: Any, tokens: Tensor, g: Tensor, padding_idx: int = -1
) -> Any:
    """Fold the batch into the samples."""
    tokens = batched_at_front(tokens, dims[0], size)
    g = batched_at_front(g, dims[1], size)
    out = embedding_squared_norm(tokens.flatten(0, 1), g.flatten(0, 1), padding_idx)
    return torch.unflatten(out, 0, g.shape[:2]), 0


def per_sample_embedding_squared_norm_linearize(
    wanted: Any, tokens: Tensor, g: Tensor, padding_idx: int = -1
) -> Any:
    """``d sum_tu E_tu g_t.g_u = 2 <E g, dg>`` where E says which tokens are equal."""
    out = embedding_squared_norm(tokens, g, padding_idx)

    def rows() -> Tensor:
        equal = tokens[:, :, None] == tokens[:, None, :]
        if padding_idx >= 0:
            equal = equal & (tokens != padding_idx)[:, :, None]
        return 2 * torch.bmm(equal.to(g.dtype), g)

    return out, ((), wanted[1] and RowDot(rows, out.dtype))


RECORDS = (
    Record(
        KERNELS.per_sample_squared_norm.default,
        per_sample_squared_norm_batch,
        per_sample_squared_norm_linearize,
    ),
    Record(
        KERNELS.per_sample_embedding_squared_norm.default,
        per_sample_embedding_squared_norm_batch,
        per_sample_embedding_squared_norm_linearize,
    ),
)
