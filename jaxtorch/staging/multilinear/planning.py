"""The order in which a product of tensors is contracted.

Exact dynamic programming over connected sub-products, where a sub-product that occurs
twice is paid for once; opt_einsum's greedy order where there are too many of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
                x: hash((x in opened, x.size, colours.get(x), *sorted(c)))
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


def total(trees: Iterable[Tree]) -> float:
    """Return the cost of trees in which equal sub-products are computed once."""
    costs = {tree.key: tree.cost for root in trees for tree in trees_in(root)}
    return sum(costs.values())


class Network:
    """The tensors of one product as sets of bits: bit ``i`` is tensor ``i``."""

    def __init__(
        self, planner: Planner, atoms: Sequence[Atom], opened: set[Label]
    ) -> None:
        self.planner = planner
        self.atoms = list(atoms)
        self.opened = opened
        self.having: dict[Label, int] = {}
        for i, atom in enumerate(self.atoms):
            for label in labels_in(atom):
                self.having[label] = self.having.get(label, 0) | 1 << i
        self.labels = [set(labels_in(atom)) for atom in self.atoms]

    def open_in(self, mask: int) -> set[Label]:
        """Return the labels that a sub-product must keep."""
        labels: set[Label] = set()
        for i in bits(mask):
            labels |= self.labels[i]
        return {x for x in labels if x in self.opened or self.having[x] & ~mask}

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

    def best(self, mask: int) -> Tree:
        """Return the cheapest tree for a connected set of tensors."""
        places = list(bits(mask))
        trees: dict[int, Tree] = {
            1 << i: self.planner.leaf(self.atoms[i], self.open_in(1 << i))
            for i in places
        }
        if len(places) <= MOST_FACTORS:
            by_size: list[list[int]] = [[], [1 << i for i in places]]
            subsets = len(places)
            for size in range(2, len(places) + 1):
                by_size.append(self.grow(by_size, size, trees))
                subsets += len(by_size[-1])
                if subsets > MOST_SUBSETS:
                    break
            if mask in trees:
                return trees[mask]
        return self.greedy(places, trees)

    def grow(
        self, by_size: list[list[int]], size: int, trees: dict[int, Tree]
    ) -> list[int]:
        """Find the cheapest tree for every connected set of ``size`` tensors."""
        chosen: dict[int, tuple[float, int, int, list[Label]]] = {}
        near = {m: self.reach(m) for level in by_size for m in level}
        totals = {m: total([trees[m]]) for m in near}
        for small in range(1, size // 2 + 1):
            for a in by_size[small]:
                for b in by_size[size - small]:
                    if a & b or not near[a] & b:
                        continue
                    both = a | b
                    order = list(self.open_in(both))
                    cost = self.planner.cost(trees[a], trees[b], order)
                    cost += self.shared_total(trees[a], trees[b], totals[a] + totals[b])
                    if both not in chosen or cost < chosen[both][0]:
                        chosen[both] = cost, a, b, order
        for both, (_, a, b, _) in chosen.items():
            trees[both] = self.planner.join(trees[a], trees[b], self.open_in(both))
        return list(chosen)

    def shared_total(self, left: Tree, right: Tree, separately: float) -> float:
        """Return the cost of two trees, equal parts once."""
        if not (isinstance(left, Product) and isinstance(right, Product)):
            return separately
        return total([left, right])

    def greedy(self, places: list[int], trees: dict[int, Tree]) -> Tree:
        """Return the tree of opt_einsum's greedy order."""
        leaves = [trees[1 << i] for i in places]
        mask = sum(1 << i for i in places)
        inputs = [frozenset(leaf.order) for leaf in leaves]
        sizes = {x: x.size for labels in inputs for x in labels}
        path = opt_einsum.paths.greedy(inputs, frozenset(self.open_in(mask)), sizes)
        work: list[tuple[int, Tree]] = [
            (1 << i, leaf) for i, leaf in zip(places, leaves, strict=True)
        ]
        for pair in path:
            (m1, first), *rest = [work.pop(i) for i in sorted(pair, reverse=True)]
            for m2, other in rest:
                m1 |= m2
                first = self.planner.join(first, other, self.open_in(m1))
            work.append((m1, first))
        return work[0][1]


def bits(mask: int) -> Iterable[int]:
    """Yield the places of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
