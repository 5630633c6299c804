"""The planner against searches that know nothing of it."""

import itertools
import math

import opt_einsum
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxtorch.staging.multilinear import ordering
from jaxtorch.staging.multilinear.cost import CPU, Machine, product_cost
from jaxtorch.staging.multilinear.form import (
    Atom,
    Label,
    labels_in,
    renamed_factor,
    size_of,
)
from jaxtorch.staging.multilinear.planning import Leaf, Planner, Product, trees_in

QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
ITEMSIZE = 4
SIZES = st.sampled_from((2, 3, 8, 50, 300))


def planner(machine: Machine = CPU) -> Planner:
    """Return a planner that has met no source."""
    return Planner(machine, ITEMSIZE, {})


def cost_of(tree) -> float:
    """Return the cost of a tree; equal parts are computed once."""
    return sum({part.key: part.cost for part in trees_in(tree)}.values())


def atoms_of(equation: str, sizes: dict[str, int], sources=None):
    """Return the atoms and the open labels of an einsum; distinct sources if none."""
    inputs, out = equation.split("->")
    labels = {name: Label(n) for name, n in sizes.items()}
    words = inputs.split(",")
    atoms = [
        Atom(source, tuple((labels[name],) for name in word))
        for source, word in zip(sources or range(len(words)), words, strict=True)
    ]
    return atoms, {labels[name] for name in out}


class Search:
    """The cheapest order of a product by trying all of them; no part is shared."""

    def __init__(self, atoms, opened, outer: bool) -> None:
        self.atoms, self.opened, self.outer = atoms, opened, outer
        self.planner = planner()
        self.found: dict[frozenset[int], float] = {}

    def open_in(self, subset: frozenset[int]) -> frozenset[Label]:
        """Return the labels that are kept of a part."""
        inside, outside = set(), set(self.opened)
        for i, atom in enumerate(self.atoms):
            (inside if i in subset else outside).update(labels_in(atom))
        return frozenset(inside & outside)

    def step(self, a: frozenset[int], b: frozenset[int]) -> float:
        """Return the cost of multiplying two parts."""
        left, right = self.open_in(a), self.open_in(b)
        labels = (left, right, self.open_in(a | b), left | right)
        return product_cost(CPU, *map(size_of, labels), ITEMSIZE)

    def shares(self, a: frozenset[int], b: frozenset[int]) -> bool:
        """Tell whether two parts have a label in common."""
        return bool(self.open_in(a) & self.open_in(b))

    def cheapest(self, subset: frozenset[int]) -> float:
        """Return the cost of the best tree of a part, without that of its leaves."""
        if len(subset) == 1:
            return 0.0
        if subset not in self.found:
            first, *others = sorted(subset)
            costs = [math.inf]
            for count in range(len(others)):
                for more in itertools.combinations(others, count):
                    a = frozenset((first, *more))
                    b = subset - a
                    if self.outer or self.shares(a, b):
                        below = self.cheapest(a) + self.cheapest(b)
                        costs.append(below + self.step(a, b))
            self.found[subset] = min(costs)
        return self.found[subset]

    def leaves(self) -> float:
        """Return the cost of summing each tensor by itself."""
        total = 0.0
        for i, atom in enumerate(self.atoms):
            own = self.open_in(frozenset({i}))
            total += self.planner.leaf(atom, set(own)).cost
        return total

    def cost(self) -> float:
        """Return the cost of the best tree."""
        return self.leaves() + self.cheapest(frozenset(range(len(self.atoms))))


@st.composite
def networks(draw, most: int = 6):
    """Draw a connected product of distinct tensors."""
    names = "abcdefg"[: draw(st.integers(2, 7))]
    sizes = {name: draw(SIZES) for name in names}
    some = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    words = [draw(some) for _ in range(draw(st.integers(2, most)))]
    seen = set(words[0])
    for word in words[1:]:
        if not seen & set(word):
            word.append(draw(st.sampled_from(sorted(seen))))
        seen |= set(word)
    out = [name for name in sorted(seen) if draw(st.booleans())]
    inputs = ",".join("".join(word) for word in words)
    return atoms_of(f"{inputs}->{''.join(out)}", sizes)


@QUICK
@given(networks())
def test_no_order_is_much_cheaper(network):
    """Of all orders, those that multiply tensors without a common index included."""
    atoms, opened = network
    cost = cost_of(planner().plan(atoms, opened))
    assert cost <= Search(atoms, opened, outer=False).cost() * (1 + 1e-9)
    assert cost <= Search(atoms, opened, outer=True).cost() * 1.1


@settings(QUICK, max_examples=30)
@given(networks(8))
def test_no_order_is_left_out_by_its_bound(network):
    atoms, opened = network
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "UNBOUNDED", 0)
        bounded = cost_of(planner().plan(atoms, opened))
        patch.setattr(ordering, "UNBOUNDED", 12)
        assert bounded == pytest.approx(cost_of(planner().plan(atoms, opened)))


@QUICK
@given(networks(), st.permutations(range(6)))
def test_a_plan_is_kept_for_the_same_product(network, order):
    """Under other labels and in another order of its tensors."""
    atoms, opened = network
    names = {x: (Label(x.size),) for atom in atoms for x in labels_in(atom)}
    others = [renamed_factor(atoms[i], names) for i in order if i < len(atoms)]
    keeping = planner()
    first = keeping.plan(atoms, opened)
    kept = {y for x, (y,) in names.items() if x in opened}
    second = keeping.plan(others, kept)
    assert len(keeping.plans) == 1
    assert second.key == first.key
    assert [names[x] for x in first.order] == [(x,) for x in second.order]
    leaves = {part.atom for part in trees_in(second) if isinstance(part, Leaf)}
    assert leaves == set(others)


@QUICK
@given(networks())
def test_the_order_of_opt_einsum_is_not_cheaper(network):
    atoms, opened = network
    inputs = [set(labels_in(atom)) for atom in atoms]
    sizes = {label: label.size for labels in inputs for label in labels}
    search = Search(atoms, opened, outer=True)
    finder = opt_einsum.DynamicProgramming(minimize="flops")
    parts = [frozenset({i}) for i in range(len(atoms))]
    total = search.leaves()
    for pair in finder(inputs, opened, sizes):
        taken = [parts.pop(i) for i in sorted(pair, reverse=True)]
        joined, *others = taken
        for other in others:
            total += search.step(joined, other)
            joined |= other
        parts.append(joined)
    assert cost_of(planner().plan(atoms, opened)) <= total * (1 + 1e-9)


@QUICK
@given(networks(), st.integers(2, 4))
def test_greedy_orders_are_whole(network, most):
    """With more tensors than the search takes, every tensor is still used once."""
    atoms, opened = network
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "MOST_FACTORS", most - 1)
        tree = planner().plan(atoms, opened)
    leaves = [part.atom for part in trees_in(tree) if isinstance(part, Leaf)]
    assert sorted(atom.source for atom in leaves) == list(range(len(atoms)))
    assert set(tree.order) == opened & {x for a in atoms for x in labels_in(a)}
    assert cost_of(tree) >= Search(atoms, opened, outer=True).cost() * (1 - 1e-9)


def test_a_matrix_chain_starts_at_the_narrow_end():
    atoms, opened = atoms_of(
        "ab,bc,cd,de->ae", {"a": 500, "b": 500, "c": 20, "d": 500, "e": 500}
    )
    tree = planner().plan(atoms, opened)
    assert isinstance(tree, Product)
    pairs = [
        {part.atom.source for part in trees_in(side) if isinstance(part, Leaf)}
        for side in tree.parts
    ]
    assert sorted(map(sorted, pairs)) == [[0, 1], [2, 3]]


def test_tensors_that_share_no_label_are_joined_from_the_smallest():
    atoms, opened = atoms_of("a,b,c->abc", {"a": 300, "b": 2, "c": 30})
    tree = planner().plan(atoms, opened)
    assert [labels_in(leaf.atom)[0].size for leaf in tree.left.parts] == [2, 30]


TWINS = {
    "the square of a product": ("ab,bc,ad,dc->", "WXWX", 1),
    "a Gram matrix of products": ("ab,bc,de,ec->ad", "WXWX", 1),
    "a norm of three factors": ("ab,bc,cd,ae,ef,fd->", "WXYWXY", 2),
}


@pytest.mark.parametrize("name", TWINS)
def test_twins_are_paid_once(name):
    equation, sources, shared = TWINS[name]
    sizes = dict.fromkeys("abcdef", 200)
    atoms, opened = atoms_of(equation, sizes, sources)
    tree = planner().plan(atoms, opened)
    products = [part for part in trees_in(tree) if isinstance(part, Product)]
    saved = len(products) - len({part.key for part in products})
    assert cost_of(tree) < Search(*atoms_of(equation, sizes), outer=False).cost()
    assert saved == shared


@QUICK
@given(networks(most=3), st.data())
def test_twins_never_make_an_order_dearer(network, data):
    atoms, opened = network
    fresh = {x: Label(x.size) for atom in atoms for x in labels_in(atom)}
    kept = set(data.draw(st.permutations(sorted(fresh, key=id)))[:1])
    copies = [
        Atom(a.source, tuple((x if x in kept else fresh[x],) for (x,) in a.axes))
        for a in atoms
    ]
    both = [*atoms, *copies]
    tree = planner().plan(both, set(kept))
    alone = Search(both, set(kept), outer=False).cost()
    if alone < math.inf:
        assert cost_of(tree) <= alone * (1 + 1e-9)


def is_isomorphic(first, second, opened, others) -> bool:
    """Tell whether a renaming of labels turns one product into another."""
    for permuted in itertools.permutations(second):
        if [a.source for a in first] != [b.source for b in permuted]:
            continue
        pairs = {
            pair
            for a, b in zip(first, permuted, strict=True)
            for pair in zip(labels_in(a), labels_in(b), strict=True)
        }
        is_renaming = (
            len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})
        )
        if is_renaming and all(
            a.size == b.size and (a in opened) == (b in others) for a, b in pairs
        ):
            return True
    return False


@st.composite
def repeated(draw, copies: int):
    """Draw a product of matrices in which a source occurs several times."""
    labels = [Label(draw(st.sampled_from((2, 3)))) for _ in range(4)]
    words = st.lists(st.sampled_from(labels), min_size=2, max_size=2)
    sources = draw(st.permutations("AB" * copies))
    sources = sources[: draw(st.integers(2, len(sources)))]
    atoms = [Atom(s, tuple((x,) for x in draw(words))) for s in sources]
    return atoms, {x for x in labels if draw(st.booleans())}


@settings(parent=QUICK, max_examples=1500)
@given(repeated(2), repeated(2))
def test_only_isomorphic_products_share_a_key(first, second):
    own = planner()
    a, _ = own.canonical(*first)
    b, _ = own.canonical(*second)
    if a == b:
        assert is_isomorphic(first[0], second[0], first[1], second[1])


@settings(parent=QUICK, max_examples=600)
@given(repeated(2), st.data())
def test_isomorphic_products_share_a_key(product, data):
    atoms, opened = product
    renamed = {x: Label(x.size) for atom in atoms for x in labels_in(atom)}
    copies = [
        Atom(a.source, tuple((renamed[x],) for (x,) in a.axes))
        for a in data.draw(st.permutations(atoms))
    ]
    own = planner()
    key, order = own.canonical(atoms, opened)
    other, places = own.canonical(copies, {renamed[x] for x in opened if x in renamed})
    assert is_isomorphic(
        atoms, copies, opened, {renamed[x] for x in opened & {*renamed}}
    )
    assert key == other
    assert [x.size for x in order] == [x.size for x in places]
