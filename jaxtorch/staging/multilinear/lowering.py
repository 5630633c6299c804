"""Lowering: products and their trees become ATen calls in a graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear.form import Atom, Call, Label, labels_in, size_of
from jaxtorch.staging.multilinear.planning import Key, Leaf, Product, Tree
from jaxtorch.staging.rewriting import emit, shape_of

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

    def value(self, tree: Tree, before: fx.Node) -> fx.Node:
        """Return the node of a tree's value, its dims in the order of the tree."""
        if tree.key not in self.values:
            if isinstance(tree, Leaf):
                node, labels = self.leaf(tree.atom, tree.order, before)
            else:
                node, labels = self.product(tree, before)
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

    def product(self, tree: Product, before: fx.Node) -> tuple[fx.Node, list[Label]]:
        """Return the product of two trees."""
        left, right = self.value(tree.left, before), self.value(tree.right, before)
        first, second = list(tree.left.order), list(tree.right.order)
        if len(first) < len(second):
            left, right, first, second = right, left, second, first
        kept = set(tree.order)
        if {*first, *second} == kept:
            return multiplied(left, first, right, second, before)
        if set(first) == set(second):
            node, labels = multiplied(left, first, right, second, before)
            gone = [i for i, label in enumerate(labels) if label not in kept]
            node = emit(before, aten.sum.dim_IntList, node, gone)
            return node, [label for label in labels if label in kept]
        return contracted(left, first, right, second, kept, before)


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


def multiplied(
    left: fx.Node,
    first: list[Label],
    right: fx.Node,
    second: list[Label],
    before: fx.Node,
) -> tuple[fx.Node, list[Label]]:
    """Multiply elementwise; the labels of the first tensor come last."""
    order = [label for label in second if label not in first] + first
    left = spread(left, first, order, before)
    right = spread(right, second, order, before)
    return emit(before, aten.mul.Tensor, left, right), order


def contracted(
    left: fx.Node,
    first: list[Label],
    right: fx.Node,
    second: list[Label],
    kept: set[Label],
    before: fx.Node,
) -> tuple[fx.Node, list[Label]]:
    """Multiply as (batches of) matrices."""
    batch = [x for x in first if x in second and x in kept]
    inner = [x for x in first if x in second and x not in kept]
    rows = [x for x in first if x not in second]
    columns = [x for x in second if x not in first]
    a = grouped(left, first, (batch, rows, inner), before)
    b = grouped(right, second, (batch, inner, columns), before)
    labels = batch + rows + columns
    if batch:
        node = emit(before, aten.bmm.default, a, b)
    else:
        node = emit(before, aten.mm.default, flat(a, before), flat(b, before))
    shape = [label.size for label in labels]
    if shape_of(node) != shape:
        node = emit(before, aten.view.default, node, shape)
    return node, labels


def flat(node: fx.Node, before: fx.Node) -> fx.Node:
    """Drop a leading dim of size one."""
    return emit(before, aten.view.default, node, shape_of(node)[1:])


def grouped(
    node: fx.Node,
    labels: list[Label],
    groups: Sequence[Sequence[Label]],
    before: fx.Node,
) -> fx.Node:
    """View as three dims, one for each group of labels.

    Groups that lie side by side in the tensor are merged before they are moved.
    """
    present = [g for g in groups if g]
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
