"""Losses that are elementwise up to a reduction: mse, huber, binary cross entropy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.cast import promoted
from jaxtorch.linear.reduction import ReducedBroadcast
from jaxtorch.rules.batching import align_promoted, batched_at_front, entry_point
from jaxtorch.rules.record import Record

aten = torch.ops.aten
NONE, MEAN, SUM = 0, 1, 2
Scale = Callable[..., Tensor]


def example_reduced(loss: Tensor, reduction: int) -> Tensor:
    """Reduce the elementwise losses of a batch, each example on its own."""
    dims = list(range(1, loss.dim()))
    if not dims or reduction == NONE:
        return loss
    return torch.mean(loss, dims) if reduction == MEAN else torch.sum(loss, dims)


def elementwise_loss(
    overload: OpOverload, *scales: Scale, extra: Any = (), factor: float = 1
) -> Record:
    """Make the record of a loss of tensors that broadcast, then a reduction, then more.

    ``scales`` has one function for each tensor argument: ``scale(t, *tensors, *rest)``
    multiplies ``t`` by the derivative of the elementwise loss, but for the constant
    ``factor``. ``extra`` are the defaults of the arguments behind ``reduction``.
    """
    call = entry_point(overload)
    count = len(scales)

    def split(args: Any) -> tuple[Any, int, Any]:
        given = len(args)
        if given == count + 1 + len(extra):
            return args[:count], args[count], args[count + 1 :]
        tensors = (*args[:count], *[None] * (count - given))
        reduction = args[count] if given > count else MEAN
        return (
            tensors,
            reduction,
            (*args[count + 1 :], *extra[max(given - count - 1, 0) :]),
        )

    def batch(size: int, dims: Any, *args: Any) -> Any:
        tensors, reduction, rest = split(args)
        x = batched_at_front(tensors[0], dims[0], size)
        y = batched_at_front(tensors[1], dims[1], size)
        own = (0, 0, *dims[2:], *[None] * count)[:count]
        aligned = align_promoted((x, y, *tensors[2:]), own)
        loss = call(*aligned, NONE, *rest)
        return example_reduced(loss, reduction), 0

    def linearize(wanted: Any, *args: Any) -> Any:
        tensors, reduction, rest = split(args)
        out = call(*tensors, reduction, *rest)
        shape = torch.broadcast_shapes(*[t.shape for t in tensors if t is not None])
        operators = [
            promoted(
                ReducedBroadcast(
                    scale, t.shape, shape, reduction, factor, *tensors, *rest
                ),
                t,
                out,
            )
            if want
            else None
            for want, t, scale in zip(wanted, tensors, scales, strict=False)
        ]
        return out, operators

    return Record(overload, batch, linearize)


def mse_scale(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``d (x - y)^2 = 2 (x - y) dx``, but for the 2."""
    return (x - y) * t


def huber_scale(t: Tensor, x: Tensor, y: Tensor, delta: float) -> Tensor:
    """The difference, cut off at ``delta``."""
    return torch.clamp(x - y, -delta, delta) * t


def smooth_l1_scale(t: Tensor, x: Tensor, y: Tensor, beta: float) -> Tensor:
    """The difference over ``beta``, cut off at one."""
    if beta == 0:
        return torch.sgn(x - y) * t
    return torch.clamp(x - y, -beta, beta) * (t / beta)


def soft_margin_scale(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``d log(1 + exp(-y x)) = -y sigmoid(-y x) dx``."""
    return torch.sigmoid(-y * x) * (-t * y)


def swapped(scale: Scale, sign: int) -> Scale:
    """Make the scale of the second operand of a (anti)symmetric loss."""
    return lambda t, x, y, *rest: scale(t * sign, x, y, *rest)


def weighted(t: Tensor, weight: Tensor | None) -> Tensor:
    """Multiply by a weight that may be missing."""
    return t if weight is None else t * weight


def bce_scale(t: Tensor, x: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    """``dx (x - y) / (x (1 - x))``, with the denominator kept above 1e-12."""
    return (x - y) / torch.clamp((1 - x) * x, min=1e-12) * weighted(t, w)


def bce_target_scale(t: Tensor, x: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    """``dy (log(1 - x) - log(x))``, each logarithm kept above -100."""
    positive = torch.clamp(torch.log(x), min=-100)
    negative = torch.clamp(torch.log(1 - x), min=-100)
    return (negative - positive) * weighted(t, w)


def bce_weight_scale(t: Tensor, x: Tensor, y: Tensor, w: Tensor) -> Any:
    """The loss is linear in its weight."""
    return t * aten.binary_cross_entropy.default(x, y, None, NONE)


def logits_scale(t: Tensor, x: Tensor, y: Tensor, w: Any, p: Any) -> Any:
    """``dx (sigmoid(x) - y)``; with a positive weight p, y counts p times."""
    if p is None:
        return (torch.sigmoid(x) - y) * weighted(t, w)
    return (torch.sigmoid(x) * (1 + (p - 1) * y) - p * y) * weighted(t, w)


def logits_target_scale(t: Tensor, x: Tensor, y: Tensor, w: Any, p: Any) -> Any:
    """``-x dy``; with a positive weight p, ``(p - 1) softplus(-x)`` more."""
    if p is None:
        return -x * weighted(t, w)
    return ((1 - p) * torch.nn.functional.logsigmoid(x) - x) * weighted(t, w)


def logits_weight_scale(t: Tensor, x: Tensor, y: Tensor, w: Any, p: Any) -> Any:
    """The loss is linear in its weight."""
    return t * aten.binary_cross_entropy_with_logits.default(x, y, None, p, NONE)


def logits_positive_scale(t: Tensor, x: Tensor, y: Tensor, w: Any, p: Any) -> Tensor:
    """``y softplus(-x) dp``."""
    return -torch.nn.functional.logsigmoid(x) * weighted(t, w) * y


RECORDS = (
    elementwise_loss(
        aten.mse_loss.default, mse_scale, lambda t, x, y: (y - x) * t, factor=2
    ),
    elementwise_loss(
        aten.huber_loss.default, huber_scale, swapped(huber_scale, -1), extra=(1.0,)
    ),
    elementwise_loss(
        aten.smooth_l1_loss.default,
        smooth_l1_scale,
        swapped(smooth_l1_scale, -1),
        extra=(1.0,),
    ),
    elementwise_loss(
        aten.soft_margin_loss.default,
        soft_margin_scale,
        lambda t, x, y: soft_margin_scale(t, y, x),
    ),
    elementwise_loss(
        aten.binary_cross_entropy.default, bce_scale, bce_target_scale, bce_weight_scale
    ),
    elementwise_loss(
        aten.binary_cross_entropy_with_logits.default,
        logits_scale,
        logits_target_scale,
        logits_weight_scale,
        logits_positive_scale,
    ),
)
