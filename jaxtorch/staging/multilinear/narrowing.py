"""Calls that do the same for every row run on the rows that differ.

A convolution is opaque, but its first dim counts examples. Where an example is zero, a
copy or a multiple of another one, as in the Jacobian of a network over a batch (a delta
of two examples times a smaller core), the core is convolved, and the result is placed
as the input was.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from jaxtorch.staging.multilinear.algebra import contract_terms
from jaxtorch.staging.multilinear.assembly import Assembler, core_labels
from jaxtorch.staging.multilinear.cost import machine_for
from jaxtorch.staging.multilinear.form import (
    Atom,
    Axis,
    Factor,
    Label,
    OneHot,
    OpaqueError,
    Term,
    Window,
    fresh,
    labels_in,
    labels_of,
    size_of,
)
from jaxtorch.staging.multilinear.indicators import settle
from jaxtorch.staging.multilinear.lowering import Lowering
from jaxtorch.staging.multilinear.planning import Planner
from jaxtorch.staging.multilinear.reading import ORDER, Reader, Tables
from jaxtorch.staging.passes.rewriting import copied, emit, shape_of

aten = torch.ops.aten


class Rows(NamedTuple):
    """What of a call is done row by row.

    Attributes:
        inner: how many dims a row has; those before them count rows.
        places: the arguments with rows; the call is linear in the first.
    """

    inner: int
    places: tuple[int, ...] = (0,)


BY_ROWS: dict[Any, Rows] = {
    aten.avg_pool2d.default: Rows(2),
    aten.avg_pool3d.default: Rows(3),
    aten._adaptive_avg_pool2d.default: Rows(2),
    aten._adaptive_avg_pool3d.default: Rows(3),
    aten.avg_pool2d_backward.default: Rows(2, (0, 1)),
    aten.avg_pool3d_backward.default: Rows(3, (0, 1)),
    aten._adaptive_avg_pool2d_backward.default: Rows(2, (0, 1)),
    aten._adaptive_avg_pool3d_backward.default: Rows(3, (0, 1)),
    aten.max_pool2d_with_indices_backward.default: Rows(2, (0, 1, 7)),
    aten.max_pool3d_with_indices_backward.default: Rows(3, (0, 1, 7)),
}


def rows_of(node: Any) -> Rows | None:
    """Return what of a call is done row by row; None if nothing."""
    if node.target is aten.convolution.default:
        return Rows(len(shape_of(node)) - 1)
    if node.target is aten.gather.default:
        source, dim, index = node.args[:3]
        rank = len(shape_of(node))
        same = shape_of(source)[:-1] == shape_of(index)[:-1]
        return Rows(1, (0, 2)) if same and dim in (-1, rank - 1) else None
    return BY_ROWS.get(node.target)


def narrow(graph: fx.Graph, tables: Tables) -> list[str]:
    """Let such calls do less; say which."""
    if not any(rows_of(node) for node in graph.nodes):
        return []
    narrower = Narrower(tables)
    lines = [narrower.visit(node) for node in list(graph.nodes)]
    return [line for line in lines if line is not None]


class Part(NamedTuple):
    """One term of an input, taken apart.

    Attributes:
        term: the input.
        rest: the factors that only tell rows apart.
        rows: the labels that count the rows of the core.
        inputs: what the call gets for each argument with rows: the core comes first.
    """

    term: Term
    rest: tuple[Factor, ...]
    rows: Axis
    inputs: list[Term]


class Narrower:
    """Reads a graph in its order, and puts narrower calls into it."""

    def __init__(self, tables: Tables) -> None:
        self.reader = Reader(fx.Graph(), ORDER, tables)
        self.lowering = Lowering()
        self.numbers: dict[Any, int] = {}

    def visit(self, node: fx.Node) -> str | None:
        """Read a node; if it can do less, put what does so in its place, and say so."""
        if not isinstance(node.meta.get("val"), Tensor):
            return None
        rows = rows_of(node)
        if rows is not None:
            before = node.prev
            new = self.narrowed_or_not(node, rows)
            if new is not None:
                node.replace_all_uses_with(new)
                while before.next is not node:
                    before = before.next
                    self.reader.forms[before] = self.reader.read(before)
                node.graph.erase_node(node)
                return f"{node.name} runs on the rows that differ"
        self.reader.forms[node] = self.reader.read(node)
        return None

    def narrowed_or_not(self, node: fx.Node, rows: Rows) -> fx.Node | None:
        """Return a node with the same value that took fewer rows; None if none can."""
        before = node.prev
        try:
            return self.narrowed(node, rows)
        except OpaqueError:
            while node.prev is not before:
                node.graph.erase_node(node.prev)
            self.lowering = Lowering()
            return None

    def narrowed(self, node: Any, rows: Rows) -> fx.Node | None:
        """Return a node with the same value that took fewer rows."""
        form = self.reader.of(node.args[rows.places[0]])
        count = len(shape_of(node)) - rows.inner
        others = [self.seen(node.args[p]) for p in rows.places[1:]]
        parts = [p for t in form if (p := taken_apart(t, others, count)) is not None]
        if sum(size_of(p.rows) for p in parts) >= prod(shape_of(node)[:count]):
            return None
        total: fx.Node | None = None
        for part in parts:
            new = self.call(node, rows, part, count)
            total = emit(node, aten.add.Tensor, total, new) if total else new
        return total and with_bias(node, total)

    def seen(self, source: Any) -> Term:
        """Return the term of another argument: a tensor that may be broadcast."""
        form = self.reader.of(source)
        if len(form) == 1 and form[0].coef == 1 and len(form[0].factors) == 1:
            if form[0].is_dense:
                return form[0]
        return self.reader.atom(source)[0]

    def call(self, node: Any, rows: Rows, part: Part, count: int) -> fx.Node:
        """Call on the core of one term, and place the result."""
        args = list(node.args)
        for place, term in zip(rows.places, part.inputs, strict=True):
            value = self.built(node, args[place], term)
            if len(rows.places) > 1 and not value.meta["val"].is_contiguous():
                value = copied(node, value)  # some kernels take it for granted
            args[place] = value
        if node.target is aten.convolution.default:
            args[2] = None
        out = emit(node, node.target, *args, **node.kwargs)
        inner = tuple((Label(n),) if n > 1 else () for n in shape_of(out)[count:])
        atom = Atom(out, (part.rows, *[()] * (count - 1), *inner))
        axes = (*part.term.axes[:count], *inner)
        term = Term(part.term.coef, (*part.rest, atom), axes)
        return self.built(node, node, term)

    def built(self, before: fx.Node, like: fx.Node, term: Term) -> fx.Node:
        """Put the value of a term into the graph."""
        machine = machine_for(before.meta["device"])
        planner = Planner(machine, like.meta["val"].itemsize, self.numbers)
        opened = core_labels(term)
        tree = planner.plan(term.atoms, opened) if term.atoms else None
        value = Assembler(self.lowering, before).term(term, tree)
        shape = [size_of(axis) for axis in term.axes]
        if shape_of(value) == shape:
            return value
        return emit(before, aten.expand.default, value, shape)


def with_bias(node: Any, value: fx.Node) -> fx.Node:
    """Add the bias of a convolution."""
    bias = node.args[2] if node.target is aten.convolution.default else None
    if bias is None:
        return value
    shape = [1, *shape_of(bias), *[1] * (len(shape_of(node)) - 2)]
    column = emit(node, aten.view.default, bias, shape)
    return emit(node, aten.add.Tensor, value, column)


def taken_apart(term: Term, others: Sequence[Term], count: int) -> Part | None:
    """Take a term apart into the core of its rows and what places it; None for zero.

    ``count`` dims count the rows. The other arguments are read at the core's rows.
    """
    inner = len(term.axes) - count
    marks = [(i, other.atoms[0].source) for i, other in enumerate(others)]
    joined: Term | None = term
    for other, mark in zip(others, marks, strict=True):
        joined = joined and with_other(joined, other, mark, count)
    if joined is None:
        return None
    found = [[a for a in joined.atoms if a.source == mark] for mark in marks]
    if any(len(atoms) != 1 for atoms in found):
        raise OpaqueError
    seen = [atoms[0] for atoms in found]
    factors = [f for f in joined.factors if f not in seen]
    dims = joined.axes[count : count + inner]
    within = {x for axis in dims for x in axis}
    order = row_labels(joined, count, within)
    core = connected(factors, within, set(order))
    kept = labels_of([*core, *seen])
    rows = tuple(label for label in order if label in kept)
    lead = (rows, *[()] * (count - 1))
    inputs = [Term(1, tuple(core), (*lead, *dims))]
    start = count + inner
    for atom, other in zip(seen, others, strict=True):
        end = start + len(other.axes) - count
        plain = Atom(atom.source[1], atom.axes)
        inputs.append(Term(1, (plain,), (*lead, *joined.axes[start:end])))
        start = end
    rest = tuple(f for f in factors if f not in core)
    return Part(joined, rest, rows, inputs)


def row_labels(term: Term, count: int, within: set[Label]) -> list[Label]:
    """Return the labels that count rows, and those that indicators place in them."""
    order = [label for axis in term.axes[:count] for label in axis]
    for label in order:
        for factor in term.factors:
            if isinstance(factor, Window) and factor.big is label:
                more = list(factor.small)
            elif isinstance(factor, OneHot) and factor.label is label:
                more = labels_in(factor.index)
            else:
                continue
            order += [x for x in more if x not in order and x not in within]
    return order


def with_other(term: Term, other: Term, mark: Any, count: int) -> Term | None:
    """Multiply with another argument, under a mark, that has the same rows."""
    marked = Term(1, (Atom(mark, other.atoms[0].axes),), other.axes)
    names = range(len(term.axes))
    more = len(other.axes) - count
    others = [*range(count), *range(len(names), len(names) + more)]
    out = range(len(names) + more)
    return settle(contract_terms(term, names, fresh(marked), others, out))


def connected(
    factors: Sequence[Factor], labels: set[Label], rows: set[Label]
) -> list[Factor]:
    """Return the factors that labels reach, not counting those of rows."""
    while True:
        core = [f for f in factors if labels & labels_of([f])]
        grown = labels | (labels_of(core) - rows)
        if grown == labels:
            return core
        labels = grown
