"""The one way from rules to kernels: torch's functions, or a kernel in their place.

A kernel is chosen for plain tensors only, so that wrappers never reach Triton: in a
nest of transforms the rule that meets plain tensors chooses.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels import OPERATORS, PLAIN
from jaxtorch.kernels.attention_tiles import scores_tangent as scores_tangent
from jaxtorch.kernels.attention_tiles import weights as weights
from jaxtorch.kernels.linalg_tiles import LARGEST as LARGEST
from jaxtorch.kernels.operator import switched_on
from jaxtorch.kernels.tracing import fused as fused

KERNELS: Any = torch.ops.jaxtorch
"""The kernels' operators, for records: ``KERNELS.<name>.default``."""
SHORT = 8
"""cuBLAS is made for long sums; a product of fewer columns only waits for memory."""
ATTENTION = OPERATORS["attention"]
PER_SAMPLE_WEIGHT = OPERATORS["per_sample_weight"]
CONVOLUTION_WEIGHT = OPERATORS["per_sample_convolution_weight"]
MANY = 256
"""From so many small products on, cuBLAS waits for its tiles and not for memory."""
SMALL_BMM = OPERATORS["small_bmm"]
SHARED_BMM = OPERATORS["shared_bmm"]
ROWS_DOT = OPERATORS["rows_dot"]
ROWS_NORM = OPERATORS["rows_norm"]
SMALL_CHOLESKY = OPERATORS["small_cholesky"]
SMALL_LU = OPERATORS["small_lu"]
SMALL_LU_SOLVE = OPERATORS["small_lu_solve"]
SMALL_SOLVE = OPERATORS["small_solve"]
SMALL_TRIANGULAR = OPERATORS["small_triangular"]
run_program = OPERATORS["pointwise"].reference
"""A call of ``pointwise`` in torch's calls."""


def runs(*tensors: Tensor) -> bool:
    """Tell whether kernels may run on these, before views of them are taken."""
    return switched_on(tensors[0]) and all(type(t) in PLAIN for t in tensors)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor | None:
    """Return ``softmax(scale q k^T + mask) v``; None where no kernel does.

    It is chosen for wrappers too: what it is made of has no kernels, so that it must
    stay one operator under all levels, which know it.
    """
    own = q, k, v, mask, causal, scale
    if not switched_on(q) or not ATTENTION.supports(*own):
        return None
    if any(x is not None and x.requires_grad for x in own[:4]):
        return None
    return ATTENTION.overload(*own)[0]  # type: ignore[no-any-return]


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply [B, M, K] and [B, K, N]; cuBLAS is for neither small nor thin ones."""
    if not runs(a, b):
        return torch.bmm(a, b)
    if b.shape[2] == 1:
        return mv(a, b.squeeze(2)).unsqueeze(2)
    if a.shape[1] == 1:
        return mv(b.mT, a.squeeze(1)).unsqueeze(1)
    if a.shape[0] >= MANY and SMALL_BMM.chosen(a, b):
        return SMALL_BMM.overload(a, b)  # type: ignore[no-any-return]
    if a.shape[2] <= SHORT and PER_SAMPLE_WEIGHT.chosen(b, a.mT):
        return PER_SAMPLE_WEIGHT.overload(b, a.mT)  # type: ignore[no-any-return]
    return torch.bmm(a, b)


def in_one_matrix(x: Tensor) -> bool:
    """Tell whether all rows lie at one distance; it changes no number."""
    step, row, _ = Tensor.stride(x)
    return step == x.shape[1] * row


def shared_bmm(x: Tensor, w: Tensor) -> Tensor:
    """Multiply matrices [B, M, K] and one [K, N].

    Rows at one distance are the rows of one matrix. Of others torch makes B products,
    which are too small if M is, or a copy.
    """
    if (
        runs(x, w)
        and 1 < x.shape[1] <= 64
        and not in_one_matrix(x)
        and SHARED_BMM.chosen(x, w)
    ):
        return SHARED_BMM.overload(x, w)  # type: ignore[no-any-return]
    return torch.matmul(x, w)


def mv(a: Tensor, x: Tensor) -> Tensor:
    """Multiply matrices [B, M, N] and vectors [B, N]."""
    if ROWS_DOT.chosen(a, x):
        return ROWS_DOT.overload(a, x)  # type: ignore[no-any-return]
    return torch.bmm(a, x.unsqueeze(2)).squeeze(2)


def dots(x: Tensor, y: Tensor) -> Tensor:
    """Multiply rows [B, N] and sum."""
    if runs(x, y):
        rows = x.unsqueeze(1)
        if ROWS_DOT.chosen(rows, y):
            return ROWS_DOT.overload(rows, y).squeeze(1)  # type: ignore[no-any-return]
    return torch.sum(x * y, 1)


def convolution_weights(x: Tensor, g: Tensor, *geometry: Any) -> Tensor | None:
    """Return the weight's gradients for images [B, N, C, H, W]; None has no kernel."""
    if CONVOLUTION_WEIGHT.chosen(x, g, *geometry):
        return CONVOLUTION_WEIGHT.overload(x, g, *geometry)  # type: ignore[no-any-return]
    return None


def norms(x: Tensor) -> Tensor:
    """Return the Euclidean norms of the rows of [B, ...]."""
    if runs(x):
        rows = x.flatten(1)
        if ROWS_NORM.chosen(rows):
            return ROWS_NORM.overload(rows)  # type: ignore[no-any-return]
    out: Tensor = torch.linalg.vector_norm(x, 2, list(range(1, x.dim())))
    return out
