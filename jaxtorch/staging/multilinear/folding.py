"""Folding: a part of a product that is the value of a node becomes that node."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxtorch.staging.multilinear.form import (
    Atom,
    Axes,
    Label,
    Term,
    labels_in,
    labels_of,
)

Binding = dict[Label, Label]


def fold(term: Term, names: Mapping[Any, Term]) -> Term:
    """Replace parts of a product by nodes that hold them, the earliest node first."""
    sources = {atom.source for atom in term.atoms}
    for node, meaning in names.items():
        known = all(atom.source in sources for atom in meaning.atoms)
        if len(meaning.factors) < 2 or not known:
            continue
        while (folded := fold_one(term, node, meaning)) is not None:
            term = folded
            sources.add(node)
    return term


def fold_one(term: Term, node: object, meaning: Term) -> Term | None:
    """Replace one occurrence of what a node means; None if there is none."""
    for chosen, binding in matches(meaning.atoms, term.atoms, (), {}):
        rest = list(term.factors)
        for atom in chosen:
            rest.remove(atom)
        outside = labels_of(rest) | term.free
        if any(binding[x] in outside for x in inner_labels(meaning)):
            continue
        axes: Axes = tuple(
            tuple(binding[label] for label in axis) for axis in meaning.axes
        )
        coef = term.coef / meaning.coef
        return Term(coef, (*rest, Atom(node, axes)), term.axes)
    return None


def inner_labels(term: Term) -> set[Label]:
    """Return the labels that a term sums over."""
    return labels_of(term.factors) - term.free


def matches(
    wanted: list[Atom], given: list[Atom], chosen: tuple[Atom, ...], binding: Binding
) -> Iterator[tuple[tuple[Atom, ...], Binding]]:
    """Yield the choices of atoms that have the wanted sources and labels."""
    if not wanted:
        yield chosen, binding
        return
    first, *others = wanted
    for i, atom in enumerate(given):
        if atom.source == first.source:
            bound = bind(first, atom, binding)
            if bound is not None:
                left = given[:i] + given[i + 1 :]
                yield from matches(others, left, (*chosen, atom), bound)


def bind(wanted: Atom, atom: Atom, binding: Binding) -> Binding | None:
    """Match the labels of one atom one to one; None if they disagree."""
    if [len(axis) for axis in wanted.axes] != [len(axis) for axis in atom.axes]:
        return None
    bound = dict(binding)
    for label, other in zip(labels_in(wanted), labels_in(atom), strict=True):
        if bound.setdefault(label, other) is not other:
            return None
    if len(set(bound.values())) < len(bound):
        return None
    return bound
