"""Layer, rms and group norm and their backward kernels. Not batch norm."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.normalization import (
    BackwardKernel,
    BiasDerivative,
    InputDerivative,
    Layout,
    Normalized,
    WeightDerivative,
    backward_by_parts,
    push_backward,
    push_input,
    shaped,
)
from jaxtorch.rules import fast
from jaxtorch.rules.batching import batched_at_front, rank_of, to_front, tracked
from jaxtorch.rules.record import Record

aten = torch.ops.aten
layer_norm = torch.native_layer_norm
layer_norm_backward = aten.native_layer_norm_backward.default
group_norm = torch.native_group_norm
rms_norm = aten._fused_rms_norm.default
rms_norm_backward = aten._fused_rms_norm_backward.default
group_norm_backward = aten.native_group_norm_backward.default
push_input_fused = fast.fused(push_input)
push_backward_fused = fast.fused(push_backward)


def operators_of(
    wanted: list[bool],
    layout: Layout,
    x: Tensor,
    outs: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    kernel: BackwardKernel,
) -> tuple[Any, Any, Any]:
    """Return the operators from input, weight and bias to (out, mean, rstd)."""
    out, mean, rstd = outs
    own = Normalized(
        layout, x, mean, rstd, weight, kernel, out.dtype, wanted, push_input_fused
    )
    return (
        InputDerivative(own),
        None if weight is None else WeightDerivative(own),
        None if bias is None else BiasDerivative(own, bias),
    )


def backward_push(
    layout: Layout,
    tangents: tuple[Any, ...],
    values: tuple[Any, ...],
    mask: list[bool],
) -> Any:
    """The gradient by the input and its tangent in one kernel.

    Both ``tangents`` and ``values`` are of (g, x, rstd, mean, weight). None where there
    would be no kernel, or where parameters have gradients too: it is decomposed.
    """
    given = [v for v in values if v is not None]
    if mask[0] and not any(mask[1:]) and fast.runs(*given):
        shapes = (layout.split, layout.split, layout.stats, layout.stats, layout.affine)
        own, moves = (
            [
                None if v is None else shaped(v, s)
                for v, s in zip(part, shapes, strict=True)
            ]
            for part in (values, tangents)
        )
        if fast.runs(*[v for v in moves if v is not None]):
            outs = push_backward_fused(*own, *moves, tuple(layout.stats_dims))
            return tuple(shaped(out, values[1].shape) for out in outs)
    return None


def decomposed(*args: Any) -> Any:
    """Let the call be decomposed."""
    return NotImplemented


def affine(
    out: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: tuple[Any, Any],
    shape: Any,
) -> Tensor:
    """Apply weight and bias of which one is batched to a batch of ``out``.

    ``shape`` is that of one example's parameter when it broadcasts with ``out``.
    """
    dtype = out.dtype
    if weight is not None:
        out = out * spread_parameter(weight, dims[0], shape)
    if bias is not None:
        out = out + spread_parameter(bias, dims[1], shape)
    return out if out.dtype == dtype else out.to(dtype)


def spread_parameter(parameter: Tensor, dim: int | None, shape: Any) -> Tensor:
    """Bring a parameter to ``shape``, behind its batch dim if it has one."""
    if dim is None:
        return parameter.reshape(shape)
    parameter = to_front(parameter, dim)
    return parameter.reshape(parameter.shape[0], *shape)


def layer_layout(x: Tensor, normalized_shape: Any) -> Layout:
    """Statistics over the last dims; one weight for each element of those."""
    shape = x.shape
    own = len(normalized_shape)
    lead = len(shape) - own
    dims = list(range(len(shape)))
    stats = list(shape[:lead]) + [1] * own
    return Layout(shape, stats, normalized_shape, dims[lead:], dims[:lead])


def layer_norm_batch(
    size: int, dims: Any, x: Tensor, shape: Any, weight: Any, bias: Any, eps: float
) -> Any:
    """Fold the batch dim into the leading ones; batched parameters come after."""
    dx, _, dw, db = dims[:4]
    if dx is not None:
        x = to_front(x, dx)
    if dw is None and db is None:
        return layer_norm(x, shape, weight, bias, eps), 0
    out, mean, rstd = layer_norm(x, shape, None, None, eps)
    lead = rank_of(x, None if dx is None else 0) - len(shape)
    out = affine(out, weight, bias, (dw, db), [1] * lead + list(shape))
    stats = None if dx is None else 0
    return (out, mean, rstd), (0, stats, stats)


def layer_norm_linearize(
    wanted: Any, x: Tensor, shape: Any, weight: Any, bias: Any, eps: float
) -> Any:
    """See ``InputDerivative``; the fused kernel carries cotangents back."""
    outs = layer_norm(x, shape, weight, bias, eps)
    _, mean, rstd = outs

    def kernel(g: Tensor, mask: list[bool]) -> Any:
        return layer_norm_backward(g, x, shape, mean, rstd, weight, bias, mask)

    asked = [wanted[i] is not None for i in (0, 2, 3)]
    of_x, of_weight, of_bias = operators_of(
        asked, layer_layout(x, shape), x, outs, weight, bias, kernel
    )
    return outs, (of_x, None, of_weight, of_bias)


def layer_norm_backward_batch(
    size: int,
    dims: Any,
    g: Tensor,
    x: Tensor,
    shape: Any,
    mean: Tensor,
    rstd: Tensor,
    weight: Any,
    bias: Any,
    mask: Any,
) -> Any:
    """The kernel on all examples for dx; sums over each example for the parameters."""
    g = batched_at_front(g, dims[0], size)
    x = batched_at_front(x, dims[1], size)
    mean = batched_at_front(mean, dims[3], size)
    rstd = batched_at_front(rstd, dims[4], size)
    dx = dw = db = None
    lead = list(range(1, x.dim() - len(shape)))
    if mask[0]:
        h = g
        if weight is not None and dims[5] is not None:
            h = g * spread_parameter(weight, dims[5], [1] * len(lead) + list(shape))
            weight = None
        dense = [t.contiguous() for t in (h, x, mean, rstd)]
        only = [True, False, False]
        dx = layer_norm_backward(*dense[:2], shape, *dense[2:], weight, None, only)[0]
    if mask[1]:
        product = g * ((x - mean) * rstd)
        dw = torch.sum(product, lead) if lead else product
    if mask[2]:
        db = torch.sum(g, lead) if lead else g
    return (dx, dw, db), 0


def layer_norm_backward_push(tangents: Any, *args: Any) -> Any:
    """See ``backward_push``."""
    g, x, shape, mean, rstd, weight, _, mask = args
    tg, tx, _, tmean, trstd, tweight, _, _ = tangents
    moves = (tg, tx, trstd, tmean, tweight)
    layout = layer_layout(x, shape)
    found = backward_push(layout, moves, (g, x, rstd, mean, weight), mask)
    if found is None:
        return NotImplemented, None
    return (found[0], None, None), (found[1], None, None)


def layer_norm_backward_decompose(
    g: Tensor,
    x: Tensor,
    shape: Any,
    mean: Tensor,
    rstd: Tensor,
    weight: Any,
    bias: Any,
    mask: Any,
) -> Any:
    """The kernel in plain operators."""
    layout = layer_layout(x, shape)
    return backward_by_parts(layout, g, x, mean, rstd, weight, mask, shape)


def rms_norm_batch(
    size: int, dims: Any, x: Tensor, shape: Any, weight: Any, eps: Any
) -> Any:
    """As layer norm."""
    if dims[0] is not None:
        x = to_front(x, dims[0])
    if dims[2] is None:
        return rms_norm(x, shape, weight, eps), 0
    out, rstd = rms_norm(x, shape, None, eps)
    lead = rank_of(x, None if dims[0] is None else 0) - len(shape)
    out = affine(out, weight, None, (dims[2], None), [1] * lead + list(shape))
    return (out, rstd), (0, None if dims[0] is None else 0)


def rms_norm_linearize(
    wanted: Any, x: Tensor, shape: Any, weight: Any, eps: Any
) -> Any:
    """As layer norm without the mean; the backward kernel is there on CUDA only."""
    outs = rms_norm(x, shape, weight, eps)
    out, rstd = outs
    layout = layer_layout(x, shape)

    def kernel(g: Tensor, mask: list[bool]) -> Any:
        if x.is_cuda:
            return rms_norm_backward(g, x, shape, rstd, weight, mask[:2])
        return backward_by_parts(layout, g, x, None, rstd, weight, mask, shape)

    asked = [wanted[0] is not None, wanted[2] is not None, False]
    own = Normalized(
        layout, x, None, rstd, weight, kernel, out.dtype, asked, push_input_fused
    )
    of_weight = None if weight is None else WeightDerivative(own)
    return outs, (InputDerivative(own), None, of_weight)


def rms_norm_backward_batch(
    size: int,
    dims: Any,
    g: Tensor,
    x: Tensor,
    shape: Any,
    rstd: Tensor,
    weight: Any,
    mask: Any,
) -> Any:
    """The kernel on all examples for dx; a sum over each example for the weight."""
    g = batched_at_front(g, dims[0], size)
    x = batched_at_front(x, dims[1], size)
    rstd = batched_at_front(rstd, dims[3], size)
    dx = dw = None
    lead = list(range(1, x.dim() - len(shape)))
    if mask[0]:
        h = g
        if weight is not None and dims[4] is not None:
            h = g * spread_parameter(weight, dims[4], [1] * len(lead) + list(shape))
            weight = None
        h, dense, kept = h.contiguous(), x.contiguous(), rstd.contiguous()
        dx = rms_norm_backward(h, dense, shape, kept, weight, [True, False])[0]
    if mask[1]:
        product = g * (x * rstd)
        dw = torch.sum(product, lead) if lead else product
    return (dx, dw), 0


def rms_norm_backward_push(tangents: Any, *args: Any) -> Any:
    """See ``backward_push``."""
    g, x, shape, rstd, weight, mask = args
    tg, tx, _, trstd, tweight, _ = tangents
    moves = (tg, tx, trstd, None, tweight)
    layout = layer_layout(x, shape)
    found = backward_push(layout, moves, (g, x, rstd, None, weight), mask)
    if found is None:
        return NotImplemented, None
    return (found[0], None), (found[1], None)


def rms_norm_backward_decompose(
    g: Tensor, x: Tensor, shape: Any, rstd: Tensor, weight: Any, mask: Any
) -> Any:
    """The kernel in plain operators."""
    layout = layer_layout(x, shape)
    own = [*mask, False]
    return backward_by_parts(layout, g, x, None, rstd, weight, own, shape)[:2]


def group_layout(x: Tensor, n: int, c: int, hxw: int, group: int) -> Layout:
    """Statistics over the channels of a group and space; one weight per channel."""
    per_group = c // group
    return Layout(
        torch.Size((n, group, per_group, hxw)),
        (n, group, 1, 1),
        (group, per_group, 1),
        [2, 3],
        [0, 3],
    )


def group_norm_batch(
    size: int,
    dims: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    n: int,
    c: int,
    hxw: int,
    group: int,
    eps: float,
) -> Any:
    """Fold the batch dim into N; batched parameters are applied after."""
    d, dw, db = dims[:3]
    whole = n
    if d is not None:
        x = to_front(x, d).flatten(0, 1)
        whole = n * size
    x = x.contiguous()
    if dw is None and db is None:
        outs = group_norm(x, weight, bias, whole, c, hxw, group, eps)
        return [unfold(o, size, n) for o in outs], 0
    out, mean, rstd = group_norm(x, None, None, whole, c, hxw, group, eps)
    if d is not None:
        out, mean, rstd = (unfold(o, size, n) for o in (out, mean, rstd))
    shape = [1, c] + [1] * (x.dim() - 2)
    out = affine(out, weight, bias, (dw, db), shape)
    stats = None if d is None else 0
    return (out, mean, rstd), (0, stats, stats)


def unfold(x: Tensor, size: int, n: int) -> Tensor:
    """Split the batch dim off the first dim again."""
    return x.reshape(size, n, *x.shape[1:])


def group_norm_linearize(
    wanted: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    n: int,
    c: int,
    hxw: int,
    group: int,
    eps: float,
) -> Any:
    """See ``InputDerivative``; the fused kernel carries cotangents back."""
    outs = group_norm(x, weight, bias, n, c, hxw, group, eps)
    _, mean, rstd = outs

    def kernel(g: Tensor, mask: list[bool]) -> Any:
        return group_norm_kernel(
            g.contiguous(), x.contiguous(), mean, rstd, weight, n, c, hxw, group, mask
        )

    asked = [w is not None for w in wanted[:3]]
    layout = group_layout(x, n, c, hxw, group)
    return outs, operators_of(asked, layout, x, outs, weight, bias, kernel)


def group_norm_kernel(
    g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Any, *rest: Any
) -> Any:
    """The kernel, or plain operators where torch.autograd asks for a derivative."""
    if tracked(g, x, weight):
        return group_norm_backward_decompose(g, x, mean, rstd, weight, *rest)
    return group_norm_backward(g, x, mean, rstd, weight, *rest)


def group_norm_backward_batch(
    size: int,
    dims: Any,
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Any,
    n: int,
    c: int,
    hxw: int,
    group: int,
    mask: Any,
) -> Any:
    """The kernel with the batch in N for dx; sums over each example for the others."""
    g = batched_at_front(g, dims[0], size)
    x = batched_at_front(x, dims[1], size)
    mean = batched_at_front(mean, dims[2], size)
    rstd = batched_at_front(rstd, dims[3], size)
    dx = dw = db = None
    if mask[0]:
        h = g
        if weight is not None and dims[4] is not None:
            shape = [1, c] + [1] * (x.dim() - 3)
            h = g * spread_parameter(weight, dims[4], shape)
            weight = None
        folded = [t.flatten(0, 1).contiguous() for t in (h, x, mean, rstd)]
        only = [True, False, False]
        sizes = (size * n, c, hxw, group)
        dx = unfold(group_norm_kernel(*folded, weight, *sizes, only)[0], size, n)
    if mask[1]:
        split = (size, n, group, c // group, hxw)
        g_x = torch.sum((g * x).reshape(split), 4)
        g_1 = torch.sum(g.reshape(split), 4)
        per_group = (g_x - g_1 * mean.unsqueeze(3)) * rstd.unsqueeze(3)
        dw = torch.sum(per_group, 1).reshape(size, c)
    if mask[2]:
        db = torch.sum(g.reshape(size, n, c, hxw), [1, 3])
    return (dx, dw, db), 0


def group_norm_backward_push(tangents: Any, *args: Any) -> Any:
    """See ``backward_push``."""
    g, x, mean, rstd, weight, *sizes, mask = args
    tg, tx, tmean, trstd, tweight = tangents[:5]
    moves = (tg, tx, trstd, tmean, tweight)
    layout = group_layout(x, *sizes)
    found = backward_push(layout, moves, (g, x, rstd, mean, weight), mask)
    if found is None:
        return NotImplemented, None
    return (found[0], None, None), (found[1], None, None)


def group_norm_backward_decompose(
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Any,
    n: int,
    c: int,
    hxw: int,
    group: int,
    mask: Any,
) -> Any:
    """The kernel in plain operators."""
    layout = group_layout(x, n, c, hxw, group)
    return backward_by_parts(layout, g, x, mean, rstd, weight, mask, (c,))


RECORDS = (
    Record(aten.native_layer_norm.default, layer_norm_batch, layer_norm_linearize),
    Record(
        layer_norm_backward,
        layer_norm_backward_batch,
        decomposed,
        layer_norm_backward_decompose,
        push=layer_norm_backward_push,
    ),
    Record(rms_norm, rms_norm_batch, rms_norm_linearize),
    Record(
        rms_norm_backward,
        rms_norm_backward_batch,
        decomposed,
        rms_norm_backward_decompose,
        push=rms_norm_backward_push,
    ),
    Record(aten.native_group_norm.default, group_norm_batch, group_norm_linearize),
    Record(
        group_norm_backward,
        group_norm_backward_batch,
        decomposed,
        group_norm_backward_decompose,
        push=group_norm_backward_push,
    ),
)
