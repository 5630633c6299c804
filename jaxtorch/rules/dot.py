"""The operators of kernels/dot.py: their batching rules and derivatives."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.contraction import Contraction
from jaxtorch.linear.reduction import ReducedElementwise
from jaxtorch.linear.slopes import norm_scale
from jaxtorch.rules import fast
from jaxtorch.rules.batching import to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

# rows_dot: out[b] = a[b] x[b]


def rows_dot(a: Tensor, x: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.rows_dot.default(a, x)
    return out


def rows_dot_batch(size: int, dims: Any, a: Tensor, x: Tensor) -> Any:
    """Fold the batch into the samples, or into the rows or columns of a product."""
    if dims[1] is None:
        rows = a.movedim(dims[0], 1)
        out = rows_dot(rows.flatten(1, 2), x)
        return torch.unflatten(out, 1, rows.shape[1:3]), 1
    if dims[0] is None:
        return fast.bmm(a, x.movedim(dims[1], 2)), 2
    a, x = to_front(a, dims[0]), to_front(x, dims[1])
    out = rows_dot(a.flatten(0, 1), x.flatten(0, 1))
    return torch.unflatten(out, 0, a.shape[:2]), 0


def _outer(g: Tensor, x: Tensor) -> Tensor:
    return torch.unsqueeze(g, 2) * torch.unsqueeze(x, 1)


def _dot_by_matrix(t: Tensor, a: Tensor) -> Tensor:
    return rows_dot(a, t)


def _adjoint_by_matrix(g: Tensor, a: Tensor) -> Tensor:
    return rows_dot(a.mT, g)


def rows_dot_linearize(wanted: Any, a: Tensor, x: Tensor) -> Any:
    """``d(a x) = da x + a dx``."""
    return rows_dot(a, x), (
        wanted[0] and Contraction(rows_dot, _outer, x),
        wanted[1] and Contraction(_dot_by_matrix, _adjoint_by_matrix, a),
    )


# rows_norm: out[b] = |x[b]|


def rows_norm_batch(size: int, dims: Any, x: Tensor) -> Any:
    """Fold the batch into the rows."""
    x = to_front(x, dims[0])
    out = KERNELS.rows_norm.default(x.flatten(0, 1))
    return torch.unflatten(out, 0, x.shape[:2]), 0


def rows_norm_linearize(wanted: Any, x: Tensor) -> Any:
    """``d|x| = x . dx / |x|``, zero where the norm is zero."""
    out = KERNELS.rows_norm.default(x)
    return out, (ReducedElementwise(norm_scale(2, [1]), x, out, [1], False),)


RECORDS = (
    Record(KERNELS.rows_dot.default, rows_dot_batch, rows_dot_linearize),
    Record(KERNELS.rows_norm.default, rows_norm_batch, rows_norm_linearize),
)
