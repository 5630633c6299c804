"""Tensors made of nothing: the identity, uniform ones, counts that are compared."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear.form import (
    Form,
    Label,
    OpaqueError,
    Term,
    Window,
    constant_form,
    delta,
    fresh,
    labels_in,
)
from jaxtorch.staging.multilinear.operators.arguments import mapped, shape_of
from jaxtorch.staging.multilinear.operators.views import same_dtype
from jaxtorch.staging.multilinear.reading import Reader, Reading

aten = torch.ops.aten


COUNTS = {aten.arange.default, aten.arange.start, aten.arange.start_step}


FILLED = {
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
}


ONES = {aten.ones.default, aten.ones_like.default, aten.new_ones.default}


ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default}


def identity(reader: Reader, node: Any) -> Form:
    """The identity matrix is a delta."""
    rows, columns = shape_of(node)
    if rows != columns or rows == 0:
        raise OpaqueError
    if rows == 1:
        return constant_form(1, [1, 1])
    first, second = Label(rows), Label(rows)
    return (Term(1, (delta(first, second),), ((first,), (second,))),)


def fill(reader: Reader, node: Any) -> Form:
    """A tensor of one number."""
    if node.target in FILLED:
        number = node.args[FILLED[node.target]]
    else:
        number = 1 if node.target in ONES else 0
    if not isinstance(number, (int, float)) or number - number != 0:
        raise OpaqueError
    return constant_form(number, shape_of(node))


def count_from(source: Any) -> int | None:
    """Return the first number if a source counts upwards by one."""
    if not isinstance(source, fx.Node) or source.target not in COUNTS:
        return None
    if source.target is aten.arange.default:
        return 0
    numbers = source.args
    if (len(numbers) > 2 and numbers[2] != 1) or not isinstance(numbers[0], int):
        return None
    return numbers[0]


def shifted(a: Label, first: int, b: Label, second: int) -> Window:
    """Return the indicator of ``a + first == b + second``."""
    offset = second - first
    if offset >= 0 and offset + b.size <= a.size:
        return Window(a, (b,), offset)
    if offset <= 0 and a.size - offset <= b.size:
        return Window(b, (a,), -offset)
    raise OpaqueError


def same_position(reader: Reader, node: Any) -> Form:
    """Where two counts agree: ``arange(n)[:, None] == arange(n)``."""
    if node.meta["val"].dim() != 2:
        raise OpaqueError
    terms = [fresh(mapped(reader, arg, lambda x: x)[0]) for arg in node.args]
    atoms = [term.atoms[0] for term in terms]
    starts = [count_from(atom.source) for atom in atoms]
    labels = [labels_in(atom) for atom in atoms]
    if starts[0] is None or starts[1] is None or [len(x) for x in labels] != [1, 1]:
        raise OpaqueError
    (first,), (second,) = labels
    window = shifted(first, starts[0], second, starts[1])
    row, column = (first,), (second,)
    if terms[0].axes != (row, ()) or terms[1].axes not in ((column,), ((), column)):
        raise OpaqueError
    return (Term(1, (window,), (row, column)),)


def as_number(reader: Reader, node: Any) -> Form:
    """An indicator converted to floating point; else a copy to the same dtype."""
    form = reader.of(node.args[0])
    if node.args[0].meta["val"].dtype == torch.bool:
        if all(term.coef == 1 and not term.atoms for term in form):
            return form
    return same_dtype(reader, node)


COMPARISONS: dict[Any, Reading] = {aten.eq.Tensor: same_position}
READINGS: dict[Any, Reading] = {
    aten.eye.default: identity,
    **dict.fromkeys((*FILLED, *ONES, *ZEROS), fill),
    aten._to_copy.default: as_number,
}
