"""Distances between the rows of matrices: cdist and pdist."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import sum_to
from jaxtorch.linear.operator import General
from jaxtorch.linear.slopes import norm_scale
from jaxtorch.rules.batching import (
    batched_at_front,
    pad_rank,
    rank_of,
    to_front,
    tracked,
)
from jaxtorch.rules.record import Record

aten = torch.ops.aten
forward = aten._cdist_forward.default
kernel = aten._cdist_backward.default


def cdist_batch(size: int, dims: Any, x: Tensor, y: Tensor, p: float, mode: Any) -> Any:
    """The kernel broadcasts leading dims; the batch dim is the first of them."""
    rank = max(rank_of(x, dims[0]), rank_of(y, dims[1]))
    if dims[0] is not None:
        x = pad_rank(to_front(x, dims[0]), rank)
    if dims[1] is not None:
        y = pad_rank(to_front(y, dims[1]), rank)
    return forward(x, y, p, mode), 0


def backward(g: Tensor, x: Tensor, y: Tensor, p: float, out: Tensor) -> Tensor:
    """The kernel, or plain operators where torch.autograd asks for a derivative."""
    if tracked(g, x, y):
        return cdist_backward_decompose(g, x, y, p, out)
    return kernel(g, x, y, p, out)  # type: ignore[no-any-return]


def cdist_linearize(wanted: Any, x: Tensor, y: Tensor, p: float, mode: Any) -> Any:
    """A p-norm of differences; the fused kernel carries cotangents back."""
    out = forward(x, y, p, mode)
    scale = norm_scale(p, [-1])

    def push(t: Tensor) -> Tensor:
        difference = x.unsqueeze(-2) - y.unsqueeze(-3)
        return torch.sum(scale(t, difference, out.unsqueeze(-1)), -1)

    def pull_x(c: Tensor) -> Tensor:
        return sum_to(backward(c.contiguous(), x, y, p, out), x.shape)

    def pull_y(c: Tensor) -> Tensor:
        g, kept = c.mT.contiguous(), out.mT.contiguous()
        return sum_to(backward(g, y, x, p, kept), y.shape)

    return out, (
        General(lambda t: push(t.unsqueeze(-2)), pull_x),
        General(lambda t: push(-t.unsqueeze(-3)), pull_y),
    )


def cdist_backward_batch(
    size: int, dims: Any, g: Tensor, x: Tensor, y: Tensor, p: float, out: Tensor
) -> Any:
    """All operands with the batch dim as the first of the leading dims."""
    rank = rank_of(g, dims[0])
    own = [
        pad_rank(batched_at_front(t, d, size), rank).contiguous()
        for t, d in ((g, dims[0]), (x, dims[1]), (y, dims[2]), (out, dims[4]))
    ]
    return backward(own[0], own[1], own[2], p, own[3]), 0


def cdist_backward_decompose(
    g: Tensor, x: Tensor, y: Tensor, p: float, out: Tensor
) -> Tensor:
    """The kernel in plain operators on all differences."""
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    scale = norm_scale(p, [-1])
    return torch.sum(scale(g.unsqueeze(-1), difference, out.unsqueeze(-1)), -2)


def pdist_decompose(x: Tensor, p: float = 2) -> Tensor:
    """The norms of the differences of all pairs of rows, the upper triangle."""
    rows = x.shape[0]
    first, second = torch.triu_indices(rows, rows, 1, device=x.device)
    difference = torch.index_select(x, 0, first) - torch.index_select(x, 0, second)
    return aten.linalg_vector_norm.default(difference, p, [-1])  # type: ignore[no-any-return]


RECORDS = (
    Record(forward, cdist_batch, cdist_linearize),
    Record(kernel, cdist_backward_batch, decompose=cdist_backward_decompose),
    Record(aten._pdist_forward.default, decompose=pdist_decompose),
)
