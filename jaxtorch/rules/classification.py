"""Losses of class indices: nll_loss in all its shapes."""

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional

from jaxtorch.linear.operator import General, LinearOperator, Output, Zero
from jaxtorch.rules.batching import batched_at_front, rank_of
from jaxtorch.rules.record import BatchRule, LinearizeRule, Record

aten = torch.ops.aten
NONE, MEAN = 0, 1
ZERO = Zero()


class ByClass:
    """The targets of one loss as places in its class weights."""

    def __init__(self, target: Tensor, classes: int, ignore_index: int) -> None:
        self.target = target
        self.ignored = target == ignore_index
        self.place = torch.where(self.ignored, 0, target).reshape(-1)
        self.classes = classes

    def read(self, weight: Tensor) -> Tensor:
        """Return the weight of every target, zero where it is ignored."""
        own = torch.index_select(weight, 0, self.place).reshape(self.target.shape)
        return torch.where(self.ignored, 0, own)

    def write(self, values: Tensor) -> Tensor:
        """Add up values of the targets class by class."""
        values = torch.where(self.ignored, 0, values).reshape(-1)
        zeros = values.new_zeros(self.classes)
        return torch.scatter_add(zeros, 0, self.place, values)


def fold(x: Tensor, dim: int | None, size: int, alone: bool) -> Tensor:
    """Fold the batch dim into the samples, or let it be them for a lone sample."""
    x = batched_at_front(x, dim, size)
    return x if alone else x.flatten(0, 1)


def picked(weight: Tensor, dim: int, target: Tensor, ignored: Tensor) -> Tensor:
    """Return each example's own weight at its targets, which have a batch dim."""
    weight = weight.movedim(dim, 0)
    at = torch.where(ignored, 0, target)
    at = at.unsqueeze(1) if at.dim() == 1 else at.flatten(1)
    own = torch.gather(weight, 1, at).reshape(target.shape)
    return torch.where(ignored, 0, own)


def target_weights(
    target: Tensor, weight: Tensor | None, dim: int | None, ignore_index: int
) -> Tensor:
    """Return the weight of every target, which have a batch dim."""
    ignored = target == ignore_index
    if weight is None:
        return ~ignored
    if dim is None:
        weight, dim = weight.expand(target.shape[0], -1), 0
    return picked(weight, dim, target, ignored)


def example_sum(x: Tensor) -> Tensor:
    """Sum over all dims but the batch dim."""
    return torch.sum(x, list(range(1, x.dim()))) if x.dim() > 1 else x


def forward_batch(overload: OpOverload) -> BatchRule:
    """Fold the batch dim into the samples; reduce each example afterwards."""

    def batch(
        size: int,
        dims: Any,
        x: Tensor,
        target: Tensor,
        weight: Any,
        reduction: int,
        ignore_index: int,
    ) -> Any:
        alone = rank_of(x, dims[0]) == 1
        own = dims[2] is not None
        target = batched_at_front(target, dims[1], size)
        loss, _ = overload(
            fold(x, dims[0], size, alone),
            target if alone else target.flatten(0, 1),
            None if own else weight,
            NONE,
            ignore_index,
        )
        loss = loss.reshape(target.shape)
        if reduction == NONE and not own:
            return (loss, x.new_zeros(())), (0, None)
        weights = target_weights(target, weight, dims[2], ignore_index)
        if own:
            loss = loss * weights
        if reduction == NONE:
            return (loss, x.new_zeros(())), (0, None)
        total = example_sum(weights).to(loss.dtype)
        loss = example_sum(loss)
        return (loss / total if reduction == MEAN else loss, total), 0

    return batch


def backward_batch(overload: OpOverload) -> BatchRule:
    """Fold the batch dim into the samples; each example's cotangent is shared out."""

    def batch(
        size: int,
        dims: Any,
        g: Tensor,
        x: Tensor,
        target: Tensor,
        weight: Any,
        reduction: int,
        ignore_index: int,
        total: Tensor,
    ) -> Any:
        alone = rank_of(x, dims[1]) == 1
        target = batched_at_front(target, dims[2], size)
        g = batched_at_front(g, dims[0], size)
        if reduction == MEAN:
            g = g / batched_at_front(total, dims[6], size)
        if g.dim() < target.dim():
            g = g.reshape(size, *[1] * (target.dim() - 1)).expand(target.shape)
        if dims[3] is not None:
            g = g * target_weights(target, weight, dims[3], ignore_index)
            weight = None
        x = batched_at_front(x, dims[1], size)
        flat = (g, x, target) if alone else [v.flatten(0, 1) for v in (g, x, target)]
        out = overload(*flat, weight, NONE, ignore_index, x.new_zeros(()))
        return out.reshape(x.shape), 0

    return batch


def forward_linearize(forward: OpOverload, backward: OpOverload) -> LinearizeRule:
    """The loss is linear in the scores."""

    def linearize(wanted: Any, x: Tensor, target: Tensor, *rest: Any) -> Any:
        outs = forward(x, target, *rest)
        total = outs[1]

        def apply(t: Tensor) -> Any:
            return forward(t, target, *rest)[0]

        def transpose(c: Tensor) -> Any:
            return backward(c, x, target, *rest, total)

        of_weight = None
        if wanted[2]:
            of_weight = from_weight(forward, x, target, rest, outs)
        return outs, (Output(General(apply, transpose), 0, 2), None, of_weight)

    return linearize


def from_weight(
    forward: OpOverload, x: Tensor, target: Tensor, rest: Any, outs: Any
) -> LinearOperator:
    """Return the operator from the class weights to the loss and their total.

    ``d loss[i] = v[i] dw[y[i]]`` with the unweighted loss v; the mean is a quotient.
    """
    weight, reduction, ignore_index = rest
    out, total = outs
    classes = ByClass(target, weight.shape[0], ignore_index)

    def slope() -> Any:
        loss = forward(x, target, None, NONE, ignore_index)[0]
        return (loss - out) / total if reduction == MEAN else loss

    def apply(t: Tensor) -> Any:
        own = classes.read(t)
        loss = slope() * own
        if reduction == NONE:
            return loss, None
        return torch.sum(loss), torch.sum(own)

    def transpose(c: Any) -> Any:
        per_target = None if c[0] is None else slope() * c[0]
        if c[1] is not None and reduction != NONE:
            even = c[1].expand(target.shape)
            per_target = even if per_target is None else per_target + even
        return None if per_target is None else classes.write(per_target)

    return General(apply, transpose)


def backward_linearize(forward: OpOverload, backward: OpOverload) -> LinearizeRule:
    """The kernel is linear in the cotangent and reads only the shape of the scores."""

    def linearize(wanted: Any, g: Tensor, x: Tensor, target: Tensor, *rest: Any) -> Any:
        out = backward(g, x, target, *rest)
        weight, reduction, ignore_index, total = rest

        def apply(t: Tensor) -> Any:
            return backward(t, x, target, *rest)

        def transpose(c: Tensor) -> Any:
            return forward(c, target, *rest[:-1])[0]

        def of_weight(t: Tensor) -> Any:
            return backward(g, x, target, t, *rest[1:])

        def to_weight(c: Tensor) -> Any:
            slope = forward(c, target, None, NONE, ignore_index)[0] * g
            if reduction == MEAN:
                slope = slope / total
            return ByClass(target, weight.shape[0], ignore_index).write(slope)

        of_total: LinearOperator = ZERO
        if reduction == MEAN:
            of_total = General(
                lambda t: out * (-t / total), lambda c: torch.sum(out * c) / -total
            )
        return out, (
            General(apply, transpose),
            ZERO,
            ZERO,
            General(of_weight, to_weight),
            ZERO,
            ZERO,
            of_total,
        )

    return linearize


def nll_records(forward: OpOverload, backward: OpOverload) -> tuple[Record, Record]:
    """Make the records of a loss and of its backward kernel."""
    return (
        Record(forward, forward_batch(forward), forward_linearize(forward, backward)),
        Record(
            backward, backward_batch(backward), backward_linearize(forward, backward)
        ),
    )


def chunked_loss(
    x: Tensor,
    linear: tuple[Tensor, Any],
    target: Tensor,
    weight: Any,
    reduction: str,
    ignore_index: int,
    acc_dtype: torch.dtype,
) -> Tensor:
    """The loss of all samples at once: it has derivatives, and needs more memory."""
    wide = torch.promote_types(x.dtype, acc_dtype)
    matrix, bias = linear
    logits = functional.linear(
        x.to(wide), matrix.to(wide), None if bias is None else bias.to(wide)
    )
    loss = functional.cross_entropy(
        logits,
        target,
        None if weight is None else weight.to(wide),
        reduction=reduction,
        ignore_index=ignore_index,
    )
    return loss.to(x.dtype)


def chunked_reduced_decompose(
    x: Tensor,
    matrix: Tensor,
    target: Tensor,
    bias: Any,
    weight: Any,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    chunk_size: int,
    acc_policy: str,
    acc_dtype: torch.dtype,
    *flags: bool,
) -> Any:
    """The loss; the gradients that the kernel returns beside it are left out."""
    own = (weight, reduction, ignore_index, acc_dtype)
    loss = chunked_loss(x, (matrix, bias), target, *own)
    return loss, x.new_empty(0, 0), x.new_empty(0, 0), x.new_empty(0)


def chunked_decompose(
    x: Tensor,
    matrix: Tensor,
    target: Tensor,
    bias: Any,
    weight: Any,
    ignore_index: int,
    chunk_size: int,
    acc_policy: str,
    acc_dtype: torch.dtype,
) -> Tensor:
    """The loss of each sample."""
    own = (weight, "none", ignore_index, acc_dtype)
    return chunked_loss(x, (matrix, bias), target, *own)


def chunked_records() -> Iterator[Record]:
    """Make the records of ``linear_cross_entropy`` in chunks; torch < 2.13 lacks it."""
    try:
        importlib.import_module("torch.nn.modules.linear_cross_entropy")
    except ImportError:
        return
    own = torch.ops.torch_nn
    reduced = own._linear_cross_entropy_batch_chunked.default
    yield Record(reduced, decompose=chunked_reduced_decompose)
    each = own._linear_cross_entropy_batch_chunked_no_reduction.default
    yield Record(each, decompose=chunked_decompose)


RECORDS = (
    *chunked_records(),
    *nll_records(aten.nll_loss_forward.default, aten.nll_loss_backward.default),
    *nll_records(aten.nll_loss2d_forward.default, aten.nll_loss2d_backward.default),
)
