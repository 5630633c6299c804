"""Einsum normal form: sums of products of tensors and indicators with index labels.

A value is a tuple of terms (no term: zero). A term is a coefficient times a product of
factors; an axis of the value is a tuple of labels (row-major; ``()`` has size one), a
label that no axis has is summed over, one that no factor has is a broadcast. Nothing
here knows a graph: the algebra works on sources, which are compared by identity or by
their call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any
from zlib import crc32


class OpaqueError(Exception):
    """The normal form can't express an operation: its result stays as it is."""


class Label:
    """An index that runs from 0 to ``size - 1``."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


Axis = tuple[Label, ...]
Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Call:
    """A source computed from others: an operator and its arguments."""

    target: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def hashed(self) -> int:
        """The hash, computed once: calls share their arguments."""
        return hash((self.target, self.args, self.kwargs))

    @cached_property
    def rank(self) -> int:
        """A number that is the same in every run."""
        parts = ",".join(str(rank_of_source(arg)) for arg in self.args)
        return crc32(f"{self.target}({parts})".encode())

    def __hash__(self) -> int:
        return self.hashed


def rank_of_source(source: Any) -> int:
    """Return a number for a source, by which products are put in order."""
    if isinstance(source, Call):
        return source.rank
    if isinstance(source, tuple):
        return crc32(",".join(str(rank_of_source(part)) for part in source).encode())
    return crc32(str(source).encode())


def parts_of(source: Any) -> list[Any]:
    """Return the calls and the nodes that a source is made of, each of them once."""
    found: dict[Any, None] = {}
    waiting = [source]
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple):
            waiting += part
        elif part not in found:
            found[part] = None
            waiting += part.args if isinstance(part, Call) else ()
    return list(found)


@dataclass(frozen=True)
class Atom:
    """An element of a tensor: ``source[axes]``. A label may index two axes."""

    source: Any
    axes: Axes


@dataclass(frozen=True)
class Window:
    """One where ``big == small + offset``, else zero; with equal sizes, a delta."""

    big: Label
    small: Axis
    offset: int = 0

    @property
    def is_delta(self) -> bool:
        """Tell whether two labels are equal."""
        return len(self.small) == 1 and self.big.size == self.small[0].size


def delta(first: Label, second: Label) -> Window:
    """Return the indicator of two labels being equal."""
    return Window(first, (second,))


@dataclass(frozen=True)
class OneHot:
    """One of ``dtype`` where ``label == index[axes]``, else zero."""

    index: Atom
    label: Label
    dtype: Any


Factor = Atom | Window | OneHot


@dataclass(frozen=True)
class Term:
    """A coefficient times a product, summed over the labels that no axis has."""

    coef: float
    factors: tuple[Factor, ...]
    axes: Axes

    @property
    def free(self) -> set[Label]:
        """The labels of the value's axes."""
        return {label for axis in self.axes for label in axis}

    @property
    def atoms(self) -> list[Atom]:
        """The factors that are tensors."""
        return [f for f in self.factors if isinstance(f, Atom)]

    @property
    def is_dense(self) -> bool:
        """Tell whether all factors are tensors."""
        return all(isinstance(f, Atom) for f in self.factors)


Form = tuple[Term, ...]


def labels_in(factor: Factor) -> list[Label]:
    """Return the labels of a factor, with repetitions."""
    if isinstance(factor, Atom):
        return [label for axis in factor.axes for label in axis]
    if isinstance(factor, Window):
        return [factor.big, *factor.small]
    return [*labels_in(factor.index), factor.label]


def labels_of(factors: Iterable[Factor]) -> set[Label]:
    """Return the labels of several factors."""
    return {label for factor in factors for label in labels_in(factor)}


def size_of(labels: Iterable[Label]) -> int:
    """Return how many values the labels run over together."""
    return prod(label.size for label in labels)


def atom_term(source: Any, shape: Sequence[int]) -> Term:
    """Return the term that stands for a tensor as a whole."""
    axes = tuple((Label(n),) if n != 1 else () for n in shape)
    return Term(1, (Atom(source, axes),), axes)


def constant_form(value: float, shape: Sequence[int]) -> Form:
    """Return a tensor of one number."""
    axes = tuple((Label(n),) if n != 1 else () for n in shape)
    return (Term(value, (), axes),) if value else ()


Renaming = Mapping[Label, Axis]


def renamed_axes(axes: Axes, names: Renaming) -> Axes:
    """Replace labels in axes; a label may become several."""
    return tuple(
        tuple(new for label in axis for new in names.get(label, (label,)))
        for axis in axes
    )


def single(label: Label, names: Renaming) -> Label:
    """Replace a label by one label."""
    axis = names.get(label, (label,))
    if len(axis) != 1:
        raise OpaqueError
    return axis[0]


def renamed_factor(factor: Factor, names: Renaming) -> Factor:
    """Replace labels in a factor; an indicator that is split is opaque."""
    if isinstance(factor, Atom):
        return Atom(factor.source, renamed_axes(factor.axes, names))
    if isinstance(factor, Window):
        (small,) = renamed_axes((factor.small,), names)
        return Window(single(factor.big, names), small, factor.offset)
    index = Atom(factor.index.source, renamed_axes(factor.index.axes, names))
    return OneHot(index, single(factor.label, names), factor.dtype)


def renamed(term: Term, names: Renaming) -> Term:
    """Replace labels in a term."""
    factors = tuple(renamed_factor(f, names) for f in term.factors)
    return Term(term.coef, factors, renamed_axes(term.axes, names))


def fresh(term: Term) -> Term:
    """Return the term with labels of its own."""
    labels = labels_of(term.factors) | term.free
    return renamed(term, {label: (Label(label.size),) for label in labels})


def split(term: Term, label: Label, outer: int) -> tuple[Term, Axis]:
    """Split a label into two, and with it the labels that a delta ties to it."""
    if label.size % outer:
        raise OpaqueError
    tied = {label}
    deltas = [f for f in term.factors if isinstance(f, Window) and f.is_delta]
    while True:
        more = {x for d in deltas for x in labels_in(d) if {*labels_in(d)} & tied}
        if more <= tied:
            break
        tied |= more
    parts = {x: (Label(outer), Label(label.size // outer)) for x in tied}
    factors: list[Factor] = []
    for factor in term.factors:
        if isinstance(factor, Window) and factor.is_delta and factor.big in tied:
            pairs = zip(parts[factor.big], parts[factor.small[0]], strict=True)
            factors += [delta(a, b) for a, b in pairs]
        else:
            factors.append(renamed_factor(factor, parts))
    axes = renamed_axes(term.axes, parts)
    return Term(term.coef, tuple(factors), axes), parts[label]
