"""Scatters: terms that go to the same places are added up first, and in one go."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.staging.multilinear.assembly import Assembler
from jaxtorch.staging.multilinear.form import (
    Label,
    OneHot,
    Term,
    Window,
    labels_in,
    labels_of,
)
from jaxtorch.staging.multilinear.indicators import aligned
from jaxtorch.staging.multilinear.planning import Tree
from jaxtorch.staging.passes.rewriting import emit, shape_of

aten = torch.ops.aten


class Places(NamedTuple):
    """Where a term is scattered: the dims, and the source that says where in each."""

    dims: tuple[int, ...]
    sources: tuple[Any, ...]


def places_of(term: Term) -> tuple[Places, Label] | None:
    """Return where a term is scattered, and the label that counts what is scattered.

    None where this is not all that indicators do with these labels.
    """
    one_hots = [f for f in term.factors if isinstance(f, OneHot)]
    counts = labels_of(f.index for f in one_hots)
    others = labels_of(f for f in term.factors if isinstance(f, Window))
    if len(counts) != 1 or counts & (term.free | others):
        return None
    (over,) = counts
    dims = {}
    for one_hot in one_hots:
        if one_hot.label in others or (one_hot.label,) not in term.axes:
            return None
        if labels_in(one_hot.index) != [over]:
            return None
        source = aligned(one_hot.index, [over])
        dims[term.axes.index((one_hot.label,))] = source
    if len(dims) < len(one_hots):
        return None
    return Places(tuple(sorted(dims)), tuple(dims[d] for d in sorted(dims))), over


def inner(term: Term, places: Places, over: Label) -> Term:
    """Return the term before it is scattered: what is counted comes first."""
    factors = tuple(f for f in term.factors if not isinstance(f, OneHot))
    rest = [axis for dim, axis in enumerate(term.axes) if dim not in places.dims]
    return Term(term.coef, factors, ((over,), *rest))


class Scatter:
    """Adds terms to one tensor of zeros after the other."""

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self.groups: dict[Places, list[tuple[Term, Tree | None]]] = {}

    def take(self, term: Term, tree: Tree | None) -> bool:
        """Keep a term for later; False where it must be assembled by itself."""
        found = places_of(term)
        if found is None:
            return False
        places, over = found
        self.groups.setdefault(places, []).append((inner(term, places, over), tree))
        return True

    def values(self, shape: Sequence[int]) -> list[fx.Node]:
        """Return the sums of the terms that were kept, one for each choice of dims."""
        totals: dict[tuple[int, ...], fx.Node] = {}
        for places, terms in self.groups.items():
            totals[places.dims] = self.added(
                totals.get(places.dims), places, terms, shape
            )
        return [self.ordered(node, dims) for dims, node in totals.items()]

    def added(
        self,
        total: fx.Node | None,
        places: Places,
        terms: Sequence[tuple[Term, Tree | None]],
        shape: Sequence[int],
    ) -> fx.Node:
        """Add terms to what was scattered before, the indexed dims first."""
        before = self.assembler.before
        value, *others = [self.assembler.term(*each) for each in terms]
        for other in others:
            value = emit(before, aten.add.Tensor, value, other)
        rest = [n for dim, n in enumerate(shape) if dim not in places.dims]
        (count,) = terms[0][0].axes[0]
        if shape_of(value) != [count.size, *rest]:
            value = emit(before, aten.expand.default, value, [count.size, *rest])
        if total is None:
            named = {"dtype": before.meta["val"].dtype, "device": before.meta["device"]}
            sizes = [*[shape[dim] for dim in places.dims], *rest]
            total = emit(before, aten.zeros.default, sizes, **named)
        lowering = self.assembler.lowering
        indices = [lowering.source(source, before) for source in places.sources]
        return emit(before, aten.index_put.default, total, indices, value, True)

    def ordered(self, node: fx.Node, dims: tuple[int, ...]) -> fx.Node:
        """Put the dims of a scattered tensor in their order."""
        order = [*dims, *[d for d in range(len(shape_of(node))) if d not in dims]]
        if order == sorted(order):
            return node
        back = [order.index(d) for d in range(len(order))]
        return emit(self.assembler.before, aten.permute.default, node, back)
