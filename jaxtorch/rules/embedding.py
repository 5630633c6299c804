"""Embedding tables: embedding, its backward, renormalization, embedding_bag."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.embedding import Lookup
from jaxtorch.rules.batching import batched_at_front, to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def flat_rows(size: int, index: Tensor, dim: int | None, rows: int) -> Tensor:
    """Return indices into a table of ``size * rows`` rows, one table per example."""
    index = batched_at_front(index, dim, size)
    offset = torch.arange(size, device=index.device) * rows
    return index + offset.reshape(size, *[1] * (index.dim() - 1))


def embedding_batch(
    size: int,
    dims: Any,
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Look up in one table, or in the stacked tables of all examples."""
    if dims[0] is None:
        options = (padding_idx, scale_grad_by_freq, sparse)
        return torch.embedding(weight, indices, *options), dims[1]
    weight = to_front(weight, dims[0])
    rows = weight.shape[1]
    flat = weight.reshape(size * rows, *weight.shape[2:])
    index = flat_rows(size, indices, dims[1], rows)
    out = torch.embedding(flat, index, -1, scale_grad_by_freq)
    if padding_idx >= 0:
        constant = (index % max(rows, 1) == padding_idx).unsqueeze(-1)
        out = torch.where(constant, out.detach(), out)
    return out, 0


def embedding_linearize(
    wanted: Any,
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Linear in the table; the padding row is a constant.

    ``scale_grad_by_freq`` scales the derivative, so it is a part of the operator.
    """
    out = torch.embedding(weight, indices)
    rows = weight.shape[0]
    return out, (Lookup(indices, rows, padding_idx, scale_grad_by_freq),)


def embedding_dense_backward_batch(
    size: int,
    dims: Any,
    grad: Tensor,
    indices: Tensor,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Any:
    """Add into the stacked tables; with shared indices the batch widens the rows."""
    if dims[1] is None:
        grad = grad.movedim(dims[0], -2)
        width = grad.shape[-1]
        out = aten.embedding_dense_backward.default(
            grad.flatten(-2), indices, num_weights, padding_idx, scale_grad_by_freq
        )
        return out.reshape(num_weights, size, width), 1
    grad = batched_at_front(grad, dims[0], size)
    indices = batched_at_front(indices, dims[1], size)
    if padding_idx >= 0:
        grad = torch.masked_fill(grad, (indices == padding_idx).unsqueeze(-1), 0)
    out = aten.embedding_dense_backward.default(
        grad,
        flat_rows(size, indices, 0, num_weights),
        size * num_weights,
        -1,
        scale_grad_by_freq,
    )
    return out.reshape(size, num_weights, grad.shape[-1]), 0


def embedding_dense_backward_linearize(
    wanted: Any,
    grad: Tensor,
    indices: Tensor,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> Any:
    """Linear in the gradient: the transpose of the look-up."""
    lookup = Lookup(indices, num_weights, padding_idx, scale_grad_by_freq)
    return lookup.apply_transpose(grad), (lookup.transpose(),)


RECORDS = (
    Record(aten.embedding.default, embedding_batch, embedding_linearize),
    Record(
        aten.embedding_dense_backward.default,
        embedding_dense_backward_batch,
        embedding_dense_backward_linearize,
    ),
)
