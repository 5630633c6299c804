"""Derivatives of activations, masks, and other functions of each element."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import (
    Atom,
    Call,
    Factor,
    Form,
    OpaqueError,
    Term,
    labels_in,
)
from jaxtorch.staging.multilinear.indicators import aligned
from jaxtorch.staging.multilinear.operators.arguments import (
    mapped,
    rank_of,
    shape_of,
    times,
)
from jaxtorch.staging.multilinear.reading import Reader, Reading, covers, is_atom

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

    factor = mapped(reader, x, slope)
    form = times(reader, node, g, factor)
    if node.target not in CUTS:
        return form
    return tuple(cut(term, factor[0].atoms[0].source) for term in form)


def cut(term: Term, source: Call) -> Term:
    """Apply a slope of zeros and ones to the tensors that have all of its labels.

    It is not multiplied with these: where it is zero they may be infinite.
    """
    slopes = [atom for atom in term.atoms if atom.source is source]
    if len(slopes) != 1:
        return term
    _, x, *rest = source.args
    wanted = set(labels_in(slopes[0]))
    factors: list[Factor] = []
    for factor in term.factors:
        if factor is slopes[0]:
            continue
        if isinstance(factor, Atom) and wanted <= set(labels_in(factor)):
            order = labels_in(factor)
            held = aligned(Atom(x, slopes[0].axes), order)
            args = (aligned(factor, order), held, *rest)
            made = Call(source.target, args, source.kwargs)
            factor = Atom(made, tuple((label,) for label in order))
        factors.append(factor)
    if all(f in term.factors for f in factors):
        return term  # no tensor has all labels of the slope
    return Term(term.coef, tuple(factors), term.axes)


def keep_where(reader: Reader, node: Any) -> Form:
    """``where(mask, g, 0)`` and ``masked_fill(g, mask, 0)``.

    The mask is applied to the tensors that have all of its labels. It is not multiplied
    with: what it hides may be infinite.
    """
    first, second, other = node.args
    if node.target is aten.where.self:
        g, mask, zero, keeps = second, first, reader.of(other) == (), True
    else:
        g, mask, zero, keeps = first, second, other == 0, False
    if not zero or is_atom(reader.of(g)):
        raise OpaqueError
    factor = mapped(reader, mask, lambda mask: mask)
    rank = rank_of(node)
    names = range(rank - rank_of(g), rank)
    others = range(rank - len(factor[0].axes), rank)
    form = algebra.contract(reader.of(g), names, factor, others, list(range(rank)))
    source = factor[0].atoms[0].source
    hidden = tuple(with_mask(term, source, keeps) for term in form)
    return algebra.expanded(hidden, shape_of(node))


def with_mask(term: Term, source: Any, keeps: bool) -> Term:
    """Apply the factor that is a mask to the tensors that have all of its labels."""
    masks = [atom for atom in term.atoms if atom.source is source]
    if len(masks) != 1:
        raise OpaqueError
    wanted = set(labels_in(masks[0]))
    factors: list[Factor] = []
    for factor in term.factors:
        if factor is masks[0]:
            continue
        if isinstance(factor, Atom) and wanted <= set(labels_in(factor)):
            factor = masked(factor, masks[0], keeps)
        factors.append(factor)
    if all(f in term.factors for f in factors):
        raise OpaqueError  # no tensor has all labels of the mask
    return Term(term.coef, tuple(factors), term.axes)


def masked(atom: Atom, mask: Atom, keeps: bool) -> Atom:
    """Return an atom that is zero where a mask hides it."""
    order = labels_in(atom)
    hides: Any = aligned(mask, order)
    if keeps:
        hides = Call(aten.bitwise_not.default, (hides,))
    source = Call(aten.masked_fill.Scalar, (aligned(atom, order), hides, 0))
    return Atom(source, tuple((label,) for label in order))


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


CUTS = (aten.threshold_backward.default, aten.hardtanh_backward.default)
"""Slopes that are zero or one."""
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
