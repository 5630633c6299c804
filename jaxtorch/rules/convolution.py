"""Convolution: one trilinear form, its two backward maps, and how examples fold in.

Examples that share the weight fold into N, examples that share the input fold into the
output channels, and where both differ each example is a group of channels or a matrix
product of unfolded columns.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.convolution import (
    ChannelBroadcast,
    Convolution,
    ConvolutionForm,
    Part,
    full,
)
from jaxtorch.linear.fan import Fan
from jaxtorch.linear.operator import Transposed
from jaxtorch.rules import fast
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def example_shape(value: Tensor, dim: int | None) -> list[int]:
    """Return the shape without the batch dim."""
    shape = list(value.shape)
    if dim is not None:
        del shape[dim]
    return shape


def front(dim: int | None) -> int | None:
    """Return the batch dim after it was moved to the front."""
    return None if dim is None else 0


def fold_examples(value: Tensor, dim: int, channel: int, groups: int = 1) -> Tensor:
    """Fold the batch dim into a channel dim, behind the dim of groups."""
    if groups == 1:
        return value.movedim(dim, channel).flatten(channel, channel + 1)
    value = value.movedim(dim, 0)
    per_group = value.shape[channel + 1] // groups
    value = torch.unflatten(value, channel + 1, (groups, per_group))
    return value.movedim(0, channel + 1).flatten(channel, channel + 2)


def unfold_examples(
    value: Tensor, size: int, channel: int, groups: int = 1
) -> tuple[Tensor, int]:
    """Undo ``fold_examples``; returns the value and its batch dim."""
    per_group = value.shape[channel] // (groups * size)
    if groups == 1:
        return torch.unflatten(value, channel, (size, per_group)), channel
    value = torch.unflatten(value, channel, (groups, size, per_group))
    return value.movedim(channel + 1, 0).flatten(channel + 1, channel + 2), 0


def prefers_columns(form: ConvolutionForm, examples: int) -> bool:
    """Tell whether a matrix product of columns beats a group for each example.

    A group for each example is 2 to 5 times faster on the CPU as long as the columns
    [C * kernel, positions] are the largest operand. Where the weight [O, C * kernel] is
    larger, that is where an example has no more positions than output channels,
    unfolding costs little and the matrix product is up to 2.5 times faster.
    """
    positions = examples * math.prod(form.small_size)
    return unfolds(form) and positions <= form.weight_like.shape[0]


def goes_alone(form: ConvolutionForm, size: int, big: Tensor, examples: int) -> bool:
    """Tell whether a call for each example beats a group for each example.

    Groups must be copied together, which on the CPU takes up to as long as convolving
    and hinders its blocking: with N of 16 and more separate calls are 1.3 to 4 times
    faster. They cost about 20 us each, nothing beside 100 million operations; not so
    many that a traced graph grows out of hand.
    """
    work = 2 * examples * math.prod(form.small_size) * form.weight_like.numel()
    return big.is_cpu and examples > 1 and size <= 64 and work >= 100_000_000


def unfolds(form: ConvolutionForm) -> bool:
    """Tell whether the columns of the form can be written with im2col."""
    return len(form.stride) == 2 and form.groups == 1 and not form.overhangs


def columns_of(form: ConvolutionForm, big: Tensor) -> Tensor:
    """Unfold [B, N, C, *] to columns [B, N, C * kernel, positions]."""
    columns: Tensor = aten.im2col.default(
        big.flatten(0, 1),
        form.weight_like.shape[2:],
        form.dilation,
        form.padding,
        form.stride,
    )
    return torch.unflatten(columns, 0, big.shape[:2])


def columns_to_small(form: ConvolutionForm, big: Tensor, weight: Tensor) -> Tensor:
    """``small[b, n] = weight[b] @ columns[b, n]``."""
    out = torch.matmul(weight.flatten(2).unsqueeze(1), columns_of(form, big))
    return torch.unflatten(out, 3, form.small_size)


def columns_to_big(form: ConvolutionForm, small: Tensor, weight: Tensor) -> Tensor:
    """Add the columns ``weight[b].T @ small[b, n]`` where they were taken from."""
    columns = torch.matmul(weight.flatten(2).mT.unsqueeze(1), small.flatten(3))
    out: Tensor = aten.col2im.default(
        columns.flatten(0, 1),
        form.big_size,
        form.weight_like.shape[2:],
        form.dilation,
        form.padding,
        form.stride,
    )
    return torch.unflatten(out, 0, small.shape[:2])


def columns_to_weight(form: ConvolutionForm, big: Tensor, small: Tensor) -> Tensor:
    """``weight[b] = sum over n of small[b, n] @ columns[b, n].T``."""
    out = torch.matmul(small.flatten(3), columns_of(form, big).mT)
    out = out.squeeze(1) if out.shape[1] == 1 else out.sum(1)
    return torch.unflatten(out, 2, form.weight_like.shape[1:])


def form_of(
    x: Sequence[int], out: Sequence[int], weight: Tensor, settings: Sequence[Any]
) -> ConvolutionForm:
    """Return the form of a convolution of an ``x`` to an ``out`` of these shapes."""
    stride, padding, dilation, transposed, _, groups = settings
    big, small = (out, x) if transposed else (x, out)
    return ConvolutionForm(
        stride, padding, dilation, groups, big[2:], small[2:], weight
    )


def convolution_linearize(
    wanted: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any
) -> Any:
    """``T(x, w, .)`` is linear in the input and in the weight."""
    out = torch.convolution(x, weight, bias, *settings)
    form = form_of(x.shape, out.shape, weight, settings)
    outer, inner = (Part.BIG, Part.SMALL) if settings[3] else (Part.SMALL, Part.BIG)
    return out, (
        wanted[0] and Convolution(form, inner, outer, weight),
        wanted[1] and Convolution(form, Part.WEIGHT, outer, x),
        wanted[2] and ChannelBroadcast(out.shape),
    )


def convolution_backward_linearize(
    wanted: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    *settings_and_mask: Any,
) -> Any:
    """``T(., w, g)`` and ``T(x, ., g)`` are linear in the gradient and in the other."""
    out = aten.convolution_backward.default(
        grad, x, weight, bias_sizes, *settings_and_mask
    )
    *settings, mask = settings_and_mask
    form = form_of(x.shape, grad.shape, weight, settings)
    outer, inner = (Part.BIG, Part.SMALL) if settings[3] else (Part.SMALL, Part.BIG)
    from_grad = (
        Convolution(form, outer, inner, weight) if mask[0] else None,
        Convolution(form, outer, Part.WEIGHT, x) if mask[1] else None,
        Transposed(ChannelBroadcast(grad.shape)) if mask[2] else None,
    )
    from_x = Convolution(form, inner, Part.WEIGHT, grad) if mask[1] else None
    from_weight = Convolution(form, Part.WEIGHT, inner, grad) if mask[0] else None
    return out, (
        Fan(from_grad),
        Fan((None, from_x, None)),
        Fan((from_weight, None, None)),
    )


def convolution_batch(
    size: int,
    dims: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, int | None]:
    """Fold the examples into N, the output channels, or the groups."""
    x_dim, weight_dim, bias_dim = dims[:3]
    if size == 0:
        return empty_convolution(dims, x, weight, bias, settings), 0
    if weight_dim is not None:
        bias = bias if bias is None else batched_at_front(bias, bias_dim, size)
        fold = fold_weight if x_dim is None else fold_both
        return fold(size, x, x_dim, weight.movedim(weight_dim, 0), bias, settings)
    shared = bias if bias_dim is None else None
    if x_dim is None:
        out, out_dim = torch.convolution(x, weight, shared, *settings), None
    else:
        x = x if x_dim == 0 else x.movedim(x_dim, 0)
        out = torch.convolution(x.flatten(0, 1), weight, shared, *settings)
        out, out_dim = torch.unflatten(out, 0, x.shape[:2]), 0
    if bias is not None and bias_dim is not None:
        bias = bias.movedim(bias_dim, 0).unsqueeze(1)
        return out + bias.reshape(*bias.shape, *[1] * (weight.dim() - 2)), 0
    return out, out_dim


def fold_weight(
    size: int, x: Tensor, x_dim: None, weight: Tensor, bias: Any, settings: Any
) -> tuple[Tensor, int]:
    """Convolve a shared input with a weight and a bias [B, C] for each example."""
    transposed, groups = settings[3], settings[5]
    if transposed:
        weight = fold_examples(weight, 0, 1)
    else:
        weight = fold_examples(weight, 0, 0, groups)
    if bias is not None:
        bias = fold_examples(bias, 0, 0, groups)
    out = torch.convolution(x, weight, bias, *settings)
    return unfold_examples(out, size, 1, groups)


def fold_both(
    size: int, x: Tensor, x_dim: int, weight: Tensor, bias: Any, settings: Any
) -> tuple[Tensor, int]:
    """Convolve each example with its own weight and bias."""
    stride, padding, dilation, transposed, output_padding, groups = settings
    shape = example_shape(x, x_dim)
    out_shape = (0, 0, *output_size(shape[2:], weight.shape[3:], settings))
    form = form_of(shape, out_shape, weight.select(0, 0), settings)
    # A group with one channel is a depthwise convolution, 4 times slower.
    one = not transposed and form.weight_like.shape[1] == 1 and unfolds(form)
    if one or prefers_columns(form, shape[0]):
        columns = columns_to_big if transposed else columns_to_small
        out = columns(form, x.movedim(x_dim, 0), weight)
        return (out if bias is None else out + bias[:, None, :, None, None]), 0
    if goes_alone(form, size, x, shape[0]):
        biases = [None] * size if bias is None else bias.unbind(0)
        parts = zip(x.unbind(x_dim), weight.unbind(0), biases, strict=True)
        return torch.stack([torch.convolution(*p, *settings) for p in parts]), 0
    out = torch.convolution(
        fold_examples(x, x_dim, 1),
        weight.flatten(0, 1),
        bias if bias is None else bias.flatten(),
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups * size,
    )
    return unfold_examples(out, size, 1)


def output_size(
    lengths: Sequence[int], kernel: Sequence[int], settings: Any
) -> list[int]:
    """Return the spatial size of the output of a convolution."""
    stride, padding, dilation, transposed, output_padding, _ = settings
    rank = len(lengths)
    sizes = []
    for n, k, step, pad, hole, more in zip(
        lengths,
        kernel,
        full(stride, rank),
        full(padding, rank),
        full(dilation, rank),
        full(output_padding, rank),
        strict=True,
    ):
        reach = hole * (k - 1) + 1
        if transposed:
            sizes.append((n - 1) * step - 2 * pad + reach + more)
        else:
            sizes.append((n + 2 * pad - reach) // step + 1)
    return sizes


def empty_convolution(
    dims: Any, x: Tensor, weight: Tensor, bias: Any, settings: Any
) -> Tensor:
    """Return the result for a batch of no examples: convolve one example of zeros."""
    x = x.new_zeros(example_shape(x, dims[0]))
    weight = weight.new_zeros(example_shape(weight, dims[1]))
    out = torch.convolution(x, weight, None, *settings)
    return out.new_empty(0, *out.shape)


def convolution_backward_batch(
    size: int,
    dims: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    *settings_and_mask: Any,
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """Batch the two maps and the sum for the bias each for itself."""
    *settings, mask = settings_and_mask
    stride, padding, dilation, transposed, _, groups = settings
    grad_dim, x_dim, weight_dim = dims[:3]
    if weight_dim is not None:
        weight = weight.movedim(weight_dim, 0)
    weight_like = weight if weight_dim is None else weight.new_empty(weight.shape[1:])
    x_shape = example_shape(x, x_dim)
    grad_shape = example_shape(grad, grad_dim)
    form = form_of(x_shape, grad_shape, weight_like, settings)
    outs: list[Any] = [None, None, None]
    out_dims: list[int | None] = [None, None, None]
    if mask[0]:
        more = [0] * len(form.slack) if transposed else form.slack
        back = (stride, padding, dilation, not transposed, more, groups)
        value = grad if grad_dim is None else grad.movedim(grad_dim, 0)
        own = (front(grad_dim), front(weight_dim), None)
        out, out_dims[0] = convolution_batch(size, own, value, weight, None, *back)
        outs[0] = form.crop(out) if transposed else out
    if mask[1]:
        parts = ((x, x_dim), (grad, grad_dim))
        big, small = reversed(parts) if transposed else parts
        outs[1], out_dims[1] = weight_batch(form, size, *big, *small)
    if mask[2]:
        value = grad if grad_dim is None else grad.movedim(grad_dim, 0)
        first = 0 if grad_dim is None else 1
        outs[2] = value.sum([first, *range(first + 2, value.dim())])
        out_dims[2] = front(grad_dim)
    return tuple(outs), tuple(out_dims)


def weight_batch(
    form: ConvolutionForm,
    size: int,
    big: Tensor,
    big_dim: int | None,
    small: Tensor,
    small_dim: int | None,
) -> tuple[Tensor, int | None]:
    """Fold the examples into the input channels, the output channels, or the groups."""
    like, groups = form.weight_like, form.groups
    out_channels, in_channels, *kernel = like.shape
    if size == 0:
        return like.new_empty(0, *like.shape), 0
    if big_dim is None and small_dim is None:
        return form.to_weight(big, small), None
    if small_dim is None:
        big = fold_examples(big, big_dim or 0, 1, groups)
        like = like.new_empty(out_channels, size * in_channels, *kernel)
        return unfold_examples(form.folded(like, groups).to_weight(big, small), size, 1)
    if big_dim is None:
        like = like.new_empty(size * out_channels, in_channels, *kernel)
        small = fold_examples(small, small_dim, 1, groups)
        out = form.folded(like, groups).to_weight(big, small)
        return unfold_examples(out, size, 0, groups)
    own = weights_by_kernel(form, big, big_dim, small, small_dim)
    if own is not None:
        return own, 0
    count = example_shape(big, big_dim)[0]
    if goes_alone(form, size, big, count):
        pairs = zip(big.unbind(big_dim), small.unbind(small_dim), strict=True)
        return torch.stack([form.to_weight(*pair) for pair in pairs]), 0
    if prefers_columns(form, count):
        big, small = big.movedim(big_dim, 0), small.movedim(small_dim, 0)
        return columns_to_weight(form, big, small), 0
    like = like.new_empty(size * out_channels, in_channels, *kernel)
    big, small = fold_examples(big, big_dim, 1), fold_examples(small, small_dim, 1)
    out = form.folded(like, groups * size).to_weight(big, small)
    return unfold_examples(out, size, 0)


def weights_by_kernel(
    form: ConvolutionForm, big: Tensor, big_dim: int, small: Tensor, small_dim: int
) -> Tensor | None:
    """Return the weight's gradient for each example from one kernel, where it runs."""
    if not (fast.runs(big, small) and unfolds(form)):
        return None
    kernel = form.weight_like.shape[2:]
    parts = big.movedim(big_dim, 0), small.movedim(small_dim, 0)
    geometry = (kernel, form.stride, form.padding, form.dilation)
    return fast.convolution_weights(*parts, *geometry)


def conv_tbc_decompose(x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """Convolve [T, B, C] in time as a convolution of [B, C, T]."""
    out = torch.convolution(
        x.permute(1, 2, 0),
        weight.permute(2, 1, 0),
        bias,
        [1],
        [pad],
        [1],
        False,
        [0],
        1,
    )
    return out.permute(2, 0, 1)


RECORDS = (
    Record(aten.convolution.default, convolution_batch, convolution_linearize),
    Record(
        aten.convolution_backward.default,
        convolution_backward_batch,
        convolution_backward_linearize,
    ),
    Record(aten.conv_tbc.default, decompose=conv_tbc_decompose),
)
