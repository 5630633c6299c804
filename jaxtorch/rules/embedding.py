"""Embedding tables: embedding, its backward, renormalization, embedding_bag."""

import math
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.embedding import Bags, BagSum, Lookup, RowScale
from jaxtorch.linear.gather import Gather
from jaxtorch.linear.operator import Composition, LinearOperator, Output
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten

# The modes of embedding_bag; 0 is the sum.
MEAN = 1
MAX = 2


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
    if dims[0] is None and not scale_grad_by_freq:
        options = (padding_idx, scale_grad_by_freq, sparse)
        return torch.embedding(weight, indices, *options), dims[1]
    weight = batched_at_front(weight, dims[0], size)
    index = batched_at_front(indices, dims[1], size)
    if scale_grad_by_freq:
        rows = weight.shape[1]
        flat = weight.reshape(size * rows, weight.shape[2])
        out = torch.embedding(flat, flat_rows(size, index, 0, rows), -1, True)
    else:  # checks that an index is within its own table
        column = index.reshape(size, math.prod(index.shape[1:]), 1).long()
        out = torch.gather(weight, 1, column.expand(-1, -1, weight.shape[2]))
        out = out.reshape(*index.shape, weight.shape[2])
    if padding_idx >= 0:
        constant = (index == padding_idx).unsqueeze(-1)
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


def embedding_renorm_decompose(
    x: Tensor, indices: Tensor, max_norm: float, norm_type: float
) -> Tensor:
    """Scale the rows that are looked up and longer than ``max_norm``."""
    norms = torch.linalg.vector_norm(x, norm_type, 1)
    used = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    used = torch.index_fill(used, 0, indices.reshape(-1).long(), True)
    long = torch.logical_and(used, norms > max_norm)
    factor = torch.where(long, max_norm / (norms + 1e-7), norms.new_ones(()))
    return x * factor.unsqueeze(1)


def embedding_bag_linearize(
    wanted: Any,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """Bilinear in the table and the weights; a maximum takes the rows that won."""
    out = aten._embedding_bag.default(
        weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
        include_last_offset, padding_idx,
    )  # fmt: skip
    if include_last_offset:
        offsets = offsets.narrow(0, 0, offsets.shape[0] - 1)
    bags = Bags(indices, offsets, padding_idx, mode == MEAN)
    table: LinearOperator
    if mode == MAX:
        won = Gather(0, torch.clamp(out[3], min=0).long(), weight.shape)
        table = Composition(Elementwise(bags.clear_empty), won)
    else:
        rows: LinearOperator = Lookup(indices, weight.shape[0], -1, scale_grad_by_freq)
        if per_sample_weights is not None:
            column = per_sample_weights.unsqueeze(1)
            rows = Composition(Elementwise(torch.mul, column), rows)
        table = Composition(BagSum(bags), rows)
    operators: list[Any] = [Output(table, 0, 4)]
    if len(wanted) > 6 and wanted[6]:
        scaled = RowScale(torch.embedding(weight, indices))
        operators += [None] * 5
        operators.append(Output(Composition(BagSum(bags), scaled), 0, 4))
    return out, operators


def embedding_bag_batch(
    size: int,
    dims: Any,
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> Any:
    """Widen the table where only it is batched, else lay all bags in one row."""
    options = (scale_grad_by_freq, mode, sparse)
    if all(d is None for d in dims[1:]):
        return wide_bag(
            weight.movedim(dims[0], 1), indices, offsets, *options, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    indices = batched_at_front(indices, dims[1], size)
    offsets = batched_at_front(offsets, dims[2], size)
    if include_last_offset:
        offsets = offsets.narrow(1, 0, offsets.shape[1] - 1)
    if per_sample_weights is not None:
        own = dims[6]
        per_sample_weights = batched_at_front(per_sample_weights, own, size).reshape(-1)
    rows = 0
    if dims[0] is not None or scale_grad_by_freq:
        weight = batched_at_front(weight, dims[0], size)
        rows = weight.shape[1]
        weight, indices, padding_idx = stacked_tables(weight, indices, padding_idx)
    shape = (size, offsets.shape[1])
    out, bags, counts, winners = aten._embedding_bag.default(
        weight,
        indices.reshape(-1),
        flat_rows(size, offsets, 0, indices.shape[1]).reshape(-1),
        *options,
        per_sample_weights,
        False,
        padding_idx,
    )
    out = out.reshape(*shape, weight.shape[1])
    if winners.numel() == out.numel():
        shift = torch.arange(size, device=out.device).reshape(size, 1, 1) * rows
        winners = torch.clamp(winners.reshape(out.shape) - shift, min=0)
    if bags.numel() == indices.numel():
        first = torch.arange(size, device=out.device).unsqueeze(1) * shape[1]
        bags = bags.reshape(indices.shape) - first
    return apart(size, shape[1], out, bags, counts, winners)


def apart(
    size: int, count: int, out: Tensor, bags: Tensor, counts: Tensor, winners: Tensor
) -> Any:
    """Return the outputs with their batch dims; a kernel may leave some of them empty.

    Without a maximum ``winners`` repeats the counts.
    """
    if counts.numel() == size * count:
        counts = counts.reshape(size, count)
    if winners.dim() == 1 and winners.numel() == size * count:
        winners = winners.reshape(size, count)
    rest = (bags, counts, winners)
    return (out, *rest), (0, *[0 if r.dim() > 1 else None for r in rest])


def stacked_tables(
    weight: Tensor, indices: Tensor, padding_idx: int
) -> tuple[Tensor, Tensor, int]:
    """Lay the tables of all examples under each other, with one row for padding."""
    size, rows, width = weight.shape
    flat = weight.reshape(size * rows, width)
    index = flat_rows(size, indices, 0, rows)
    if padding_idx < 0:
        return flat, index, -1
    index = torch.where(indices == padding_idx, size * rows, index)
    return torch.constant_pad_nd(flat, [0, 0, 0, 1], 0), index, size * rows


def wide_bag(weight: Tensor, *args: Any) -> Any:
    """Use the tables ``[rows, batch, width]`` as one with longer rows."""
    flat = weight.reshape(weight.shape[0], weight.shape[1] * weight.shape[2])
    out, numbers, counts, winners = aten._embedding_bag.default(flat, *args)
    shape = (out.shape[0], *weight.shape[1:])
    dim = None
    if winners.shape == out.shape:
        winners = winners.reshape(shape)
        dim = 1
    return (out.reshape(shape), numbers, counts, winners), (1, None, None, dim)


RECORDS = (
    Record(aten._embedding_bag.default, embedding_bag_batch, embedding_bag_linearize),
    Record(
        aten._embedding_bag_forward_only.default,
        embedding_bag_batch,
        embedding_bag_linearize,
    ),
    Record(aten.embedding_renorm.default, decompose=embedding_renorm_decompose),
    Record(aten.embedding.default, embedding_batch, embedding_linearize),
    Record(
        aten.embedding_dense_backward.default,
        embedding_dense_backward_batch,
        embedding_dense_backward_linearize,
    ),
)
