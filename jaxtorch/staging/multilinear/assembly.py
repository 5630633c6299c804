"""Assembly: the core of a term is placed in its result by the indicators that stayed.

A core is a product of tensors. A delta puts it on a diagonal, a window between zeros, a
one-hot scatters it; what no factor has is broadcast.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear.form import (
    Atom,
    Axis,
    Label,
    OneHot,
    OpaqueError,
    Term,
    Window,
    labels_in,
    labels_of,
    size_of,
)
from jaxtorch.staging.multilinear.indicators import aligned
from jaxtorch.staging.multilinear.lowering import Lowering, arranged, in_order, spread
from jaxtorch.staging.multilinear.planning import Tree
from jaxtorch.staging.passes.rewriting import emit, shape_of

aten = torch.ops.aten


def placed_labels(term: Term) -> set[Label]:
    """Return the free labels that an indicator determines."""
    found = set()
    for factor in term.factors:
        if isinstance(factor, Window):
            found.add(factor.small[0] if factor.is_delta else factor.big)
        elif isinstance(factor, OneHot):
            found.add(factor.label)
    return found


def core_labels(term: Term) -> set[Label]:
    """Return the labels that the core of a term keeps open."""
    held = labels_of(term.atoms)
    placed = placed_labels(term)
    if placed & held:
        raise OpaqueError
    indicators = [f for f in term.factors if not isinstance(f, Atom)]
    return ((term.free | labels_of(indicators)) - placed) & held


def assembly_sizes(term: Term) -> list[int]:
    """Return the numbers of elements that the steps of an assembly write."""
    labels = core_labels(term)
    windows = [f for f in term.factors if isinstance(f, Window)]
    one_hots = [f for f in term.factors if isinstance(f, OneHot)]
    sizes = []
    if one_hots:
        over = labels_of(h.index for h in one_hots)
        kept = over & (term.free | labels_of(windows))
        labels = (labels - over) | kept | {h.label for h in one_hots}
        sizes.append(size_of(labels))
    for i, window in enumerate(windows):
        gone = set(window.small) - term.free - labels_of(windows[i + 1 :])
        labels = (labels | {*labels_in(window)}) - gone
        sizes.append(size_of(labels))
    return sizes


class Assembler:
    """Builds the value of one term."""

    def __init__(self, lowering: Lowering, before: fx.Node) -> None:
        self.lowering = lowering
        self.before = before

    def term(self, term: Term, tree: Tree | None) -> fx.Node:
        """Return the value of a term; where no factor has a label its dim has size 1.

        The result has one dim for each axis.
        """
        axes = [label for axis in term.axes for label in axis]
        if tree is None:
            node = self.number(term.coef)
            labels: list[Label] = []
        else:
            node = self.lowering.value(tree, self.before, axes)
            labels = list(tree.order)
            if term.coef != 1:
                node = emit(self.before, aten.mul.Tensor, node, term.coef)
        node, labels = self.scatter(node, labels, term)
        windows = [f for f in term.factors if isinstance(f, Window)]
        for i, window in enumerate(windows):
            kept = term.free | labels_of(windows[i + 1 :])
            node, labels = self.place(node, labels, window, kept)
            if window.is_delta:  # either of the last two dims may come first
                labels[-2:] = in_order(labels[-2:], axes)
        return self.shaped(node, labels, term)

    def number(self, value: float) -> fx.Node:
        """Return a tensor without dims."""
        meta = self.before.meta
        named = {"dtype": meta["val"].dtype, "device": meta["device"]}
        return emit(self.before, aten.full.default, [], value, **named)

    def shaped(self, node: fx.Node, labels: list[Label], term: Term) -> fx.Node:
        """View with the axes of the term."""
        flat = [label for axis in term.axes for label in axis]
        given, labels = labels, [x for x in flat if x in labels]
        node = arranged(node, given, labels, self.before)
        for axis in term.axes:
            if 0 < sum(x in labels for x in axis) < len(axis):
                node = self.grown(node, labels, flat)
                labels = flat
                break
        shape = [
            size_of(axis) if all(x in labels for x in axis) else 1 for axis in term.axes
        ]
        return self.viewed(node, shape)

    def grown(
        self, node: fx.Node, labels: Sequence[Label], order: Sequence[Label]
    ) -> fx.Node:
        """Return the node with all labels in order, broadcast where it lacks one."""
        node = spread(node, labels, order, self.before)
        shape = [label.size for label in order]
        if shape_of(node) == shape:
            return node
        return emit(self.before, aten.expand.default, node, shape)

    def place(
        self, node: fx.Node, labels: list[Label], window: Window, kept: set[Label]
    ) -> tuple[fx.Node, list[Label]]:
        """Apply one window: a diagonal, zeros around, or both."""
        big, small = window.big, window.small
        if window.is_delta:
            order = [*[x for x in labels if x is not big], big]
            node = self.grown(node, labels, order)
            return emit(self.before, aten.diag_embed.default, node), [*order, *small]
        rest = [x for x in labels if x not in small]
        node = self.grown(node, labels, [*rest, *small])
        if kept & set(small):
            node, rest, small = self.doubled(node, rest, small, kept)
        length = size_of(small)
        node = self.viewed(node, [*[x.size for x in rest], length])
        pad = [window.offset, big.size - window.offset - length]
        node = emit(self.before, aten.constant_pad_nd.default, node, pad, 0)
        order = [*rest, big]
        return self.viewed(node, [x.size for x in order]), order

    def doubled(
        self, node: fx.Node, rest: Sequence[Label], small: Axis, kept: set[Label]
    ) -> tuple[fx.Node, list[Label], Axis]:
        """Copy the labels of a window that are kept beside it, on a diagonal."""
        twice = [x for x in small if x in kept]
        others = [*rest, *[x for x in small if x not in kept]]
        node = arranged(node, [*rest, *small], [*others, *twice], self.before)
        node = self.viewed(node, [*[x.size for x in others], size_of(twice)])
        node = emit(self.before, aten.diag_embed.default, node)
        copies = {x: Label(x.size) for x in twice}
        labels = [*others, *twice, *copies.values()]
        node = self.viewed(node, [x.size for x in labels])
        small = tuple(copies.get(x, x) for x in small)
        rest = [*rest, *twice]
        return arranged(node, labels, [*rest, *small], self.before), rest, small

    def viewed(self, node: fx.Node, shape: list[int]) -> fx.Node:
        """View with a shape."""
        if shape_of(node) == shape:
            return node
        return emit(self.before, aten.view.default, node, shape)

    def scatter(
        self, node: fx.Node, labels: list[Label], term: Term
    ) -> tuple[fx.Node, list[Label]]:
        """Add the values to zeros where the one-hots of a term point."""
        one_hots = [f for f in term.factors if isinstance(f, OneHot)]
        if not one_hots:
            return node, labels
        over = list(dict.fromkeys(x for h in one_hots for x in labels_in(h.index)))
        others = labels_of(f for f in term.factors if isinstance(f, Window))
        kept = [x for x in over if x in term.free or x in others]
        rest = [x for x in labels if x not in over]
        node = self.grown(node, labels, [*rest, *over])
        indices: list[Any] = [None] * len(rest)
        indices += [self.positions(label, over) for label in kept]
        for one_hot in one_hots:
            source = aligned(one_hot.index, over)
            indices.append(self.lowering.source(source, self.before))
        after = [*rest, *kept, *[h.label for h in one_hots]]
        meta = self.before.meta
        named = {"dtype": meta["val"].dtype, "device": meta["device"]}
        shape = [label.size for label in after]
        zeros = emit(self.before, aten.zeros.default, shape, **named)
        node = emit(self.before, aten.index_put.default, zeros, indices, node, True)
        return node, after

    def positions(self, label: Label, over: list[Label]) -> fx.Node:
        """Return the numbers that a label runs over, its dim in its place."""
        device = self.before.meta["device"]
        node = emit(self.before, aten.arange.default, label.size, device=device)
        shape = [x.size if x is label else 1 for x in over]
        return emit(self.before, aten.view.default, node, shape)


def elements_of(term: Term) -> int:
    """Return the number of elements of a term's value."""
    return prod(size_of(axis) for axis in term.axes)
