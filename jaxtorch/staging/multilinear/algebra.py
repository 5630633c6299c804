"""The operations on normal forms: product, sum, views, diagonal, selection."""

from collections.abc import Callable, Iterable, Sequence
from math import prod

from jaxtorch.staging.multilinear.form import (
    Axes,
    Axis,
    Form,
    Label,
    OpaqueError,
    Term,
    Window,
    delta,
    fresh,
    labels_of,
    renamed,
    size_of,
    split,
)
from jaxtorch.staging.multilinear.indicators import settle


def each(form: Form, change: Callable[[Term], Term]) -> Form:
    """Change every term, then drop what became zero."""
    settled = (settle(change(term)) for term in form)
    return tuple(term for term in settled if term is not None)


def scaled(form: Form, number: float) -> Form:
    """Multiply by a number."""
    if not number:
        return ()
    return tuple(Term(t.coef * number, t.factors, t.axes) for t in form)


def permuted(form: Form, order: Sequence[int]) -> Form:
    """Reorder the axes."""
    return tuple(Term(t.coef, t.factors, tuple(t.axes[d] for d in order)) for t in form)


def reshaped(form: Form, shape: Sequence[int]) -> Form:
    """View with another shape: labels move between axes or are split."""
    return each(form, lambda term: reshaped_term(term, shape))


def reshaped_term(term: Term, shape: Sequence[int]) -> Term:
    """View one term with another shape."""
    if prod(shape) == 0:
        raise OpaqueError
    while True:
        left = [label for axis in term.axes for label in axis]
        axes, too_long = regrouped(left, shape)
        if too_long is None:
            return Term(term.coef, term.factors, axes)
        term, _ = split(term, *too_long)


def regrouped(
    labels: list[Label], shape: Sequence[int]
) -> tuple[Axes, tuple[Label, int] | None]:
    """Group labels into axes, up to a label that must be split at a size."""
    left = labels[::-1]
    axes: list[Axis] = []
    for size in shape:
        axis: list[Label] = []
        while size > 1:
            label = left.pop()
            if label.size > size:
                return (), (label, size)
            if size % label.size:
                raise OpaqueError
            size //= label.size
            axis.append(label)
        axes.append(tuple(axis))
    return tuple(axes), None


def expanded(form: Form, shape: Sequence[int]) -> Form:
    """Broadcast to a shape; -1 keeps a size."""
    return each(form, lambda term: expanded_term(term, shape))


def expanded_term(term: Term, shape: Sequence[int]) -> Term:
    """Broadcast one term; a new axis has a label that no factor has."""
    missing = len(shape) - len(term.axes)
    axes: Axes = ((),) * missing + term.axes
    grown = tuple(
        (Label(size),) if not axis and size > 1 else axis
        for axis, size in zip(axes, shape, strict=True)
    )
    return Term(term.coef, term.factors, grown)


def summed(form: Form, dims: Iterable[int], keepdim: bool) -> Form:
    """Sum over axes."""
    gone = set(dims)
    return each(form, lambda term: summed_term(term, gone, keepdim))


def summed_term(term: Term, dims: set[int], keepdim: bool) -> Term:
    """Sum one term over axes; what no factor has is counted."""
    over = [label for d in dims for label in term.axes[d]]
    used = labels_of(term.factors)
    coef = term.coef * size_of(label for label in over if label not in used)
    axes = tuple(
        () if d in dims else axis
        for d, axis in enumerate(term.axes)
        if keepdim or d not in dims
    )
    return Term(coef, term.factors, axes)


def diagonal(form: Form, dim1: int, dim2: int) -> Form:
    """Take the diagonal of two axes; it becomes the last axis."""

    def take(term: Term) -> Term:
        term = with_equal_axes(term, dim1, dim2)
        kept = tuple(a for d, a in enumerate(term.axes) if d not in (dim1, dim2))
        return Term(term.coef, term.factors, (*kept, term.axes[dim1]))

    return each(form, take)


def with_equal_axes(term: Term, dim1: int, dim2: int) -> Term:
    """Restrict two axes to equal labels."""
    done = 0
    while done < len(term.axes[dim1]):
        first, second = term.axes[dim1][done], term.axes[dim2][done]
        if first.size > second.size:
            term, _ = split(term, first, second.size)
        elif first.size < second.size:
            term, _ = split(term, second, first.size)
        else:
            term = renamed(term, {second: (first,)})
            done += 1
    return term


def diag_embedded(form: Form, dim1: int, dim2: int) -> Form:
    """Put the last axis on the diagonal of two new axes."""

    def put(term: Term) -> Term:
        last = term.axes[-1]
        copy = tuple(Label(label.size) for label in last)
        axes = list(term.axes[:-1])
        for dim, axis in sorted([(dim1, last), (dim2, copy)], key=lambda p: p[0]):
            axes.insert(dim, axis)
        deltas = tuple(delta(a, b) for a, b in zip(last, copy, strict=True))
        return Term(term.coef, term.factors + deltas, tuple(axes))

    return each(form, put)


def windowed(form: Form, dim: int, start: int, size: int) -> Form:
    """Take ``size`` elements from ``start`` of an axis."""

    def take(term: Term) -> Term:
        if not term.axes[dim]:
            return term
        if len(term.axes[dim]) > 1:
            return leading_part(term, dim, start, size)
        label = term.axes[dim][0]
        if size == label.size:
            return term
        small = Label(size)
        axis = (small,) if size > 1 else ()
        axes = (*term.axes[:dim], axis, *term.axes[dim + 1 :])
        if label not in labels_of(term.factors):
            return Term(term.coef, term.factors, axes)
        return Term(term.coef, (*term.factors, Window(label, axis, start)), axes)

    return each(form, take)


def leading_part(term: Term, dim: int, start: int, size: int) -> Term:
    """Take a part of a merged axis that is a part of its first label."""
    first, *inner = term.axes[dim]
    block = size_of(inner)
    if start % block or size % block:
        raise OpaqueError
    small = Label(size // block)
    axis = ((small,) if small.size > 1 else ()) + tuple(inner)
    axes = (*term.axes[:dim], axis, *term.axes[dim + 1 :])
    window = Window(first, (small,) if small.size > 1 else (), start // block)
    return Term(term.coef, (*term.factors, window), axes)


def placed(form: Form, dim: int, start: int, size: int) -> Form:
    """Put an axis into a longer one of ``size`` that is zero elsewhere."""

    def put(term: Term) -> Term:
        big = Label(size)
        axes = (*term.axes[:dim], (big,), *term.axes[dim + 1 :])
        window = Window(big, term.axes[dim], start)
        return Term(term.coef, (*term.factors, window), axes)

    return each(form, put)


def contract(
    first: Form,
    names: Sequence[object],
    second: Form,
    others: Sequence[object],
    out: Sequence[object],
) -> Form:
    """Multiply forms as ``einsum`` does: equal names are one index, others are summed.

    An axis of size one broadcasts.
    """
    terms = []
    for a in first:
        for b in second:
            term = settle(contract_terms(a, names, fresh(b), others, out))
            if term is not None:
                terms.append(term)
    return tuple(terms)


def contract_terms(
    a: Term,
    names: Sequence[object],
    b: Term,
    others: Sequence[object],
    out: Sequence[object],
) -> Term:
    """Multiply two terms that share no label."""
    for place, name in enumerate(names):
        if name in others:
            a, b = unified(a, place, b, list(others).index(name))
    axes = dict(zip(others, b.axes, strict=True))
    for name, axis in zip(names, a.axes, strict=True):
        if axis or name not in axes:
            axes[name] = axis
    factors = a.factors + b.factors
    used = labels_of(factors)
    lost = {x for n, axis in axes.items() if n not in out for x in axis} - used
    coef = a.coef * b.coef * size_of(lost)
    return Term(coef, factors, tuple(axes[name] for name in out))


def unified(a: Term, i: int, b: Term, j: int) -> tuple[Term, Term]:
    """Give axis ``i`` of ``a`` and axis ``j`` of ``b`` the same labels."""
    if not a.axes[i] or not b.axes[j]:
        return a, b
    done = 0
    while done < len(a.axes[i]):
        first, second = a.axes[i][done], b.axes[j][done]
        if first.size > second.size:
            a, (first, _) = split(a, first, second.size)
        elif first.size < second.size:
            b, (second, _) = split(b, second, first.size)
        b = renamed(b, {second: (first,)})
        done += 1
    return a, b
