"""The order in which the tensors of a product are multiplied.

Dynamic programming over sets of tensors, where a sub-product that occurs twice is paid
for once, and where what costs more than a bound is left out; opt_einsum's greedy order
where there are too many sets below every bound that leads to an order.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from math import inf
from typing import Any, NamedTuple, Protocol

import opt_einsum  # type: ignore[import-untyped]  # it has no stubs

from jaxtorch.staging.multilinear.cost import Machine, product_cost
from jaxtorch.staging.multilinear.form import Atom, Label, labels_in

MOST_FACTORS = 12
MOST_PAIRS = 40_000
"""Above these the order is opt_einsum's, not proved to be optimal."""
MOST_OUTER = 8
"""Up to so many tensors, two without a common index may be multiplied."""
GROWTH = 4
UNBOUNDED = 6
"""Up to so many tensors, no bound saves as much as trying it takes."""

Splits = dict[int, tuple[int, int]]


class Keys(Protocol):
    """What a network must know of its planner."""

    machine: Machine
    itemsize: int

    def number(self, source: Any) -> int:
        """Return the number of a source."""

    def canonical(
        self, atoms: Sequence[Atom], opened: set[Label]
    ) -> tuple[tuple[Any, ...], list[Label]]:
        """Return a key that equal products share."""


class Set(NamedTuple):
    """A set of tensors: the labels of its product, their elements, and its cost.

    The cost is what is paid once, and what twins may share.
    """

    labels: int
    size: int
    alone: float
    twins: dict[Any, float]


class TooManyError(Exception):
    """A search has tried as many pairs as it may."""


class Network:
    """The tensors of one product, and sets of them, as bits: bit ``i`` is tensor ``i``.

    Sets of labels are bits as well. A sub-product that may occur twice, because every
    source of it does, is a twin: its cost is kept under its key and counted once.
    """

    def __init__(
        self, planner: Keys, atoms: Sequence[Atom], opened: set[Label]
    ) -> None:
        self.planner = planner
        self.atoms = list(atoms)
        self.known: list[Label] = list({x: 0 for a in atoms for x in labels_in(a)})
        numbers = {label: i for i, label in enumerate(self.known)}
        self.labels = [
            sum(1 << numbers[x] for x in set(labels_in(atom))) for atom in self.atoms
        ]
        self.opened = sum(1 << i for i, x in enumerate(self.known) if x in opened)
        self.sources = [planner.number(atom.source) for atom in self.atoms]
        self.copies = Counter(self.sources)
        self.unique = sum(
            1 << i for i, x in enumerate(self.sources) if self.copies[x] == 1
        )
        self.open: dict[int, int] = {}
        self.sizes: dict[int, int] = {}

    def open_in(self, mask: int) -> int:
        """Return the labels that a sub-product must keep."""
        if mask not in self.open:
            inside, kept = 0, self.opened
            for i, labels in enumerate(self.labels):
                if mask >> i & 1:
                    inside |= labels
                else:
                    kept |= labels
            self.open[mask] = inside & kept
        return self.open[mask]

    def open_labels(self, mask: int) -> set[Label]:
        """Return the labels that a sub-product must keep, themselves."""
        return {self.known[i] for i in bits(self.open_in(mask))}

    def size(self, labels: int) -> int:
        """Return how many elements labels run over."""
        if labels not in self.sizes:
            size = 1
            for i in bits(labels):
                size *= self.known[i].size
            self.sizes[labels] = size
        return self.sizes[labels]

    @cached_property
    def components(self) -> list[int]:
        """The sets of tensors that are connected through labels."""
        left = (1 << len(self.atoms)) - 1
        found = []
        while left:
            mask, labels = 0, self.labels[(left & -left).bit_length() - 1]
            while (grown := self.reach(labels)) != mask:
                mask = grown
                for i in bits(mask):
                    labels |= self.labels[i]
            mask |= left & -left
            found.append(mask)
            left &= ~mask
        return found

    def reach(self, labels: int) -> int:
        """Return the tensors that have any of some labels."""
        return sum(1 << i for i, own in enumerate(self.labels) if own & labels)

    def twin(self, mask: int) -> Any:
        """Return the key of a sub-product that may occur twice; else None."""
        if mask & self.unique:
            return None
        used = Counter(self.sources[i] for i in bits(mask))
        if any(2 * count > self.copies[source] for source, count in used.items()):
            return None
        atoms = [self.atoms[i] for i in bits(mask)]
        return self.planner.canonical(atoms, self.open_labels(mask))[0]

    def best(self, mask: int) -> Splits:
        """Return how to split a connected set of tensors, and the sets it is split in.

        The bound is raised until an order is found that costs no more.
        """
        count = mask.bit_count()
        bound = inf if count <= UNBOUNDED else self.least(mask)
        try:
            while count <= MOST_FACTORS:
                splits = self.search(mask, bound)
                if mask in splits or count == 1:
                    return splits
                bound *= GROWTH
        except TooManyError:
            pass
        return self.greedy(mask)

    def least(self, mask: int) -> float:
        """Return what a product takes at least: its calls, and reading its tensors."""
        machine = self.planner.machine
        elements = sum(self.size(self.labels[i]) for i in bits(mask))
        traffic = elements * self.planner.itemsize / machine.bytes
        return mask.bit_count() * (machine.call + machine.view) + traffic

    def search(self, mask: int, bound: float) -> Splits:
        """Find the cheapest split of every set of tensors that costs no more."""
        sets = {1 << i: self.set_of(1 << i, 0.0, {}) for i in bits(mask)}
        splits: Splits = {}
        by_size = [[], list(sets)]
        self.left = MOST_PAIRS
        for size in range(2, mask.bit_count() + 1):
            found: dict[int, float] = {}
            for a, b, below in self.pairs(sets, by_size, size):
                both = a | b
                best = found.get(both, bound)
                if below < best:
                    cost = below + self.product(sets[a], sets[b], both)
                    if cost < best:
                        found[both] = cost
                        splits[both] = a, b
            for both in found:
                a, b = splits[both]
                first, second = sets[a], sets[b]
                step = self.product(first, second, both)
                alone, twins = first.alone + second.alone, first.twins | second.twins
                key = self.twin(both)
                if key is None:
                    alone += step
                else:
                    twins = {**twins, key: step}
                sets[both] = self.set_of(both, alone, twins)
            by_size.append(list(found))
        return splits

    def set_of(self, mask: int, alone: float, twins: dict[Any, float]) -> Set:
        """Return what must be known of a set."""
        labels = self.open_in(mask)
        return Set(labels, self.size(labels), alone, twins)

    def pairs(
        self, sets: dict[int, Set], by_size: list[list[int]], size: int
    ) -> Iterable[tuple[int, int, float]]:
        """Yield disjoint sets that have ``size`` tensors, and what both cost.

        They share a label, or are among few tensors and make none that is larger.
        """
        few = len(self.atoms) <= MOST_OUTER
        largest = max(sets[i].size for i in by_size[1]) if few else 0
        for small in range(1, size // 2 + 1):
            for a in by_size[small]:
                labels, elements, alone, twins = sets[a]
                for b in by_size[size - small]:
                    if a & b or (2 * small == size and a > b):
                        continue
                    other = sets[b]
                    if labels & other.labels or elements * other.size <= largest:
                        below = alone + other.alone
                        if twins or other.twins:
                            below += sum((twins | other.twins).values())
                        yield a, b, below
            self.left -= len(by_size[small]) * len(by_size[size - small]) // 4
            if self.left < 0:
                raise TooManyError

    def product(self, first: Set, second: Set, both: int) -> float:
        """Return the cost of multiplying two sub-products."""
        return product_cost(
            self.planner.machine,
            first.size,
            second.size,
            self.size(self.open_in(both)),
            self.size(first.labels | second.labels),
            self.planner.itemsize,
        )

    def greedy(self, mask: int) -> Splits:
        """Return the splits of opt_einsum's greedy order."""
        masks = [1 << i for i in bits(mask)]
        inputs = [self.open_labels(part) for part in masks]
        sizes = {x: x.size for labels in inputs for x in labels}
        splits = {}
        for pair in opt_einsum.paths.greedy(inputs, self.open_labels(mask), sizes):
            joined, *rest = [masks.pop(i) for i in sorted(pair, reverse=True)]
            for other in rest:
                splits[joined | other] = joined, other
                joined |= other
            masks.append(joined)
        return splits


def bits(mask: int) -> Iterable[int]:
    """Yield the places of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
