"""What the readings share: arguments of a call, and functions seen through views."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import Atom, Form, OpaqueError, Term, labels_in
from jaxtorch.staging.multilinear.reading import (
    Reader,
    covers,
    is_atom,
    is_unstructured,
)

aten = torch.ops.aten


def shape_of(node: Any) -> list[int]:
    """Return the shape of a node."""
    return list(node.meta["val"].shape)


def rank_of(node: Any) -> int:
    """Return the number of dims of a node."""
    rank: int = node.meta["val"].dim()
    return rank


def argument(node: fx.Node, place: int, default: Any) -> Any:
    """Return a positional argument, or its default."""
    return node.args[place] if len(node.args) > place else default


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, (int, float)) and value - value == 0


def mapped(reader: Reader, source: Any, make: Callable[[Any], Any]) -> Form:
    """A function of the elements of a node: it sees through views and broadcasts."""
    form = reader.of(source)
    if len(form) != 1 or len(form[0].factors) != 1 or form[0].coef != 1:
        form = reader.atom(source)
    if not form:
        raise OpaqueError  # no element
    term = form[0]
    if not term.is_dense:
        raise OpaqueError
    atom = term.atoms[0]
    if not set(labels_in(atom)) <= term.free:
        raise OpaqueError
    return (Term(1, (Atom(make(atom.source), atom.axes),), term.axes),)


def times(reader: Reader, node: Any, first: Any, factor: Form) -> Form:
    """A structured tensor times the form of a derived one; both broadcast."""
    form = reader.of(first)
    if covers(factor, node) and all(is_unstructured(term) for term in form):
        form = reader.computed(first, form)
    if is_atom(form) and is_atom(factor):
        raise OpaqueError
    rank = rank_of(node)
    names = range(rank - rank_of(first), rank)
    others = range(rank - len(factor[0].axes), rank)
    product = algebra.contract(form, names, factor, others, list(range(rank)))
    return algebra.expanded(product, shape_of(node))
