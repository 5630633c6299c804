"""The pass: which nodes are computed as written and which through their normal form.

Every node that something needs is costed both ways, in the order of the graph. A cost
is that of a set of calls and products, so that what two values share is paid for once.
"""

import itertools
from collections.abc import Mapping
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.staging.multilinear.assembly import (
    Assembler,
    assembly_sizes,
    core_labels,
    elements_of,
)
from jaxtorch.staging.multilinear.banding import Bands, Dims, band_of
from jaxtorch.staging.multilinear.cost import machine_for, node_cost
from jaxtorch.staging.multilinear.fills import free_fills
from jaxtorch.staging.multilinear.folding import fold
from jaxtorch.staging.multilinear.form import (
    Atom,
    Call,
    Factor,
    Form,
    OneHot,
    OpaqueError,
    Term,
    Window,
    labels_of,
    parts_of,
    size_of,
)
from jaxtorch.staging.multilinear.lowering import Lowering
from jaxtorch.staging.multilinear.narrowing import narrow
from jaxtorch.staging.multilinear.norms import close_norms, open_norms
from jaxtorch.staging.multilinear.operators.table import TABLES
from jaxtorch.staging.multilinear.ordering import MOST_FACTORS, bits
from jaxtorch.staging.multilinear.planning import Leaf, Planner, Tree, trees_in
from jaxtorch.staging.multilinear.reading import (
    ORDER,
    PATHS,
    Policy,
    Reader,
    is_atom,
    is_plain,
)
from jaxtorch.staging.multilinear.refining import Way, given_up
from jaxtorch.staging.multilinear.scattering import Scatter
from jaxtorch.staging.multilinear.text import form_text
from jaxtorch.staging.passes.rewriting import emit, shape_of

aten = torch.ops.aten
GAIN = 0.97
"""A form is taken where what only it needs costs less than this share of what only the
calls as written need.
"""
PLAIN_SHARE = 0.5
"""This times less for elementwise products and sums of rows, which may be fused."""
TINY = 1e-9
LEAST_GAIN = 1.0
"""And where it saves as many microseconds."""
UNFOLDING = 3
"""How much slower the input of a convolution is unfolded than other calls write."""
WORTH_REPEATING = 0.9
"""The values of other nodes are used unless doing without costs less than this."""


class Planned(NamedTuple):
    """A term and the tree of its core."""

    term: Term
    tree: Tree | None


def optimize(graph: fx.Graph) -> list[str]:
    """Rewrite a graph where its normal form is cheaper; say what was rewritten."""
    free_fills(graph)
    narrowed = narrow(graph, TABLES)
    opened = open_norms(graph)
    plans = Plans(graph, ORDER)
    if plans.reader.sums:
        other = Plans(graph, PATHS)
        if other.cost() < plans.cost():
            plans = other
    rewrites = narrowed + plans.carry_out()
    close_norms(opened)
    return rewrites


class Plans:
    """What is to be done with every node under one policy."""

    def __init__(self, graph: fx.Graph, policy: Policy) -> None:
        self.graph = graph
        self.reader = Reader(graph, policy, TABLES)
        self.items: dict[Any, int] = {}
        self.costs: list[float] = []
        self.planners: dict[Any, Planner] = {}
        self.numbers: dict[Any, int] = {}
        self.chosen: dict[fx.Node, list[Planned]] = {}
        self.needs: dict[fx.Node, int] = {}
        self.written: dict[fx.Node, Way] = {}
        self.formed: dict[fx.Node, Way] = {}
        for node in graph.nodes:
            self.decide(node)
        self.give_up()

    def cost(self, mask: int | None = None) -> float:
        """Return the cost of a set of items; of all that the results need."""
        if mask is None:
            mask = self.needs[next(n for n in self.graph.nodes if n.op == "output")]
        return sum(self.costs[i] for i in bits(mask))

    def item(self, key: Any, cost: float) -> int:
        """Return the bit of something that is computed once."""
        if key not in self.items:
            self.items[key] = len(self.costs)
            self.costs.append(cost)
        return 1 << self.items[key]

    def planner(self, node: fx.Node) -> Planner:
        """Return the planner for a node's device and dtype."""
        device, dtype = node.meta.get("device"), node.meta["val"].dtype
        if (device, dtype) not in self.planners:
            planner = Planner(machine_for(device), dtype.itemsize, self.numbers)
            self.planners[device, dtype] = planner
        return self.planners[device, dtype]

    def decide(self, node: fx.Node) -> None:
        """Find what a node needs, and whether its form is cheaper than its call."""
        items = 0
        if node.op == "call_function" and node.all_input_nodes:
            cost = node_cost(machine_for(node.meta.get("device")), node)
            items = self.item(node, cost)
        self.written[node] = Way(items, node.all_input_nodes)
        mask = self.needs[node] = self.needed(self.written[node])
        form = self.form_to_compute(node)
        if form is None:
            return
        try:
            planned, other = self.plan(node, form)
        except OpaqueError:
            return
        written, formed = self.cost(mask & ~other), self.cost(other & ~mask)
        gain = GAIN * (PLAIN_SHARE if all(map(is_plain, form)) else 1)
        if formed < gain * (written + TINY) and formed < written - LEAST_GAIN:
            self.chosen[node] = planned
            self.formed[node] = self.way(node, planned)
            self.needs[node] = other

    def needed(self, way: Way) -> int:
        """Return what a way to compute a node needs."""
        mask = way.items
        for source in way.sources:
            mask |= self.needs[source]
        return mask

    def way(self, node: fx.Node, planned: list[Planned]) -> Way:
        """Return how the planned form of a node is computed."""
        planner = self.planner(node)
        items = self.item(("assembly", node), 0.0)
        sources = []
        for term, tree in planned:
            for part in () if tree is None else trees_in(tree):
                items |= self.item(part.key, part.cost)
            for factor in term.factors:
                sources += sources_of(factor)
                if not isinstance(factor, Window):
                    items |= self.made_for(planner, atom_of(factor))
        return Way(items, sources)

    def give_up(self) -> None:
        """Compute as written what is cheaper so, now that all else is known."""
        for node in given_up(self.graph, self.written, self.formed, self.cost):
            del self.chosen[node], self.formed[node]
        for node in self.graph.nodes:
            self.needs[node] = self.needed(self.formed.get(node, self.written[node]))

    def form_to_compute(self, node: fx.Node) -> Form | None:
        """Return the form of a node that something needs, if it may be cheaper."""
        form = self.reader.meanings.get(node) or self.reader.forms.get(node)
        if form is None or node.op != "call_function":
            return None
        wanted = self.is_kept(node) or node in self.reader.names
        if not wanted and all(self.is_read(user) for user in node.users):
            return None
        if is_atom(form) and form[0].coef == 1:
            source = form[0].atoms[0].source
            if source is node or source in node.all_input_nodes:
                return None
        return form

    def is_read(self, node: fx.Node) -> bool:
        """Tell whether a node has a form of its own."""
        return node in self.reader.forms and not self.is_kept(node)

    def is_kept(self, node: fx.Node) -> bool:
        """Tell whether a node stands for itself in other forms."""
        form = self.reader.forms.get(node)
        return form is None or (is_atom(form) and form[0].atoms[0].source is node)

    def plan(self, node: fx.Node, form: Form) -> tuple[list[Planned], int]:
        """Plan the terms of a form; return them with all that they need."""
        planner = self.planner(node)
        names = {n: t for n, t in self.reader.names.items() if n in self.needs}
        names.pop(node, None)
        planned, mask = [], 0
        for term in form:
            best, need = self.plan_term(planner, term, names, mask)
            planned.append(best)
            mask |= need
        total = placing_cost(planner, [best.term for best in planned])
        return planned, mask | self.item(("assembly", node), total)

    def plan_term(
        self, planner: Planner, term: Term, names: Mapping[Any, Term], given: int
    ) -> tuple[Planned, int]:
        """Plan one term; parts that are the value of a node become it if that pays.

        What is ``given`` costs nothing more.
        """
        folded = fold(term, names)
        plan = self.plan_product(planner, folded)
        if folded is term or len(term.atoms) > MOST_FACTORS:
            return plan
        best = self.plan_product(planner, term)
        for node, meaning in names.items():
            changed = fold(term, {node: meaning})
            if changed is not term:
                other = self.plan_product(planner, changed)
                if not self.is_worth(best[1], other[1], given):
                    best, term = other, changed
        return best if self.is_worth(best[1], plan[1], given) else plan

    def is_worth(self, mask: int, other: int, given: int) -> bool:
        """Tell whether doing without the values of other nodes is clearly cheaper."""
        alone, shared = mask & ~(other | given), other & ~(mask | given)
        return self.cost(alone) < WORTH_REPEATING * self.cost(shared)

    def plan_product(self, planner: Planner, term: Term) -> tuple[Planned, int]:
        """Plan the core of one term; return it with all that it needs."""
        mask = 0
        term = with_small_factor(term)
        for factor in term.factors:
            if isinstance(factor, OneHot):
                mask |= self.need_of(planner, factor.index)
        opened = core_labels(term)
        if not term.atoms:
            return Planned(term, None), mask
        tree = planner.plan(term.atoms, opened)
        for part in trees_in(tree):
            mask |= self.item(part.key, part.cost)
            if isinstance(part, Leaf):
                mask |= self.need_of(planner, part.atom)
        return Planned(term, tree), mask

    def need_of(self, planner: Planner, atom: Atom) -> int:
        """Return what the source of an atom needs."""
        mask = self.made_for(planner, atom)
        for part in parts_of(atom.source):
            if isinstance(part, fx.Node):
                mask |= self.needs[part]
        return mask

    def made_for(self, planner: Planner, atom: Atom) -> int:
        """Return the calls that make the source of an atom of values of nodes."""
        mask = 0
        machine = planner.machine
        size = size_of(labels_of([atom]))
        parts = parts_of(atom.source)
        if any(isinstance(p, Call) and p.target is aten.sum.dim_IntList for p in parts):
            nodes = [part for part in parts if isinstance(part, fx.Node)]
            size = max(size, *(node.meta["val"].numel() for node in nodes))
        for part in parts:
            if isinstance(part, Call):
                made = machine.call + size * planner.itemsize / machine.bytes
                if part.target is aten.im2col.default:
                    made *= UNFOLDING
                mask |= self.item(part, machine.view if part.target in VIEWS else made)
        return mask

    def carry_out(self) -> list[str]:
        """Put the chosen forms into the graph."""
        lowering = Lowering()
        rewrites = []
        used = self.used()
        for node in list(self.graph.nodes):
            if node not in self.chosen or node not in used:
                continue
            new = lower(lowering, node, self.chosen[node])
            lowering.replaced[node] = new
            node.replace_all_uses_with(new)
            rewrites.append(describe(node, self.chosen[node]))
        return rewrites

    def used(self) -> set[fx.Node]:
        """Return the nodes that the results need as things were chosen."""
        used: set[fx.Node] = set()
        for node in reversed(list(self.graph.nodes)):
            if node.op == "output" or node in used:
                if node in self.chosen:
                    for term, _ in self.chosen[node]:
                        for factor in term.factors:
                            used.update(sources_of(factor))
                else:
                    used.update(node.all_input_nodes)
        return used


def with_small_factor(term: Term) -> Term:
    """Multiply the coefficient into the smallest tensor that occurs once."""
    sources = [atom.source for atom in term.atoms]
    atoms = [atom for atom in term.atoms if sources.count(atom.source) == 1]
    smallest = min(atoms, key=lambda a: size_of(labels_of([a])), default=None)
    if term.coef == 1 or smallest is None:
        return term
    if size_of(labels_of([smallest])) >= size_of(core_labels(term)):
        return term
    source = Call(aten.mul.Tensor, (smallest.source, term.coef))
    scaled = Atom(source, smallest.axes)
    factors = tuple(scaled if f is smallest else f for f in term.factors)
    return Term(1, factors, term.axes)


def placing_cost(planner: Planner, terms: list[Term]) -> float:
    """Return the cost of placing the cores of terms in a value.

    Each term makes a tensor, the bands of two dims make one together; these are added.
    """
    bands = [band_of(term) for term in terms]
    values = len({band.dims for band in bands if band}) + bands.count(None)
    seen: set[Dims] = set()
    total = 0.0
    for term, band in zip(terms, bands, strict=True):
        sizes = assembly_sizes(term if band is None else band.inner)
        if band is not None:
            sizes.append(elements_of(band.inner))
        if band is None or band.dims not in seen:
            sizes += [elements_of(term)] * ((band is not None) + (values > 1))
        if band is not None:
            seen.add(band.dims)
        total += assembly_cost(planner, sizes, term)
    return total


def assembly_cost(planner: Planner, sizes: list[int], term: Term) -> float:
    """Return the cost of placing a core in its value, and of adding it to others."""
    machine = planner.machine
    calls = len(sizes) + (term.coef != 1)
    cost = calls * (machine.call + machine.view) + machine.view
    return cost + 3 * sum(sizes) * planner.itemsize / machine.bytes


VIEWS = {aten.view.default, aten.permute.default, aten.slice.Tensor}


def sources_of(factor: Factor) -> list[fx.Node]:
    """Return the nodes that a factor is computed from."""
    if isinstance(factor, Window):
        return []
    parts = parts_of(atom_of(factor).source)
    return [part for part in parts if isinstance(part, fx.Node)]


def atom_of(factor: Atom | OneHot) -> Atom:
    """Return the tensor of a factor."""
    return factor.index if isinstance(factor, OneHot) else factor


def lower(lowering: Lowering, node: fx.Node, planned: list[Planned]) -> fx.Node:
    """Put the terms of a node's form into the graph, and add them up."""
    assembler = Assembler(lowering, node)
    scatter, bands = Scatter(assembler), Bands(assembler)
    shape = shape_of(node)
    total: fx.Node | None = None
    alone = [p for p in planned if not (scatter.take(*p) or bands.take(*p))]
    alone.sort(key=lambda p: not p.term.is_dense)
    values = (assembler.term(*each) for each in alone)
    for value in itertools.chain(values, bands.values(shape), scatter.values(shape)):
        if total is None:
            total = value
        else:
            total = emit(node, aten.add.Tensor, total, value)
    if total is None:
        named = {"dtype": node.meta["val"].dtype, "device": node.meta["device"]}
        return emit(node, aten.zeros.default, shape, **named)
    if shape_of(total) != shape:
        total = emit(node, aten.expand.default, total, shape)
    return total


def describe(node: fx.Node, planned: list[Planned]) -> str:
    """Say in one line what a node was rewritten to."""
    text = form_text(tuple(term for term, _ in planned))
    return f"{node.name} = {shorten(text, 160, placeholder=' ...')}"
