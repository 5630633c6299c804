"""Convolutions that are products: those of the unfolded input.

What a convolution reads of its input is opaque. Unfolded, the input is a tensor like
any other, in which labels of examples and channels pass through.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from jaxtorch.kernels import OPERATORS
from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import (
    Atom,
    Axis,
    Call,
    Form,
    Label,
    OpaqueError,
    Term,
    labels_in,
    labels_of,
    size_of,
)
from jaxtorch.staging.multilinear.indicators import aligned
from jaxtorch.staging.multilinear.operators.arguments import shape_of
from jaxtorch.staging.multilinear.reading import (
    Reader,
    Reading,
    is_unstructured,
    may_multiply,
)

aten = torch.ops.aten
PER_SAMPLE = OPERATORS["per_sample_convolution_weight"].overload
MOST_DIMS = 2
"""``im2col`` unfolds planes, and lines as planes of one row."""


class Geometry(NamedTuple):
    """How a convolution reads its input; one number for each spatial dim."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    positions: tuple[int, ...]


def geometry_of(
    kernel: Sequence[int], settings: Sequence[Any], positions: Sequence[int]
) -> Geometry:
    """Return the geometry; of the settings one number may be for all dims."""
    rank = len(kernel)
    if rank > MOST_DIMS:
        raise OpaqueError
    stride, padding, dilation = (
        tuple(s) if len(s) == rank else tuple(s) * rank for s in settings
    )
    return Geometry(tuple(kernel), stride, padding, dilation, tuple(positions))


def weight_gradient(reader: Reader, node: Any) -> Form:
    """``dw[go, c, k] = sum over n and t of g[n, go, t] * unfolded x[n, gc, k, t]``."""
    call, place = node.args
    g, x, weight, _, *settings, transposed, _, groups, _ = call.args
    if place == 2:
        return algebra.summed(
            reader.of(g), [d for d in range(len(shape_of(g))) if d != 1], False
        )
    if place != 1 or transposed:
        raise OpaqueError
    count, channels, *positions = shape_of(g)
    geometry = geometry_of(shape_of(weight)[2:], settings, positions)
    split = [count, groups, channels // groups, *positions]
    form = algebra.contract(
        algebra.reshaped(added_up(reader, g), split),
        ["n", "g", "o", *names("t", positions)],
        columns(reader, x, geometry, groups),
        ["n", "g", "c", *names("k", positions), *names("t", positions)],
        ["g", "o", "c", *names("k", positions)],
    )
    return algebra.reshaped(form, shape_of(node))


def per_sample_weight_gradient(reader: Reader, node: Any) -> Form:
    """The same for each of a batch of images [B, N, C, H, W]."""
    x, g, kernel, stride, padding, dilation = node.args
    batch, count, channels, *size = shape_of(x)
    positions = shape_of(g)[3:]
    geometry = geometry_of(kernel, (stride, padding, dilation), positions)
    images = algebra.reshaped(reader.of(x), [batch * count, channels, *size])
    unfolded = algebra.reshaped(
        columns_of(reader, x, images, geometry),
        [batch, count, channels, *kernel, *positions],
    )
    return algebra.contract(
        added_up(reader, g),
        ["b", "n", "o", *names("t", positions)],
        unfolded,
        ["b", "n", "c", *names("k", positions), *names("t", positions)],
        ["b", "o", "c", *names("k", positions)],
    )


def added_up(reader: Reader, g: Any) -> Form:
    """Return the form of a gradient; a sum of dense terms, as of a norm, as one."""
    form = reader.of(g)
    if len(form) > 1 and not may_multiply(form):
        return reader.computed(g, form)
    return form


def of_structured_weight(reader: Reader, node: Any) -> Form:
    """A convolution with a weight that has indicators or broadcast labels."""
    x, weight, bias, *settings, transposed, _, groups = node.args
    form = reader.of(weight)
    if bias is not None or transposed or all(is_unstructured(t) for t in form):
        raise OpaqueError
    count, out, *positions = shape_of(node)
    kernel = shape_of(weight)[2:]
    geometry = geometry_of(kernel, settings, positions)
    product = algebra.contract(
        columns(reader, x, geometry, groups),
        ["n", "g", "c", *names("k", positions), *names("t", positions)],
        algebra.reshaped(form, [groups, out // groups, *shape_of(weight)[1:]]),
        ["g", "o", "c", *names("k", positions)],
        ["n", "g", "o", *names("t", positions)],
    )
    return algebra.reshaped(product, [count, out, *positions])


def names(letter: str, dims: Sequence[Any]) -> list[str]:
    """Return a name for each of some dims."""
    return [f"{letter}{i}" for i in range(len(dims))]


def columns(reader: Reader, x: Any, geometry: Geometry, groups: int) -> Form:
    """Return the unfolded input [N, groups, C / groups, *kernel, *positions]."""
    count, channels = shape_of(x)[:2]
    shape = [count, groups, channels // groups, *geometry.kernel, *geometry.positions]
    unfolded = columns_of(reader, x, reader.of(x), geometry)
    return algebra.reshaped(unfolded, shape)


def columns_of(reader: Reader, x: Any, form: Form, geometry: Geometry) -> Form:
    """Return the unfolded form of images [N, C, *]: [N, C, *kernel, *positions]."""
    rows_of = [rows_in(term) for term in form]
    if None in rows_of:
        shape = [size_of(axis) for axis in form[0].axes]
        form = algebra.reshaped(reader.computed(x, reader.of(x)), shape)
    return tuple(unfolded(term, geometry) for term in form)


def rows_in(term: Term) -> Atom | None:
    """Return the only factor with labels of a position, if it has them all."""
    flat = [label for axis in term.axes[2:] for label in axis]
    having = [f for f in term.factors if labels_of([f]) & set(flat)]
    if len(having) != 1 or not isinstance(having[0], Atom):
        return None
    labels = labels_in(having[0])
    distinct = len(set(labels)) == len(labels) and len(set(flat)) == len(flat)
    return having[0] if distinct and set(flat) <= set(labels) else None


def unfolded(term: Term, geometry: Geometry) -> Term:
    """Unfold the tensor that has the positions; all other factors stay."""
    atom = rows_in(term)
    if atom is None:
        raise OpaqueError
    flat = [label for axis in term.axes[2:] for label in axis]
    rows = [label for label in labels_in(atom) if label not in flat]
    sizes = [size_of(axis) for axis in term.axes[2:]]
    lines = [1] * (MOST_DIMS - len(sizes))
    shape = (1, size_of(rows), *lines, *sizes)
    source = Call(aten.view.default, (aligned(atom, [*rows, *flat]), shape))
    none = [0] * len(lines)
    settings = [
        (*(first for _ in none), *setting)
        for first, setting in zip(
            (1, 1, 0, 1),
            (geometry.kernel, geometry.dilation, geometry.padding, geometry.stride),
            strict=True,
        )
    ]
    source = Call(aten.im2col.default, (source, *settings))
    kernel, positions = new_axes(geometry.kernel), new_axes(geometry.positions)
    axes = (
        (),
        (*rows, *(x for axis in kernel for x in axis)),
        tuple(x for axis in positions for x in axis),
    )
    factors = tuple(Atom(source, axes) if f is atom else f for f in term.factors)
    return Term(term.coef, factors, (*term.axes[:2], *kernel, *positions))


def new_axes(sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Return axes with labels of their own."""
    return tuple((Label(n),) if n > 1 else () for n in sizes)


READINGS: dict[Any, Reading] = {
    aten.convolution_backward.default: weight_gradient,
    aten.convolution.default: of_structured_weight,
    PER_SAMPLE: per_sample_weight_gradient,
}
