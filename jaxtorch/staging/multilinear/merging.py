"""Merging: fewer factors in a term, and fewer terms in a form.

Tensors that are indexed alike become their product, a label that only one tensor has is
summed at once, and terms that differ in one tensor are added.
"""

from typing import Any

import torch

from jaxtorch.staging.multilinear.form import (
    Atom,
    Axes,
    Call,
    Factor,
    Form,
    Label,
    OneHot,
    Term,
    Window,
    fresh,
    labels_in,
    rank_of_source,
)

aten = torch.ops.aten


def merged(form: Form) -> Form:
    """Merge the factors of each term, then the terms that are alike."""
    terms = [with_fewer_factors(term) for term in form]
    done: list[Term] = []
    for term in terms:
        for i, other in enumerate(done):
            both = added(other, term)
            if both is not None:
                done[i] = both
                break
        else:
            done.append(term)
    return tuple(term for term in done if term.coef)


def with_fewer_factors(term: Term) -> Term:
    """Multiply the tensors that are indexed alike; sum what only one tensor has."""
    alike: dict[Axes, list[Any]] = {}
    factors: list[Factor] = []
    for factor in term.factors:
        if isinstance(factor, Atom):
            alike.setdefault(factor.axes, []).append(factor.source)
        else:
            factors.append(factor)
    if len(alike) + len(factors) < len(term.factors) and len(term.factors) > 1:
        factors += [Atom(product_of(s), axes) for axes, s in alike.items()]
        term = Term(term.coef, tuple(factors), term.axes)
    return with_sums(term) if len(term.factors) > 1 else term


def product_of(sources: list[Any]) -> Any:
    """Return the elementwise product of sources, in an order of its own."""
    product, *rest = sorted(sources, key=rank_of_source)
    for source in rest:
        product = Call(aten.mul.Tensor, (product, source))
    return product


def with_sums(term: Term) -> Term:
    """Sum each tensor over the labels that nothing else has."""
    count: dict[Label, int] = {}
    for factor in term.factors:
        for label in set(labels_in(factor)):
            count[label] = count.get(label, 0) + 1
    free = term.free
    factors: list[Factor] = []
    for factor in term.factors:
        if isinstance(factor, Atom) and len(set(labels_in(factor))) == len(
            labels_in(factor)
        ):
            dims = [
                d
                for d, axis in enumerate(factor.axes)
                if axis and all(count[x] == 1 and x not in free for x in axis)
            ]
            if dims:
                source = Call(aten.sum.dim_IntList, (factor.source, tuple(dims)))
                kept = (a for d, a in enumerate(factor.axes) if d not in dims)
                factor = Atom(source, tuple(kept))
        factors.append(factor)
    return Term(term.coef, tuple(factors), term.axes)


def added(first: Term, second: Term) -> Term | None:
    """Add two terms that are equal up to one tensor and their coefficients."""
    if len(first.factors) != len(second.factors):
        return None
    second = fresh(second)
    names = matched_axes(first.axes, second.axes)
    if names is None:
        return None
    left = list(first.factors)
    others: list[Atom] = []
    for factor in second.factors:
        place = find(factor, left, names)
        if place is not None:
            left.pop(place)
        elif isinstance(factor, Atom) and not others:
            others.append(factor)
        else:
            return None
    if not others:
        return Term(first.coef + second.coef, first.factors, first.axes)
    (mine,), other = left, others[0]
    if not isinstance(mine, Atom):
        return None
    axes = tuple(tuple(names.get(x, x) for x in axis) for axis in other.axes)
    if axes != mine.axes:
        return None
    ratio = second.coef / first.coef
    scaled = (
        other.source if ratio == 1 else Call(aten.mul.Tensor, (other.source, ratio))
    )
    total = Atom(Call(aten.add.Tensor, (mine.source, scaled)), mine.axes)
    factors = tuple(total if f is mine else f for f in first.factors)
    return Term(first.coef, factors, first.axes)


def matched_axes(first: Axes, second: Axes) -> dict[Label, Label] | None:
    """Match the free labels of two terms; None where their axes are split apart."""
    names: dict[Label, Label] = {}
    for one, other in zip(first, second, strict=True):
        if [x.size for x in one] != [x.size for x in other]:
            return None
        names.update(zip(other, one, strict=True))
    return names


def find(factor: Factor, given: list[Factor], names: dict[Label, Label]) -> int | None:
    """Find a factor that is equal under the matched labels, matching more of them."""
    for place, other in enumerate(given):
        if kind_of(factor) != kind_of(other):
            continue
        new: dict[Label, Label] = {}
        for label, wanted in zip(labels_in(factor), labels_in(other), strict=True):
            if names.get(label, new.get(label, wanted)) is not wanted:
                break
            new[label] = wanted
        else:
            taken = {x: y for x, y in names.items() if x not in new}
            if not set(taken.values()) & set(new.values()):
                names.update(new)
                return place
    return None


def kind_of(factor: Factor) -> Any:
    """Return all of a factor but its labels."""
    if isinstance(factor, Atom):
        return factor.source, tuple(len(axis) for axis in factor.axes)
    if isinstance(factor, Window):
        return factor.offset, len(factor.small), factor.big.size
    assert isinstance(factor, OneHot)
    index = factor.index
    return index.source, tuple(len(axis) for axis in index.axes), factor.dtype
