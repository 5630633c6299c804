"""Derivatives of activations, masks, and other functions of each element."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear.form import Call, Form, OpaqueError
from jaxtorch.staging.multilinear.operators.arguments import mapped, times
from jaxtorch.staging.multilinear.reading import Reader, Reading, covers

aten = torch.ops.aten


def tanh_slope(reader: Reader, node: Any) -> Form:
    """``g * (1 - t * t)``."""
    g, t = node.args

    def slope(t: Any) -> Call:
        return Call(aten.rsub.Scalar, (Call(aten.mul.Tensor, (t, t)), 1))

    return times(reader, node, g, mapped(reader, t, slope))


def sigmoid_slope(reader: Reader, node: Any) -> Form:
    """``g * s * (1 - s)``."""
    g, s = node.args

    def slope(s: Any) -> Call:
        return Call(aten.mul.Tensor, (s, Call(aten.rsub.Scalar, (s, 1))))

    return times(reader, node, g, mapped(reader, s, slope))


def elementwise_slope(reader: Reader, node: Any) -> Form:
    """``op(g, x, ...)`` that is linear in ``g``, elementwise: ``g * op(1, x, ...)``."""
    g, x, *rest = node.args
    kwargs = tuple(node.kwargs.items())

    def slope(x: Any) -> Call:
        ones = Call(aten.ones_like.default, (x,))
        return Call(node.target, (ones, x, *rest), kwargs)

    return times(reader, node, g, mapped(reader, x, slope))


def keep_where(reader: Reader, node: Any) -> Form:
    """``where(mask, g, 0)`` and ``masked_fill(g, mask, 0)``: a product with a mask."""
    inverted = node.target is not aten.where.self
    mask, g, other = node.args
    if inverted:
        g, mask = mask, g
    if other != 0 if inverted else reader.of(other) != ():
        raise OpaqueError
    dtype = node.meta["val"].dtype

    def as_number(mask: Any) -> Call:
        if inverted:
            mask = Call(aten.bitwise_not.default, (mask,))
        return Call(aten._to_copy.default, (mask,), (("dtype", dtype),))

    return times(reader, node, g, mapped(reader, mask, as_number))


def function(reader: Reader, node: Any) -> Form:
    """A function of each element of a tensor that is broadcast afterwards."""
    x, *rest = node.args
    if any(isinstance(value, fx.Node) for value in rest):
        raise OpaqueError
    kwargs = tuple(node.kwargs.items())
    form = mapped(reader, x, lambda x: Call(node.target, (x, *rest), kwargs))
    if covers(form, node):
        raise OpaqueError
    return form


SLOPES = (
    aten.threshold_backward.default,
    aten.gelu_backward.default,
    aten.silu_backward.default,
    aten.leaky_relu_backward.default,
    aten.hardtanh_backward.default,
    aten.softplus_backward.default,
    aten.mish_backward.default,
    aten.hardswish_backward.default,
    aten.hardsigmoid_backward.default,
)


FUNCTIONS = (
    aten.tanh.default,
    aten.sigmoid.default,
    aten.sin.default,
    aten.cos.default,
    aten.exp.default,
    aten.log.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.abs.default,
    aten.sgn.default,
    aten.relu.default,
    aten.bitwise_not.default,
    aten.logical_not.default,
    aten.eq.Scalar,
    aten.ne.Scalar,
    aten.gt.Scalar,
    aten.ge.Scalar,
    aten.lt.Scalar,
    aten.le.Scalar,
    aten.pow.Tensor_Scalar,
    aten.add.Tensor,
    aten.rsub.Scalar,
    aten._to_copy.default,
)


READINGS: dict[Any, Reading] = {
    aten.tanh_backward.default: tanh_slope,
    aten.sigmoid_backward.default: sigmoid_slope,
    **dict.fromkeys(SLOPES, elementwise_slope),
    aten.where.self: keep_where,
    aten.masked_fill.Scalar: keep_where,
}
