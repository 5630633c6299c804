"""Lowering: products and their trees become ATen calls in a graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear.form import Atom, Call, Label, labels_in, size_of
from jaxtorch.staging.multilinear.planning import Key, Leaf, Product, Tree
from jaxtorch.staging.passes.rewriting import emit, shape_of, value_of

aten = torch.ops.aten


class Lowering:
    """Puts calls into a graph, before the node that is being replaced.

    Attributes:
        values: the node of each product that was lowered, its dims in the order of the
            product's canonical labels.
        calls: the node of each derived source.
        replaced: the node that took the place of another one.
    """

    def __init__(self) -> None:
        self.values: dict[Key, fx.Node] = {}
        self.calls: dict[Call, fx.Node] = {}
        self.replaced: dict[fx.Node, fx.Node] = {}

    def source(self, source: Any, before: fx.Node) -> Any:
        """Return the node of a source."""
        if isinstance(source, fx.Node):
            return self.replaced.get(source, source)
        if isinstance(source, tuple):
            return [self.source(part, before) for part in source]
        if not isinstance(source, Call):
            return source
        if source not in self.calls:
            args = [self.source(arg, before) for arg in source.args]
            self.calls[source] = emit(
                before, source.target, *args, **dict(source.kwargs)
            )
        return self.calls[source]

    def value(
        self, tree: Tree, before: fx.Node, wanted: Sequence[Label] = ()
    ) -> fx.Node:
        """Return the node of a tree's value, its dims in the order of the tree.

        In memory they lie in the order that is wanted, where that costs nothing.
        """
        if tree.key not in self.values:
            if isinstance(tree, Leaf):
                node, labels = self.leaf(tree.atom, tree.order, before)
            else:
                node, labels = self.product(tree, before, wanted)
            self.values[tree.key] = arranged(node, labels, tree.order, before)
        return self.values[tree.key]

    def leaf(
        self, atom: Atom, order: Sequence[Label], before: fx.Node
    ) -> tuple[fx.Node, list[Label]]:
        """Return a tensor with one dim for each label, summed over those not kept."""
        node = self.source(atom.source, before)
        labels = labels_in(atom)
        if atom.axes != tuple((label,) for label in labels):
            node = emit(before, aten.view.default, node, [x.size for x in labels])
        while (pair := first_pair(labels)) is not None:
            label = labels[pair[0]]
            node = emit(before, aten.diagonal.default, node, 0, *pair)
            labels = [x for i, x in enumerate(labels) if i not in pair] + [label]
        gone = [i for i, label in enumerate(labels) if label not in order]
        if gone:
            node = emit(before, aten.sum.dim_IntList, node, gone)
            labels = [label for label in labels if label in order]
        return node, labels

    def product(
        self, tree: Product, before: fx.Node, wanted: Sequence[Label]
    ) -> tuple[fx.Node, list[Label]]:
        """Return the product of two trees."""
        left, right = tree.parts
        kept = set(tree.order)
        if {*left.order, *right.order} == kept or set(left.order) == set(right.order):
            return self.multiplied(left, right, kept, wanted, before)
        place = {label: i for i, label in enumerate(wanted)}

        def rank(part: Tree, other: Tree) -> tuple[int, int]:
            own = set(part.order) - set(other.order)
            first = min((place.get(x, len(place)) for x in own), default=len(place))
            return first, -len(part.order)

        if rank(right, left) < rank(left, right):
            left, right = right, left
        return self.contracted(left, right, kept, before)

    def multiplied(
        self,
        left: Tree,
        right: Tree,
        kept: set[Label],
        wanted: Sequence[Label],
        before: fx.Node,
    ) -> tuple[fx.Node, list[Label]]:
        """Multiply elementwise, and sum over the labels that are not kept."""
        longer, shorter = (
            (right, left)
            if len(left.order) < len(right.order)
            else (
                left,
                right,
            )
        )
        order = [x for x in shorter.order if x not in longer.order]
        order = in_order([*order, *longer.order], [x for x in wanted if x in kept])
        factors = [self.value(part, before, order) for part in (longer, shorter)]
        a = spread(factors[0], longer.order, order, before)
        b = spread(factors[1], shorter.order, order, before)
        node = emit(before, aten.mul.Tensor, a, b)
        gone = [i for i, label in enumerate(order) if label not in kept]
        if gone:
            node = emit(before, aten.sum.dim_IntList, node, gone)
        return node, [label for label in order if label in kept]

    def contracted(
        self, left: Tree, right: Tree, kept: set[Label], before: fx.Node
    ) -> tuple[fx.Node, list[Label]]:
        """Multiply as (batches of) matrices."""
        shared = [x for x in left.order if x in right.order]
        batch = [x for x in shared if x in kept]
        inner = [x for x in shared if x not in kept]
        rows = [x for x in left.order if x not in shared]
        columns = [x for x in right.order if x not in shared]
        first = self.value(left, before, [*batch, *rows, *inner])
        second = self.value(right, before, [*batch, *inner, *columns])
        rows = in_order(rows, laid(first, left.order))
        columns = in_order(columns, laid(second, right.order))
        longer = (first, left) if len(rows) >= len(columns) else (second, right)
        inner = in_order(inner, laid(longer[0], longer[1].order))
        a = grouped(first, left.order, (batch, rows, inner), before)
        b = grouped(second, right.order, (batch, inner, columns), before)
        labels = batch + rows + columns
        if batch:
            node = emit(before, aten.bmm.default, a, b)
        else:
            node = emit(before, aten.mm.default, flat(a, before), flat(b, before))
        shape = [label.size for label in labels]
        if shape_of(node) != shape:
            node = emit(before, aten.view.default, node, shape)
        return node, labels


def first_pair(labels: Sequence[Label]) -> tuple[int, int] | None:
    """Return the first two dims that one label indexes."""
    for i, label in enumerate(labels):
        if label in labels[:i]:
            return labels.index(label), i
    return None


def arranged(
    node: fx.Node, labels: Sequence[Label], order: Sequence[Label], before: fx.Node
) -> fx.Node:
    """Permute dims from one order of labels to another."""
    if list(labels) == list(order):
        return node
    return emit(
        before, aten.permute.default, node, [list(labels).index(x) for x in order]
    )


def spread(
    node: fx.Node, labels: Sequence[Label], order: Sequence[Label], before: fx.Node
) -> fx.Node:
    """View with the labels in order, and a dim of size one for each that is missing."""
    wanted = [label for label in order if label in labels]
    node = arranged(node, labels, wanted, before)
    lead = next((i for i, x in enumerate(order) if x in labels), len(order))
    if wanted == list(order)[lead:]:
        return node  # missing dims in front broadcast by themselves
    shape = [x.size if x in labels else 1 for x in order]
    return emit(before, aten.view.default, node, shape)


def in_order(labels: Sequence[Label], first: Sequence[Label]) -> list[Label]:
    """Return labels in another order, those that it lacks behind."""
    ahead = [label for label in first if label in labels]
    return ahead + [label for label in labels if label not in ahead]


def laid(node: fx.Node, labels: Sequence[Label]) -> list[Label]:
    """Return the labels of a tensor in the order in which they lie in memory."""
    strides = dict(zip(labels, value_of(node).stride(), strict=True))
    return sorted(labels, key=lambda label: -strides[label])


def flat(node: fx.Node, before: fx.Node) -> fx.Node:
    """Drop a leading dim of size one."""
    return emit(before, aten.view.default, node, shape_of(node)[1:])


def grouped(
    node: fx.Node,
    labels: Sequence[Label],
    groups: Sequence[Sequence[Label]],
    before: fx.Node,
) -> fx.Node:
    """View as three dims, one for each group of labels.

    Groups that lie side by side in the tensor are merged before they are moved.
    """
    present = [g for g in groups if g]
    lies = laid(node, labels)
    node, labels = arranged(node, labels, lies, before), lies
    by_place = sorted(present, key=lambda g: labels.index(g[0]))
    if [x for g in by_place for x in g] == labels:
        merged = emit(before, aten.view.default, node, [size_of(g) for g in by_place])
        places = [by_place.index(g) for g in present]
        if places != sorted(places):
            merged = emit(before, aten.permute.default, merged, places)
    else:
        merged = arranged(node, labels, [x for g in present for x in g], before)
    shape = [size_of(group) for group in groups]
    if shape_of(merged) == shape:
        return merged
    return emit(before, aten.view.default, merged, shape)
