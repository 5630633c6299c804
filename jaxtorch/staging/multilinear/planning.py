"""The order in which a product of tensors is contracted.

Exact dynamic programming over connected sub-products, where a sub-product that occurs
twice is paid for once; opt_einsum's greedy order where there are too many of them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import opt_einsum  # type: ignore[import-untyped]  # it has no stubs

from jaxtorch.staging.multilinear.cost import Machine, product_cost
from jaxtorch.staging.multilinear.form import Atom, Label, labels_in, size_of

MOST_FACTORS = 12
MOST_SUBSETS = 600
"""Above these the order is opt_einsum's, not proved to be optimal."""

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

    def number(self, source: Any) -> int:
        """Return the number of a source: they are counted as they are met."""
        return self.numbers.setdefault(source, len(self.numbers))

    def canonical(
        self, atoms: Sequence[Atom], opened: set[Label]
    ) -> tuple[Key, list[Label]]:
        """Return a key that equal products share, and the open labels in its order."""
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
        order = [label for label in names if label in opened]
        sizes = tuple(label.size for label in names)
        return (tuple(parts), tuple(names[x] for x in order), sizes), order

    def plan(self, atoms: Sequence[Atom], opened: set[Label]) -> Tree:
        """Return the cheapest tree for a product of at least one tensor."""
        network = Network(self, atoms, opened)
        trees = [network.best(mask) for mask in network.components]
        trees.sort(key=lambda tree: size_of(tree.order))
        tree, *others = trees
        for other in others:
            tree = self.join(tree, other, opened)
        return tree

    def leaf(self, atom: Atom, opened: set[Label]) -> Leaf:
        """Return the tree of one tensor."""
        key, order = self.canonical([atom], opened)
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
        key, order = self.canonical(atoms, union & opened)
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


class Network:
    """The tensors of one product as sets of bits: bit ``i`` is tensor ``i``.

    A sub-product that may occur twice, because every source of it does, is a twin: its
    cost is kept under its key and counted once.
    """

    def __init__(
        self, planner: Planner, atoms: Sequence[Atom], opened: set[Label]
    ) -> None:
        self.planner = planner
        self.atoms = list(atoms)
        self.opened = opened
        self.labels = [frozenset(labels_in(atom)) for atom in self.atoms]
        self.having: dict[Label, int] = {}
        for i, labels in enumerate(self.labels):
            for label in labels:
                self.having[label] = self.having.get(label, 0) | 1 << i
        sources = [planner.number(atom.source) for atom in self.atoms]
        self.copies = Counter(sources)
        self.sources = sources
        self.open: dict[int, frozenset[Label]] = {}
        self.sizes: dict[frozenset[Label], int] = {}

    def open_in(self, mask: int) -> frozenset[Label]:
        """Return the labels that a sub-product must keep."""
        if mask not in self.open:
            labels = frozenset().union(*[self.labels[i] for i in bits(mask)])
            self.open[mask] = frozenset(
                x for x in labels if x in self.opened or self.having[x] & ~mask
            )
        return self.open[mask]

    def size(self, labels: frozenset[Label]) -> int:
        """Return how many elements labels run over."""
        if labels not in self.sizes:
            self.sizes[labels] = size_of(labels)
        return self.sizes[labels]

    @cached_property
    def neighbours(self) -> list[int]:
        """For each tensor those that it shares a label with."""
        near = []
        for labels in self.labels:
            mask = 0
            for label in labels:
                mask |= self.having[label]
            near.append(mask)
        return near

    @cached_property
    def components(self) -> list[int]:
        """The sets of tensors that are connected through labels."""
        left = (1 << len(self.atoms)) - 1
        found = []
        while left:
            mask = left & -left
            while (grown := self.reach(mask)) != mask:
                mask = grown
            found.append(mask)
            left &= ~mask
        return found

    def reach(self, mask: int) -> int:
        """Return the tensors of a set and their neighbours."""
        grown = mask
        for i in bits(mask):
            grown |= self.neighbours[i]
        return grown

    def twin(self, mask: int) -> Key | None:
        """Return the key of a sub-product that may occur twice."""
        used = Counter(self.sources[i] for i in bits(mask))
        if any(2 * count > self.copies[source] for source, count in used.items()):
            return None
        atoms = [self.atoms[i] for i in bits(mask)]
        return self.planner.canonical(atoms, set(self.open_in(mask)))[0]

    def best(self, mask: int) -> Tree:
        """Return the cheapest tree for a connected set of tensors."""
        places = list(bits(mask))
        if len(places) <= MOST_FACTORS:
            splits = self.search(places)
            if mask in splits:
                return self.tree(mask, splits)
        return self.greedy(places)

    def tree(self, mask: int, splits: dict[int, tuple[int, int]]) -> Tree:
        """Build the tree of a set of tensors from how each set is split."""
        if mask not in splits:
            atom = self.atoms[mask.bit_length() - 1]
            return self.planner.leaf(atom, set(self.open_in(mask)))
        left, right = splits[mask]
        return self.planner.join(
            self.tree(left, splits), self.tree(right, splits), set(self.open_in(mask))
        )

    def search(self, places: list[int]) -> dict[int, tuple[int, int]]:
        """Find the cheapest split of every connected set of tensors."""
        spent: dict[int, Spent] = {1 << i: Spent(0.0, {}) for i in places}
        splits: dict[int, tuple[int, int]] = {}
        by_size = [[], list(spent)]
        for size in range(2, len(places) + 1):
            found: dict[int, tuple[float, int, int]] = {}
            for a, b in self.pairs(by_size, size):
                cost = self.product(a, b) + spent[a].with_other(spent[b])
                if a | b not in found or cost < found[a | b][0]:
                    found[a | b] = cost, a, b
            for both, (_, a, b) in found.items():
                splits[both] = a, b
                spent[both] = spent[a].plus(
                    spent[b], self.product(a, b), self.twin(both)
                )
            by_size.append(list(found))
            if len(spent) > MOST_SUBSETS:
                break
        return splits

    def pairs(self, by_size: list[list[int]], size: int) -> Iterable[tuple[int, int]]:
        """Yield pairs of disjoint neighbouring sets that have ``size`` tensors."""
        for small in range(1, size // 2 + 1):
            for a in by_size[small]:
                near = self.reach(a)
                for b in by_size[size - small]:
                    if not a & b and near & b and (2 * small < size or a < b):
                        yield a, b

    def product(self, a: int, b: int) -> float:
        """Return the cost of multiplying two sub-products."""
        left, right = self.open_in(a), self.open_in(b)
        return product_cost(
            self.planner.machine,
            self.size(left),
            self.size(right),
            self.size(self.open_in(a | b)),
            self.size(left | right),
            self.planner.itemsize,
        )

    def greedy(self, places: list[int]) -> Tree:
        """Return the tree of opt_einsum's greedy order."""
        masks = [1 << i for i in places]
        inputs = [self.open_in(mask) for mask in masks]
        sizes = {x: x.size for labels in inputs for x in labels}
        output = self.open_in(sum(masks))
        splits = {}
        for pair in opt_einsum.paths.greedy(inputs, output, sizes):
            mask, *rest = [masks.pop(i) for i in sorted(pair, reverse=True)]
            for other in rest:
                splits[mask | other] = mask, other
                mask |= other
            masks.append(mask)
        return self.tree(masks[0], splits)


class Spent(NamedTuple):
    """The cost of a sub-product: what is paid once, and what twins may share."""

    alone: float
    twins: dict[Key, float]

    def with_other(self, other: "Spent") -> float:
        """Return the cost of two sub-products, what they share counted once."""
        if not self.twins and not other.twins:
            return self.alone + other.alone
        return self.alone + other.alone + sum({**self.twins, **other.twins}.values())

    def plus(self, other: "Spent", cost: float, key: Key | None) -> "Spent":
        """Return the cost of the product of two sub-products."""
        twins = {**self.twins, **other.twins}
        alone = self.alone + other.alone
        if key is None:
            return Spent(alone + cost, twins)
        return Spent(alone, {**twins, key: cost})


def bits(mask: int) -> Iterable[int]:
    """Yield the places of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
