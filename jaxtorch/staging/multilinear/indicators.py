"""Elimination of indicators: a label that is not free is replaced by what it equals.

A delta renames, a window slices, a one-hot gathers. Only indicators that place values
in the result stay: their ``big`` or one-hot label is free.
"""

import torch

from jaxtorch.staging.multilinear.form import (
    Atom,
    Axis,
    Call,
    Factor,
    Label,
    OneHot,
    OpaqueError,
    Term,
    Window,
    delta,
    labels_in,
    labels_of,
    renamed,
    renamed_factor,
    size_of,
)

aten = torch.ops.aten
Factors = tuple[Factor, ...]


class ZeroProductError(Exception):
    """A product of indicators is zero everywhere."""


def settle(term: Term) -> Term | None:
    """Eliminate what can be eliminated; None if the term is zero."""
    try:
        while True:
            term = without_merged_deltas(term)
            changed = eliminate_one(term.factors, term.free)
            if changed is None:
                return term
            factors, replaced = changed
            lost = labels_of(term.factors) - labels_of(factors) - term.free
            coef = term.coef * size_of(lost - {replaced})
            term = Term(coef, factors, term.axes)
    except ZeroProductError:
        return None


def without_merged_deltas(term: Term) -> Term:
    """Replace a label that equals several others, merged, by these."""
    for factor in term.factors:
        if not isinstance(factor, Window) or factor.is_delta or factor.offset:
            continue
        if factor.big.size == size_of(factor.small):
            rest = tuple(f for f in term.factors if f is not factor)
            parts = factor.small
            if factor.big in term.free:
                parts = tuple(Label(x.size) for x in factor.small)
                pairs = zip(parts, factor.small, strict=True)
                rest += tuple(delta(a, b) for a, b in pairs)
            term = Term(term.coef, rest, term.axes)
            return without_merged_deltas(renamed(term, {factor.big: parts}))
    return term


def eliminate_one(
    factors: Factors, free: set[Label]
) -> tuple[Factors, Label | None] | None:
    """Eliminate the first indicator that can be, with the label that it replaces."""
    for place, factor in enumerate(factors):
        if isinstance(factor, Atom):
            continue
        rest = factors[:place] + factors[place + 1 :]
        if factor in rest or is_always_one(factor):
            return rest, None
        if isinstance(factor, OneHot):
            changed = eliminate_one_hot(factor, rest, free)
            replaced = factor.label
        elif factor.is_delta:
            changed = eliminate_delta(factor, rest, free)
            replaced = factor.small[0] if factor.big in free else factor.big
        else:
            changed = eliminate_window(factor, rest, free)
            replaced = factor.big
        if changed is not None:
            return changed, replaced
    return None


def is_always_one(factor: Factor) -> bool:
    """Tell whether a factor says that a label equals itself."""
    return isinstance(factor, Window) and factor.small == (factor.big,)


def eliminate_delta(window: Window, rest: Factors, free: set[Label]) -> Factors | None:
    """Rename one label to the other; between free labels the delta stays."""
    old, new = window.big, window.small[0]
    if old in free:
        old, new = new, old
    if old in free and old not in labels_of(rest):
        return None
    changed = tuple(renamed_factor(f, {old: (new,)}) for f in rest)
    return (*changed, delta(new, old)) if old in free else changed


def eliminate_window(window: Window, rest: Factors, free: set[Label]) -> Factors | None:
    """Replace ``big`` by ``small + offset`` in all other factors."""
    big = window.big
    if big in window.small:
        raise OpaqueError
    if big not in labels_of(rest):
        return None if big in free else rest
    changed: list[Factor] = []
    for factor in rest:
        if big not in labels_in(factor):
            changed.append(factor)
        elif isinstance(factor, Atom):
            changed.append(sliced(factor, window))
        elif isinstance(factor, Window):
            changed += joined(factor, window)
        elif factor.label is big:
            raise OpaqueError
        else:
            index = sliced(factor.index, window)
            changed.append(OneHot(index, factor.label, factor.dtype))
    return (*changed, window) if big in free else tuple(changed)


def joined(other: Window, window: Window) -> list[Factor]:
    """Replace the ``big`` of ``window`` in another window."""
    small, size = window.small, size_of(window.small)
    if other.big is not window.big:
        if len(other.small) > 1:
            raise OpaqueError
        return [Window(other.big, small, other.offset + window.offset)]
    others, length = other.small, size_of(other.small)
    shift = window.offset - other.offset  # others == small + shift
    if shift >= length or -shift >= size:
        raise ZeroProductError
    if shift == 0 and [x.size for x in others] == [x.size for x in small]:
        return [delta(a, b) for a, b in zip(others, small, strict=True)]
    if shift >= 0 and shift + size <= length and len(others) == 1:
        return [Window(others[0], small, shift)]
    if shift <= 0 and length - shift <= size and len(small) == 1:
        return [Window(small[0], others, -shift)]
    if len(others) != 1 or len(small) != 1:
        raise OpaqueError
    first, second = max(shift, 0), max(-shift, 0)
    common = Label(min(length - first, size - second))
    both = (common,) if common.size > 1 else ()
    return [Window(others[0], both, first), Window(small[0], both, second)]


def sliced(atom: Atom, window: Window) -> Atom:
    """Restrict the axes that ``big`` indexes to the window."""
    source = atom.source
    axes: list[Axis] = []
    for dim, axis in enumerate(atom.axes):
        if window.big not in axis:
            axes.append(axis)
            continue
        if len(axis) > 1:
            raise OpaqueError
        end = window.offset + size_of(window.small)
        source = Call(aten.slice.Tensor, (source, dim, window.offset, end))
        axes.append(window.small)
    return Atom(source, tuple(axes))


def eliminate_one_hot(
    one_hot: OneHot, rest: Factors, free: set[Label]
) -> Factors | None:
    """Replace the label by the index in all other factors: a gather."""
    label = one_hot.label
    if label in labels_in(one_hot.index):
        raise OpaqueError
    if label not in labels_of(rest):
        return None if label in free else rest
    changed: list[Factor] = []
    for factor in rest:
        if label not in labels_in(factor):
            changed.append(factor)
        elif isinstance(factor, Atom):
            changed.append(gathered(factor, one_hot))
        elif isinstance(factor, OneHot) and factor.label is label:
            changed.append(agreement(factor, one_hot))
        elif isinstance(factor, Window) and factor.big is label and label in free:
            changed.append(factor)
            if factor.is_delta:
                return None
            raise OpaqueError
        else:
            raise OpaqueError
    return (*changed, one_hot) if label in free else tuple(changed)


def gathered(atom: Atom, one_hot: OneHot) -> Atom:
    """Return ``atom[..., index, ...]``."""
    places = [d for d, axis in enumerate(atom.axes) if one_hot.label in axis]
    if len(places) != 1 or len(atom.axes[places[0]]) > 1:
        raise OpaqueError
    dim = places[0]
    index = (None,) * dim + (one_hot.index.source,)
    source = Call(aten.index.Tensor, (atom.source, index))
    axes = atom.axes[:dim] + one_hot.index.axes + atom.axes[dim + 1 :]
    return Atom(source, axes)


def agreement(first: OneHot, second: OneHot) -> Atom:
    """Return the mask of where two indices agree."""
    order = list(dict.fromkeys([*labels_in(first.index), *labels_in(second.index)]))
    sides = tuple(aligned(from_zero(h), order) for h in (first, second))
    equal = Call(aten.eq.Tensor, sides)
    source = Call(aten._to_copy.default, (equal,), (("dtype", first.dtype),))
    return Atom(source, tuple((label,) for label in order))


def from_zero(one_hot: OneHot) -> Atom:
    """Return the index, with those that count from the end counted from zero."""
    source = Call(aten.remainder.Scalar, (one_hot.index.source, one_hot.label.size))
    return Atom(source, one_hot.index.axes)


def aligned(atom: Atom, order: list[Label]) -> object:
    """Return the source of an atom with its labels in order, one for each missing."""
    labels = labels_in(atom)
    if len(set(labels)) < len(labels):
        raise OpaqueError
    source = atom.source
    if atom.axes != tuple((label,) for label in labels):
        source = Call(aten.view.default, (source, tuple(x.size for x in labels)))
    wanted = [label for label in order if label in labels]
    if wanted != labels:
        permutation = tuple(labels.index(label) for label in wanted)
        source = Call(aten.permute.default, (source, permutation))
    if wanted != order:
        shape = tuple(x.size if x in labels else 1 for x in order)
        source = Call(aten.view.default, (source, shape))
    return source
