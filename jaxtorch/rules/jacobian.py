"""The operators of kernels/jacobian.py: their batching rules and derivatives."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.contraction import Contraction
from jaxtorch.linear.operator import General
from jaxtorch.rules import fast
from jaxtorch.rules.batching import batched_at_front, to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

# push_layer: out[b] = (t[b] w) diag(d[b])


def push(t: Tensor, w: Tensor, d: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.push_layer.default(t, w, d)
    return out


def push_layer_batch(size: int, dims: Any, t: Tensor, w: Tensor, d: Tensor) -> Any:
    """Fold the batch into the tangents or the samples; weights may differ, too."""
    if dims[1] is None and dims[2] is None:
        rows = t.movedim(dims[0], 1)
        out = push(rows.flatten(1, 2), w, d)
        return torch.unflatten(out, 1, rows.shape[1:3]), 1
    t, d = (batched_at_front(x, dims[i], size) for i, x in ((0, t), (2, d)))
    if dims[1] is None:
        out = push(t.flatten(0, 1), w, d.flatten(0, 1))
        return torch.unflatten(out, 0, t.shape[:2]), 0
    out = fast.bmm(t.flatten(1, 2), to_front(w, dims[1]))
    return torch.unflatten(out, 1, t.shape[1:3]) * d.unsqueeze(2), 0


def push_layer_linearize(wanted: Any, t: Tensor, w: Tensor, d: Tensor) -> Any:
    """Linear in each of the three: tangents, weights and slopes."""

    def to_tangents(c: Tensor) -> Tensor:
        return torch.matmul(c * d.unsqueeze(1), w.mT)

    def to_weights(c: Tensor) -> Tensor:
        return torch.mm(t.flatten(0, 1).mT, (c * d.unsqueeze(1)).flatten(0, 1))

    def to_slopes(c: Tensor) -> Tensor:
        return torch.sum(torch.matmul(t, w) * c, 1)

    return push(t, w, d), (
        wanted[0] and General(lambda x: push(x, w, d), to_tangents),
        wanted[1] and General(lambda x: push(t, x, d), to_weights),
        wanted[2] and General(lambda x: push(t, w, x), to_slopes),
    )


# weighted_gram and gram_diagonal: out[b] = j[b]^T diag(d[b]) j[b], or its diagonal


def stacked(call: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Batch a function of Jacobians and weights: more samples."""

    def batch(size: int, dims: Any, j: Tensor, d: Tensor) -> Any:
        j, d = (batched_at_front(x, i, size) for x, i in ((j, dims[0]), (d, dims[1])))
        out = call(j.flatten(0, 1), d.flatten(0, 1))
        return torch.unflatten(out, 0, j.shape[:2]), 0

    return batch


def gram(j: Tensor, d: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.weighted_gram.default(j, d)
    return out


def weighted_gram_linearize(wanted: Any, j: Tensor, d: Tensor) -> Any:
    """``dj^T D j`` and its transpose, and ``j^T dD j``; ``D`` is ``diag(d)``."""

    def by_jacobian(x: Tensor) -> Tensor:
        half = fast.bmm((j * d.unsqueeze(2)).mT, x)
        return half + half.mT

    def to_jacobian(c: Tensor) -> Tensor:
        return fast.bmm(j, c + c.mT) * d.unsqueeze(2)

    def to_weights(c: Tensor, j: Tensor) -> Tensor:
        return torch.sum(fast.bmm(j, c) * j, 2)

    return gram(j, d), (
        wanted[0] and General(by_jacobian, to_jacobian),
        wanted[1] and Contraction(lambda x, j: gram(j, x), to_weights, j),
    )


def diagonal(j: Tensor, d: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.gram_diagonal.default(j, d)
    return out


def gram_diagonal_linearize(wanted: Any, j: Tensor, d: Tensor) -> Any:
    """``2 sum_o d_o j_o dj_o`` and ``sum_o dd_o j_o^2``."""

    def by_jacobian(x: Tensor) -> Tensor:
        return torch.sum(j * d.unsqueeze(2) * x, 1) * 2

    def to_jacobian(c: Tensor) -> Tensor:
        return j * d.unsqueeze(2) * (c.unsqueeze(1) * 2)

    def to_weights(c: Tensor, j: Tensor) -> Tensor:
        return fast.mv(j * j, c)

    return diagonal(j, d), (
        wanted[0] and General(by_jacobian, to_jacobian),
        wanted[1] and Contraction(lambda x, j: diagonal(j, x), to_weights, j),
    )


RECORDS = (
    Record(KERNELS.push_layer.default, push_layer_batch, push_layer_linearize),
    Record(KERNELS.weighted_gram.default, stacked(gram), weighted_gram_linearize),
    Record(KERNELS.gram_diagonal.default, stacked(diagonal), gram_diagonal_linearize),
)
