"""Batch norm: statistics over all dims but the channels, and running statistics.

The statistics of one example of a vmap are those of its own samples: the batch dim is
folded into the channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.cast import cast_to
from jaxtorch.linear.diagonal import Scale
from jaxtorch.linear.normalization import (
    BiasDerivative,
    FixedInputDerivative,
    InputDerivative,
    Layout,
    Normalized,
    WeightDerivative,
    backward_by_parts,
)
from jaxtorch.linear.operator import Composition
from jaxtorch.rules.batching import are_plain, batched_at_front, to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten
backward = aten.native_batch_norm_backward.default
without_stats = aten._native_batch_norm_legit.no_stats
with_fixed_stats = aten._native_batch_norm_legit_no_training.default


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


def fixed_batch(
    size: int, dims: Any, x: Tensor, *args: Any
) -> tuple[tuple[Tensor, Any, Any], Any]:
    """Fold the batch dim into the channels."""
    empty = x.new_empty(0)
    channels = x.shape[1 if dims[0] is None or dims[0] > 1 else 2]
    if size == 0:
        return (batched_at_front(x, dims[0], size), empty, empty), (0, None, None)
    folded = [per_channel(p, d, size) for p, d in zip(args[:4], dims[1:5], strict=True)]
    out = with_fixed_stats(into_channels(x, dims[0], size), *folded, *args[4:])[0]
    return (out.unflatten(1, (size, channels)), empty, empty), (1, None, None)


def normalized(
    x: Tensor, weight: Any, stats: tuple[Any, Any], asked: Any, own: Any, eps: float
) -> Normalized:
    """Return the residuals, with ``own = (mean, rstd)`` and given running ``stats``."""
    mean, rstd = own
    fixed = stats[0] is not None
    saved = (None, None) if fixed else own

    def kernel(g: Tensor, mask: list[bool]) -> Any:
        return backward(g, x, weight, *stats, *saved, not fixed, eps, mask)

    wanted = [a is not None for a in asked]
    return Normalized(batch_layout(x), x, mean, rstd, weight, kernel, x.dtype, wanted)


def training_operators(
    wanted: Any, x: Tensor, weight: Any, bias: Any, outs: Any, eps: float
) -> tuple[Any, Any, Any]:
    """Return the operators from input, weight and bias with statistics of the input."""
    own = normalized(x, weight, (None, None), wanted[:3], outs[1:3], eps)
    return (
        InputDerivative(own),
        None if weight is None else WeightDerivative(own),
        None if bias is None else BiasDerivative(own, bias),
    )


def fixed_operators(
    wanted: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> list[Any]:
    """Return the operators of ``(x - mean) (var + eps)^(-1/2) weight + bias``.

    With ``r = (var + eps)^(-1/2)`` a change of ``mean`` is one of the bias by ``-r
    weight dmean``, a change of ``var`` one of the weight by ``-1/2 r^2 weight dvar``.
    """
    stats, saved = (mean, var), (mean, rstd := torch.rsqrt(var + eps))
    own = normalized(x, weight, stats, wanted[:3], saved, eps)
    operators: list[Any] = [
        FixedInputDerivative(own),
        None if weight is None else WeightDerivative(own),
        None if bias is None else BiasDerivative(own, bias),
    ]
    if wanted[3] or wanted[4]:
        own = normalized(x, weight, stats, (None, wanted[4], wanted[3]), saved, eps)
        factor = rstd if weight is None else rstd * weight
        shape = mean.shape
        of_mean = Scale(-factor, shape, shape)
        of_var = Scale(factor * rstd * -0.5, shape, shape)
        operators.append(Composition(BiasDerivative(own, mean), of_mean))
        operators.append(Composition(WeightDerivative(own), of_var))
    return operators


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


def fixed_linearize(
    wanted: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    eps: float,
) -> Any:
    """Affine in the input."""
    outs = with_fixed_stats(x, weight, bias, mean, var, momentum, eps)
    return outs, fixed_operators(wanted, x, weight, bias, mean, var, eps)


def batch_norm_linearize(
    wanted: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """The update of the running statistics has no derivative, as in PyTorch.

    The kernel writes it into plain tensors only; others are handles of outer levels.
    """
    if training and mean is not None and not are_plain(x, mean, var):
        return NotImplemented
    outs = torch.native_batch_norm(x, weight, bias, mean, var, training, momentum, eps)
    if training:
        return outs, training_operators(wanted, x, weight, bias, outs, eps)
    return outs, fixed_operators(wanted, x, weight, bias, mean, var, eps)


def functional_decompose(
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Normalize; the new running statistics are returned.

    The running variance is the unbiased one.
    """
    if not training:
        stats = (running_mean, running_var)
        outs = with_fixed_stats(x, weight, bias, *stats, momentum, eps)
        return *outs, running_mean.clone(), running_var.clone()
    out, mean, rstd = without_stats(x, weight, bias, True, momentum, eps)
    count = x.numel() // max(x.shape[1], 1)
    var = torch.clamp(torch.pow(rstd.detach(), -2) - eps, min=0)
    unbiased = var * (momentum * count / max(count - 1, 1))
    new_mean = running_mean * (1 - momentum) + mean.detach() * momentum
    return out, mean, rstd, new_mean, running_var * (1 - momentum) + unbiased


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
    stats = (running_mean, running_var)
    if not training:
        return with_fixed_stats(x, weight, bias, *stats, momentum, eps)
    if running_mean is None:
        return without_stats(x, weight, bias, True, momentum, eps)
    *outs, mean, var = functional_decompose(
        x, weight, bias, *stats, True, momentum, eps
    )
    running_mean.copy_(mean)
    running_var.copy_(var)
    return outs


def reserved(decompose: Callable[..., Any], training: bool) -> Callable[..., Any]:
    """Insert the flag behind the statistics, and a reserve for cudnn into the results.

    The reserve is for cudnn's own backward, which is not used.
    """

    def with_reserve(x: Tensor, *args: Any) -> Any:
        outs = decompose(x, *args[:4], training, *args[4:])
        return *outs[:3], x.new_empty(0, dtype=torch.uint8), *outs[3:]

    return with_reserve


def cudnn_decompose(x: Tensor, *args: Any) -> Any:
    """Batch norm whose flag is an argument, with a reserve."""
    return *batch_norm_decompose(x, *args), x.new_empty(0, dtype=torch.uint8)


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
    if not train:
        mean, rstd = running_mean, torch.rsqrt(running_var + eps)
    layout, shape = batch_layout(x), (x.shape[1],)
    return backward_by_parts(
        layout, g, x, mean, rstd, weight, mask, shape, fixed=not train
    )


RECORDS = (
    Record(without_stats, no_stats_batch, no_stats_linearize),
    Record(with_fixed_stats, fixed_batch, fixed_linearize),
    Record(backward, backward_batch, decompose=backward_decompose),
    Record(
        aten._native_batch_norm_legit_functional.default, decompose=functional_decompose
    ),
    Record(
        aten.native_batch_norm.default,
        linearize=batch_norm_linearize,
        decompose=batch_norm_decompose,
    ),
    Record(aten._native_batch_norm_legit.default, decompose=batch_norm_decompose),
    Record(aten.cudnn_batch_norm.default, decompose=cudnn_decompose),
    Record(
        aten._batch_norm_with_update.default,
        decompose=reserved(batch_norm_decompose, True),
    ),
    Record(
        aten._batch_norm_with_update_functional.default,
        decompose=reserved(functional_decompose, True),
    ),
    Record(
        aten._batch_norm_no_update.default,
        decompose=reserved(batch_norm_decompose, False),
    ),
)
