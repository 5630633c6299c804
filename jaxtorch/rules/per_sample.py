"""The operators of kernels/per_sample.py: their batching rules and derivatives."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.contraction import Contraction
from jaxtorch.linear.operator import General
from jaxtorch.rules.batching import to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

weight: Any = KERNELS.per_sample_weight.default
weighted_sum: Any = KERNELS.per_sample_weighted_sum.default

# per_sample_weight: G[b] = sum_t g[b, t] a[b, t]^T


def per_sample_weight_batch(size: int, dims: Any, a: Tensor, g: Tensor) -> Any:
    """Fold the batch into the samples, or into the features of the batched operand."""
    if dims[0] is None:
        wide = g.movedim(dims[1], 2)
        out = weight(a, wide.flatten(2))
        return torch.unflatten(out, 1, wide.shape[2:]), 1
    if dims[1] is None:
        wide = a.movedim(dims[0], 2)
        out = weight(wide.flatten(2), g)
        return torch.unflatten(out, 2, wide.shape[2:]), 2
    a, g = to_front(a, dims[0]), to_front(g, dims[1])
    out = weight(a.flatten(0, 1), g.flatten(0, 1))
    return torch.unflatten(out, 0, a.shape[:2]), 0


def _weight_by_activations(t: Tensor, a: Tensor) -> Any:
    return weight(a, t)


def _adjoint_by_activations(c: Tensor, a: Tensor) -> Tensor:
    return torch.bmm(a, c.mT)


def _adjoint_by_cotangents(c: Tensor, g: Tensor) -> Tensor:
    return torch.bmm(g, c)


def per_sample_weight_linearize(wanted: Any, a: Tensor, g: Tensor) -> Any:
    """``dG = sum_t dg a^T + g da^T``; the adjoints are ``g C`` and ``a C^T``."""
    return weight(a, g), (
        wanted[0] and Contraction(weight, _adjoint_by_cotangents, g),
        wanted[1] and Contraction(_weight_by_activations, _adjoint_by_activations, a),
    )


# per_sample_weighted_sum: sum_b s[b] G[b]


def per_sample_weighted_sum_batch(
    size: int, dims: Any, a: Tensor, g: Tensor, s: Tensor
) -> Any:
    """Fold the batch into the features of one operand, or multiply batches."""
    if dims[1] is None and dims[2] is None:
        wide = a.movedim(dims[0], 2)
        out = weighted_sum(wide.flatten(2), g, s)
        return torch.unflatten(out, 1, wide.shape[2:]), 1
    if dims[0] is None and dims[2] is None:
        wide = g.movedim(dims[1], 2)
        out = weighted_sum(a, wide.flatten(2), s)
        return torch.unflatten(out, 0, wide.shape[2:]), 0
    g = g if dims[1] is None else to_front(g, dims[1])
    s = s if dims[2] is None else to_front(s, dims[2])
    g = (g * s[..., None, None]).to(g.dtype)
    if dims[0] is None:
        wide = g.movedim(0, 2)
        out = torch.mm(wide.flatten(2).flatten(0, 1).mT, a.flatten(0, 1))
        return torch.unflatten(out, 0, wide.shape[2:]), 0
    a = to_front(a, dims[0])
    return torch.bmm(g.flatten(1, 2).mT, a.flatten(1, 2)), 0


def per_sample_weighted_sum_linearize(
    wanted: Any, a: Tensor, g: Tensor, s: Tensor
) -> Any:
    """``S = sum_b s g^T a`` is linear in each; its adjoints are products with C."""

    def scaled(x: Tensor) -> Tensor:
        return (x * s[:, None, None]).to(x.dtype)

    def to_weights(c: Tensor) -> Tensor:
        return torch.sum(torch.matmul(a, c.mT) * g, (1, 2)).to(s.dtype)

    return weighted_sum(a, g, s), (
        wanted[0]
        and General(
            lambda t: weighted_sum(t, g, s), lambda c: scaled(torch.matmul(g, c))
        ),
        wanted[1]
        and General(
            lambda t: weighted_sum(a, t, s), lambda c: scaled(torch.matmul(a, c.mT))
        ),
        wanted[2] and General(lambda t: weighted_sum(a, g, t), to_weights),
    )


RECORDS = (
    Record(
        KERNELS.per_sample_weight.default,
        per_sample_weight_batch,
        per_sample_weight_linearize,
    ),
    Record(
        KERNELS.per_sample_weighted_sum.default,
        per_sample_weighted_sum_batch,
        per_sample_weighted_sum_linearize,
    ),
)
