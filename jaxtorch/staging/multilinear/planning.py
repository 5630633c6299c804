"""Products of tensors as trees of products of two: what is computed, once each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtorch.staging.multilinear.cost import Machine, product_cost
from jaxtorch.staging.multilinear.form import (
    Atom,
    Label,
    Renaming,
    labels_in,
    renamed_axes,
    size_of,
)
from jaxtorch.staging.multilinear.ordering import Network, Splits

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Leaf:
    """A tensor, summed over the labels that only it has."""

    atom: Atom
    order: tuple[Label, ...]
    key: Key
    cost: float

    @property
    def parts(self) -> tuple["Tree", ...]:
        """A leaf has none."""
        return ()


@dataclass(frozen=True)
class Product:
    """A product of two trees, summed over the labels that ``order`` lacks."""

    left: "Tree"
    right: "Tree"
    order: tuple[Label, ...]
    key: Key
    cost: float

    @property
    def parts(self) -> tuple["Tree", ...]:
        """The two factors."""
        return self.left, self.right


Tree = Leaf | Product


def trees_in(tree: Tree) -> Iterable[Tree]:
    """Yield a tree and all below it."""
    yield tree
    for part in tree.parts:
        yield from trees_in(part)


def renamed_tree(tree: Tree, names: Renaming) -> Tree:
    """Replace the labels of a tree."""
    (order,) = renamed_axes((tree.order,), names)
    if isinstance(tree, Leaf):
        atom = Atom(tree.atom.source, renamed_axes(tree.atom.axes, names))
        return Leaf(atom, order, tree.key, tree.cost)
    left, right = (renamed_tree(part, names) for part in tree.parts)
    return Product(left, right, order, tree.key, tree.cost)


class Planner:
    """Plans products for one machine and one dtype.

    ``numbers`` holds the sources that were met, for all planners of one graph.
    """

    def __init__(
        self, machine: Machine, itemsize: int, numbers: dict[Any, int]
    ) -> None:
        self.machine = machine
        self.itemsize = itemsize
        self.numbers = numbers
        self.plans: dict[Key, tuple[Tree, list[Label]]] = {}

    def number(self, source: Any) -> int:
        """Return the number of a source: they are counted as they are met."""
        return self.numbers.setdefault(source, len(self.numbers))

    def canonical(
        self, atoms: Sequence[Atom], opened: set[Label]
    ) -> tuple[Key, list[Label]]:
        """Return a key that equal products share, and all labels in its order."""
        sources = [self.number(atom.source) for atom in atoms]
        labels = [labels_in(atom) for atom in atoms]
        colours: dict[Label, int] = {}
        ranks = sources
        for _ in range(1 if len(set(sources)) == len(sources) else 3):
            seen: dict[Label, list[tuple[int, int]]] = {}
            for rank, found in zip(ranks, labels, strict=True):
                for place, label in enumerate(found):
                    seen.setdefault(label, []).append((rank, place))
            colours = {
                x: hash((x in opened, x.size, colours.get(x, 0), *sorted(c)))
                for x, c in seen.items()
            }
            ranks = [
                hash((number, *[colours[x] for x in found]))
                for number, found in zip(sources, labels, strict=True)
            ]
        names: dict[Label, int] = {}
        parts = []
        for i in sorted(range(len(atoms)), key=ranks.__getitem__):
            axes = tuple(
                tuple(names.setdefault(label, len(names)) for label in axis)
                for axis in atoms[i].axes
            )
            parts.append((sources[i], axes))
        order = tuple(names[label] for label in names if label in opened)
        sizes = tuple(label.size for label in names)
        return (tuple(parts), order, sizes), list(names)

    def plan(self, atoms: Sequence[Atom], opened: set[Label]) -> Tree:
        """Return the cheapest tree for a product of at least one tensor."""
        key, labels = self.canonical(atoms, opened)
        if key in self.plans:
            tree, known = self.plans[key]
            names = {a: (b,) for a, b in zip(known, labels, strict=True)}
            return renamed_tree(tree, names)
        tree = self.search(atoms, opened)
        self.plans[key] = tree, labels
        return tree

    def search(self, atoms: Sequence[Atom], opened: set[Label]) -> Tree:
        """Find the cheapest tree for a product of at least one tensor."""
        network = Network(self, atoms, opened)
        trees = [
            self.tree(network, mask, network.best(mask)) for mask in network.components
        ]
        trees.sort(key=lambda tree: size_of(tree.order))
        tree, *others = trees
        for other in others:
            tree = self.join(tree, other, opened)
        return tree

    def tree(self, network: Network, mask: int, splits: Splits) -> Tree:
        """Return the tree of a set of tensors, given how each set is split."""
        opened = network.open_labels(mask)
        if mask not in splits:
            return self.leaf(network.atoms[mask.bit_length() - 1], opened)
        left, right = (self.tree(network, part, splits) for part in splits[mask])
        return self.join(left, right, opened)

    def leaf(self, atom: Atom, opened: set[Label]) -> Leaf:
        """Return the tree of one tensor."""
        key, names = self.canonical([atom], opened)
        order = [label for label in names if label in opened]
        given = labels_in(atom)
        cost = 0.0
        if len(order) < len(set(given)):
            touched = (size_of(set(given)) + size_of(order)) * self.itemsize
            cost = self.machine.call + touched / self.machine.bytes
        return Leaf(atom, tuple(order), key, cost)

    def join(self, left: Tree, right: Tree, opened: set[Label]) -> Product:
        """Return the product of two trees, as one tree."""
        union = {*left.order, *right.order}
        atoms = [t.atom for t in trees_in(left) if isinstance(t, Leaf)]
        atoms += [t.atom for t in trees_in(right) if isinstance(t, Leaf)]
        key, names = self.canonical(atoms, union & opened)
        order = [label for label in names if label in union and label in opened]
        return Product(left, right, tuple(order), key, self.cost(left, right, order))

    def cost(self, left: Tree, right: Tree, order: Sequence[Label]) -> float:
        """Return the cost of one product."""
        return product_cost(
            self.machine,
            size_of(left.order),
            size_of(right.order),
            size_of(order),
            size_of({*left.order, *right.order}),
            self.itemsize,
        )
