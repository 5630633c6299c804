"""Bands: terms on diagonals are added up there, and written into one tensor."""

from typing import NamedTuple

import torch
from torch import fx

from jaxtorch.staging.multilinear.assembly import Assembler
from jaxtorch.staging.multilinear.form import (
    Axis,
    Label,
    OneHot,
    Term,
    Window,
    labels_of,
)
from jaxtorch.staging.multilinear.planning import Tree
from jaxtorch.staging.passes.rewriting import emit, shape_of

aten = torch.ops.aten
Dims = tuple[int, int]


class Band(NamedTuple):
    """Where a term lies: ``value[.., start[0] + i, .., start[1] + i, ..]``.

    Attributes:
        dims: the two dims of the value.
        start: where the term begins in each.
        inner: the term before it is placed: what runs along the diagonal comes last.
    """

    dims: Dims
    start: tuple[int, int]
    inner: Term


def band_of(term: Term) -> Band | None:
    """Return the diagonal that a term lies on, if it is on one."""
    if any(isinstance(factor, OneHot) for factor in term.factors):
        return None
    seen: dict[Label, tuple[int, int, list[Window]]] = {}
    for dim, axis in enumerate(term.axes):
        label, start, used = followed(axis, term)
        if label in seen:
            first, other, before = seen[label]
            inner = without(term, (first, dim), label, [*before, *used])
            if inner is None:
                return None
            return Band((first, dim), (other, start), inner)
        if label is not None:
            seen[label] = dim, start, used
    return None


def followed(axis: Axis, term: Term) -> tuple[Label | None, int, list[Window]]:
    """Return what an axis counts, from where on, and by which indicators."""
    used: list[Window] = []
    start = 0
    label = axis[0] if len(axis) == 1 else None
    windows = [f for f in term.factors if isinstance(f, Window) and len(f.small) == 1]
    while label is not None:
        for window in windows:
            if label is (window.small[0] if window.is_delta else window.big):
                break
        else:
            break
        label = window.big if window.is_delta else window.small[0]
        start += window.offset
        used.append(window)
    return label, start, used


def without(term: Term, dims: Dims, label: Label, used: list[Window]) -> Term | None:
    """Return a term before indicators place it; None where they do more than that."""
    factors = tuple(f for f in term.factors if f not in used)
    rest = tuple(axis for dim, axis in enumerate(term.axes) if dim not in dims)
    gone = {*labels_of(used), *term.axes[dims[0]], *term.axes[dims[1]]} - {label}
    others = {x for axis in rest for x in axis}
    if gone & (labels_of(factors) | others) or label in others:
        return None
    return Term(term.coef, factors, (*rest, (label,)))


class Bands:
    """Adds the terms of each diagonal, then writes them into one tensor of zeros."""

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self.groups: dict[Dims, dict[int, list[tuple[Band, Tree | None]]]] = {}

    def take(self, term: Term, tree: Tree | None) -> bool:
        """Keep a term for later; False where it must be assembled by itself."""
        band = band_of(term)
        if band is None:
            return False
        offset = band.start[1] - band.start[0]
        diagonals = self.groups.setdefault(band.dims, {})
        diagonals.setdefault(offset, []).append((band, tree))
        return True

    def values(self, shape: list[int]) -> list[fx.Node]:
        """Return the sums of the terms that were kept, one for each pair of dims."""
        return [self.written(dims, shape) for dims in self.groups]

    def written(self, dims: Dims, shape: list[int]) -> fx.Node:
        """Return a tensor of zeros but for the diagonals of two dims."""
        before = self.assembler.before
        rows, columns = (shape[dim] for dim in dims)
        diagonals = {
            offset: self.added(terms, (rows, columns), shape)
            for offset, terms in sorted(self.groups[dims].items())
        }
        if [*diagonals] == [0] and rows == columns:
            return emit(before, aten.diag_embed.default, diagonals[0], 0, *dims)
        named = {"dtype": before.meta["val"].dtype, "device": before.meta["device"]}
        total = emit(before, aten.zeros.default, shape, **named)
        for offset, value in diagonals.items():
            where = (offset, *dims)
            total = emit(before, aten.diagonal_scatter.default, total, value, *where)
        return total

    def added(
        self,
        terms: list[tuple[Band, Tree | None]],
        sizes: tuple[int, int],
        shape: list[int],
    ) -> fx.Node:
        """Return the sum of the terms of one diagonal, as long as this is."""
        before = self.assembler.before
        dims, (row, column), _ = terms[0][0]
        offset = column - row
        first = max(-offset, 0)
        length = min(sizes[0] - first, sizes[1] - max(offset, 0))
        total: fx.Node | None = None
        for band, tree in terms:
            value = self.assembler.term(band.inner, tree)
            (label,) = band.inner.axes[-1]
            if label.size != length:
                *rest, count = shape_of(value)
                if count != label.size:
                    value = emit(
                        before, aten.expand.default, value, [*rest, label.size]
                    )
                ahead = band.start[0] - first
                pad = [ahead, length - label.size - ahead]
                value = emit(before, aten.constant_pad_nd.default, value, pad, 0)
            if total is not None:
                value = emit(before, aten.add.Tensor, total, value)
            total = value
        assert total is not None
        full = [n for dim, n in enumerate(shape) if dim not in dims] + [length]
        if shape_of(total) != full:
            total = emit(before, aten.expand.default, total, full)
        return total
