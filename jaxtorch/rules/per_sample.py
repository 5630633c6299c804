"""The operators of kernels/per_sample.py: their batching rules and derivatives."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.contraction import Contraction
from jaxtorch.rules.batching import to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

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


def weight(a: Tensor, g: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.per_sample_weight.default(a, g)
    return out


def _weight_by_activations(t: Tensor, a: Tensor) -> Tensor:
    return weight(a, t)


def _adjoint_by_activations(c: Tensor, a: Tensor) -> Tensor:
    return torch.bmm(a, c.mT)


def per_sample_weight_linearize(wanted: Any, a: Tensor, g: Tensor) -> Any:
    """``dG = sum_t dg a^T + g da^T``; the adjoints are ``C a`` and ``C^T g``."""
    return weight(a, g), (
        wanted[0] and Contraction(weight, lambda c, g: torch.bmm(g, c), g),
        wanted[1] and Contraction(_weight_by_activations, _adjoint_by_activations, a),
    )


RECORDS = (
    Record(
        KERNELS.per_sample_weight.default,
        per_sample_weight_batch,
        per_sample_weight_linearize,
    ),
)
