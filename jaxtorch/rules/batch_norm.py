"""Batch norm: statistics over all dims but the channels, and running statistics.

The statistics of one example of a vmap are those of its own samples: the batch dim is
folded into the channels.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import Broadcast
from jaxtorch.linear.cast import cast_to, promoted
from jaxtorch.linear.diagonal import BroadcastElementwise
from jaxtorch.linear.normalization import (
    BiasDerivative,
    InputDerivative,
    Layout,
    Normalized,
    WeightDerivative,
    backward_by_parts,
)
from jaxtorch.linear.operator import Composition, LinearOperator, Output, Zero
from jaxtorch.linear.reindex import Reindex
from jaxtorch.rules.batching import to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten
backward = aten.native_batch_norm_backward.default
without_stats = aten._native_batch_norm_legit.no_stats
ZERO = Zero()


def along_channels(x: Tensor, channels: int) -> list[int]:
    """Return the shape in which a tensor with an entry per channel broadcasts."""
    return [1, channels] + [1] * (x.dim() - 2)


def batch_layout(x: Tensor) -> Layout:
    """Statistics and weights per channel, at dim 1."""
    shape = x.shape
    along = along_channels(x, shape[1])
    others = [d for d in range(len(shape)) if d != 1]
    return Layout(shape, along, along, others, others)


def into_channels(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold the batch dim into dim 1 of the example."""
    if dim is None:
        x = x.unsqueeze(1).expand(-1, size, *x.shape[1:])
    elif dim != 1:
        x = x.movedim(dim, 1)
    return x.flatten(1, 2)


def per_channel(x: Any, dim: int | None, size: int) -> Any:
    """Fold the batch dim of a tensor with an entry per channel into the channels."""
    if x is None:
        return None
    x = x.expand(size, *x.shape) if dim is None else to_front(x, dim)
    return x.flatten()


def no_stats_batch(
    size: int,
    dims: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Fold the batch dim into the channels."""
    if dims[0] is None:
        out, mean, rstd = without_stats(x, None, None, training, momentum, eps)
        along = along_channels(x, x.shape[1])
        for parameter, dim, call in (
            (weight, dims[1], torch.mul),
            (bias, dims[2], torch.add),
        ):
            if parameter is not None:
                lead = [] if dim is None else [size]
                parameter = parameter if dim is None else to_front(parameter, dim)
                out = call(out, parameter.reshape(lead + along))
        return (cast_to(out, x.dtype), mean, rstd), (0, None, None)
    channels = x.shape[1 if dims[0] > 1 else 2]
    if size == 0:
        return (x, *[x.new_zeros(0, channels)] * 2), (dims[0], 0, 0)
    out, mean, rstd = without_stats(
        into_channels(x, dims[0], size),
        per_channel(weight, dims[1], size),
        per_channel(bias, dims[2], size),
        training,
        momentum,
        eps,
    )
    split = (size, channels)
    return (
        out.unflatten(1, split),
        mean.reshape(split),
        rstd.reshape(split),
    ), (1, 0, 0)


def training_operators(
    wanted: Any, x: Tensor, weight: Any, bias: Any, outs: Any, eps: float
) -> tuple[Any, Any, Any]:
    """Return the operators from input, weight and bias with statistics of the input."""
    out, mean, rstd = outs

    def kernel(g: Tensor, mask: list[bool]) -> Any:
        return backward(g, x, weight, None, None, mean, rstd, True, eps, mask)

    asked = [w is not None for w in wanted[:3]]
    own = Normalized(batch_layout(x), x, mean, rstd, weight, kernel, out.dtype, asked)
    return (
        InputDerivative(own),
        None if weight is None else WeightDerivative(own),
        None if bias is None else BiasDerivative(own, bias),
    )


def no_stats_linearize(
    wanted: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """See ``InputDerivative``; the fused kernel carries cotangents back."""
    outs = without_stats(x, weight, bias, training, momentum, eps)
    return outs, training_operators(wanted, x, weight, bias, outs, eps)


def batch_norm_linearize(
    wanted: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """The update of the running statistics has no derivative, as in PyTorch."""
    stats = (running_mean, running_var)
    outs = torch.native_batch_norm(x, weight, bias, *stats, training, momentum, eps)
    if training:
        own = training_operators(wanted, x, weight, bias, outs, eps)
        return outs, (*own, ZERO, ZERO)
    return outs, fixed_operators(x, weight, bias, *stats, eps)


def fixed_operators(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float
) -> list[Any]:
    """Return the operators of ``(x - mean) (var + eps)^(-1/2) weight + bias``."""
    along = torch.Size(along_channels(x, x.shape[1]))
    dtype = x.dtype

    def factor() -> Tensor:
        rstd = torch.rsqrt(var + eps)
        own = rstd if weight is None else rstd * weight
        return cast_to(own.reshape(along), dtype)

    def centred() -> Tensor:
        return cast_to(x - mean.reshape(along), dtype)

    def of_var(t: Tensor) -> Tensor:
        slope = cast_to((-0.5 / (var + eps)).reshape(along), dtype)
        return t * centred() * (factor() * slope)

    def of_weight(t: Tensor) -> Tensor:
        return t * centred() * cast_to(torch.rsqrt(var + eps).reshape(along), dtype)

    shape = x.shape

    def channelwise(parameter: Tensor, scale: Any) -> LinearOperator:
        own: LinearOperator = Broadcast(along, shape)
        if scale is not None:
            own = BroadcastElementwise(scale, along, shape)
        spread = Reindex(torch.reshape, (along,), torch.reshape, (parameter.shape,))
        return Output(promoted(Composition(own, spread), parameter, x), 0, 3)

    of_x = BroadcastElementwise(lambda t: t * factor(), shape, shape)
    return [
        Output(of_x, 0, 3),
        None if weight is None else channelwise(weight, of_weight),
        None if bias is None else channelwise(bias, None),
        channelwise(mean, lambda t: -t * factor()),
        channelwise(var, of_var),
    ]


def batch_norm_decompose(
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Normalize and, in training, write the running statistics in place."""
    if not training:
        out = with_fixed_stats(x, weight, bias, running_mean, running_var, eps)
        return out, x.new_empty(0), x.new_empty(0)
    out, mean, rstd = without_stats(x, weight, bias, True, momentum, eps)
    new = updated(x, mean, rstd, running_mean, running_var, momentum, eps)
    for running, value in zip((running_mean, running_var), new, strict=True):
        if running is not None:
            running.copy_(value)
    return out, mean, rstd


def with_fixed_stats(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """Normalize with given statistics: one scale and one shift per channel."""
    along = along_channels(x, x.shape[1])
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    return cast_to(x * scale.reshape(along) + shift.reshape(along), x.dtype)


def updated(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    eps: float,
) -> tuple[Any, Any]:
    """Return the new running statistics; the running variance is the unbiased one."""
    kept = 1 - momentum
    new_mean = new_var = None
    if running_mean is not None:
        new_mean = running_mean * kept + mean.detach() * momentum
    if running_var is not None:
        count = x.numel() // max(x.shape[1], 1)
        var = torch.clamp(torch.pow(rstd.detach(), -2) - eps, min=0)
        new_var = running_var * kept + var * (momentum * count / max(count - 1, 1))
    return new_mean, new_var


def functional_decompose(
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """As batch norm; the new running statistics are returned."""
    if not training:
        out = with_fixed_stats(x, weight, bias, running_mean, running_var, eps)
        empty = x.new_empty(0)
        return out, empty, empty.clone(), running_mean.clone(), running_var.clone()
    out, mean, rstd = without_stats(x, weight, bias, True, momentum, eps)
    new = updated(x, mean, rstd, running_mean, running_var, momentum, eps)
    return out, mean, rstd, *new


def cudnn_decompose(
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """The same with a reserve for cudnn's own backward, which is not used."""
    outs = torch.native_batch_norm(
        x, weight, bias, running_mean, running_var, training, momentum, eps
    )
    return *outs, x.new_empty(0, dtype=torch.uint8)


def with_training(args: tuple[Any, ...], training: bool) -> list[Any]:
    """Insert the flag behind the weights and statistics."""
    return [*args[:4], training, *args[4:]]


def no_training_decompose(x: Tensor, *args: Any) -> Any:
    """Batch norm with fixed statistics."""
    return torch.native_batch_norm(x, *with_training(args, False))


def with_update_decompose(x: Tensor, *args: Any) -> Any:
    """Batch norm in training, with a reserve."""
    return cudnn_decompose(x, *with_training(args, True))


def with_update_functional_decompose(x: Tensor, *args: Any) -> Any:
    """Batch norm in training, with a reserve; the new statistics are returned."""
    *outs, mean, var = functional_decompose(x, *with_training(args, True))
    return *outs, x.new_empty(0, dtype=torch.uint8), mean, var


def no_update_decompose(
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    eps: float,
) -> Any:
    """Batch norm with fixed statistics, and a reserve."""
    stats = (running_mean, running_var)
    return cudnn_decompose(x, weight, bias, *stats, False, momentum, eps)


def backward_batch(
    size: int,
    dims: Any,
    g: Tensor,
    x: Tensor,
    weight: Any,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    rstd: Any,
    train: bool,
    eps: float,
    mask: Any,
) -> Any:
    """Fold the batch dim into the channels."""
    own = [
        per_channel(p, d, size)
        for p, d in zip(
            (weight, running_mean, running_var, mean, rstd), dims[2:7], strict=True
        )
    ]
    g, x = into_channels(g, dims[0], size), into_channels(x, dims[1], size)
    channels = x.shape[1] // max(size, 1)
    dx, dw, db = backward(g.contiguous(), x, *own, train, eps, mask)
    split = (size, channels)
    return (
        dx.unflatten(1, split) if mask[0] else None,
        dw.reshape(split) if mask[1] else None,
        db.reshape(split) if mask[2] else None,
    ), (1, 0, 0)


def backward_decompose(
    g: Tensor,
    x: Tensor,
    weight: Any,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    rstd: Any,
    train: bool,
    eps: float,
    mask: Any,
) -> Any:
    """The kernel in plain operators."""
    layout = batch_layout(x)
    if train:
        channels = (x.shape[1],)
        return backward_by_parts(layout, g, x, mean, rstd, weight, mask, channels)
    operators = fixed_operators(x, weight, weight, running_mean, running_var, eps)
    standard = (x - running_mean.reshape(layout.stats)) * torch.rsqrt(
        running_var + eps
    ).reshape(layout.stats)
    return (
        operators[0].apply_transpose((g, None, None)) if mask[0] else None,
        layout.sum_affine(g * standard, (x.shape[1],)) if mask[1] else None,
        layout.sum_affine(g, (x.shape[1],)) if mask[2] else None,
    )


RECORDS = (
    Record(
        aten.native_batch_norm.default,
        linearize=batch_norm_linearize,
        decompose=batch_norm_decompose,
    ),
    Record(without_stats, no_stats_batch, no_stats_linearize),
    Record(backward, backward_batch, decompose=backward_decompose),
    Record(
        aten._native_batch_norm_legit_functional.default, decompose=functional_decompose
    ),
    Record(aten._native_batch_norm_legit.default, decompose=batch_norm_decompose),
    Record(
        aten._native_batch_norm_legit_no_training.default,
        decompose=no_training_decompose,
    ),
    Record(aten._batch_norm_with_update.default, decompose=with_update_decompose),
    Record(
        aten._batch_norm_with_update_functional.default,
        decompose=with_update_functional_decompose,
    ),
    Record(aten._batch_norm_no_update.default, decompose=no_update_decompose),
    Record(aten.cudnn_batch_norm.default, decompose=cudnn_decompose),
)
