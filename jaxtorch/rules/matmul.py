"""The operators of kernels/matmul.py: their batching rules and derivatives."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.contraction import Contraction
from jaxtorch.rules import fast
from jaxtorch.rules.batching import to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

# small_bmm: out[i] = a[i] b[i]


def small(a: Tensor, b: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.small_bmm.default(a, b)
    return out


def small_bmm_batch(size: int, dims: Any, a: Tensor, b: Tensor) -> Any:
    """Fold two batches into one, or one batch into the rows of its operand."""
    if dims[1] is None:
        rows = a.movedim(dims[0], 1)
        out = small(rows.flatten(1, 2), b)
        return torch.unflatten(out, 1, rows.shape[1:3]), 1
    if dims[0] is None:
        columns = b.movedim(dims[1], 2)
        out = small(a, columns.flatten(2, 3))
        return torch.unflatten(out, 2, columns.shape[2:]), 2
    a, b = to_front(a, dims[0]), to_front(b, dims[1])
    out = small(a.flatten(0, 1), b.flatten(0, 1))
    return torch.unflatten(out, 0, a.shape[:2]), 0


def _small_by_left(t: Tensor, a: Tensor) -> Tensor:
    return small(a, t)


def _small_adjoint_by_right(g: Tensor, b: Tensor) -> Tensor:
    return fast.bmm(g, b.mT)


def _small_adjoint_by_left(g: Tensor, a: Tensor) -> Tensor:
    return fast.bmm(a.mT, g)


def small_bmm_linearize(wanted: Any, a: Tensor, b: Tensor) -> Any:
    """``d(AB) = dA B + A dB`` for each matrix of the stack."""
    return small(a, b), (
        wanted[0] and Contraction(small, _small_adjoint_by_right, b),
        wanted[1] and Contraction(_small_by_left, _small_adjoint_by_left, a),
    )


# shared_bmm: out[i] = x[i] w


def shared(x: Tensor, w: Tensor) -> Tensor:
    """Call the operator."""
    out: Tensor = KERNELS.shared_bmm.default(x, w)
    return out


def shared_bmm_batch(size: int, dims: Any, x: Tensor, w: Tensor) -> Any:
    """Fold the batch into the matrices or columns; two batches are a stack again."""
    if dims[1] is None:
        x = to_front(x, dims[0])
        out = shared(x.flatten(0, 1), w)
        return torch.unflatten(out, 0, x.shape[:2]), 0
    if dims[0] is None:
        columns = w.movedim(dims[1], 1)
        out = shared(x, columns.flatten(1))
        return torch.unflatten(out, 2, columns.shape[1:]), 2
    x = to_front(x, dims[0])
    out = fast.bmm(x.flatten(1, 2), to_front(w, dims[1]))
    return torch.unflatten(out, 1, x.shape[1:3]), 0


def _shared_by_stack(t: Tensor, x: Tensor) -> Tensor:
    return shared(x, t)


def _shared_adjoint_by_matrix(g: Tensor, w: Tensor) -> Tensor:
    return shared(g, w.mT)


def _shared_adjoint_by_stack(g: Tensor, x: Tensor) -> Tensor:
    return torch.mm(x.flatten(0, 1).mT, g.flatten(0, 1))


def shared_bmm_linearize(wanted: Any, x: Tensor, w: Tensor) -> Any:
    """``d(X w) = dX w + X dw``; the adjoint by ``w`` sums over the stack."""
    return shared(x, w), (
        wanted[0] and Contraction(shared, _shared_adjoint_by_matrix, w),
        wanted[1] and Contraction(_shared_by_stack, _shared_adjoint_by_stack, x),
    )


RECORDS = (
    Record(KERNELS.small_bmm.default, small_bmm_batch, small_bmm_linearize),
    Record(KERNELS.shared_bmm.default, shared_bmm_batch, shared_bmm_linearize),
)
