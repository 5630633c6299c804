"""Reading a graph: the normal form of every node, and which nodes stay as they are."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from jaxtorch.staging.multilinear.algebra import contract
from jaxtorch.staging.multilinear.folding import fold
from jaxtorch.staging.multilinear.form import (
    Form,
    OpaqueError,
    Term,
    Window,
    atom_term,
    labels_in,
    labels_of,
    size_of,
)
from jaxtorch.staging.multilinear.merging import merged

FLOATING = {torch.float32, torch.float64, torch.bfloat16, torch.float16}
MOST_TERMS = 16
"""At one place of the value: terms in blocks of their own don't count together."""
MOST_PLACED = 128
"""At all places."""
LONGEST_TERM = 40

Reading = Callable[["Reader", fx.Node], Form]


class Tables(NamedTuple):
    """How calls are read: views of any dtype, then products, then functions."""

    views: dict[Any, Reading]
    products: dict[Any, Reading]
    functions: dict[Any, Reading]


@dataclass(frozen=True)
class Policy:
    """When a value is computed instead of being kept as an expression.

    Attributes:
        chain: a contraction of more factors than this is computed.
        sums: whether sums of dense terms, or dense parts of one tensor, are kept apart.
    """

    chain: int
    sums: bool


ORDER = Policy(chain=10, sums=False)
"""Keep chains: finds the best order of the contractions."""
PATHS = Policy(chain=LONGEST_TERM, sums=True)
"""Keep sums: finds what the paths of a derivative share."""


class Reader:
    """The normal forms of a graph's nodes under one policy.

    Attributes:
        forms: the form of each node with a floating-point tensor.
        names: the contractions among the nodes, with the product that each is.
        meanings: the forms of the nodes that were kept.
        sums: whether there are sums that the policies treat differently.
    """

    def __init__(self, graph: fx.Graph, policy: Policy, tables: "Tables") -> None:
        self.policy = policy
        self.tables = tables
        self.forms: dict[fx.Node, Form] = {}
        self.names: dict[fx.Node, Term] = {}
        self.meanings: dict[fx.Node, Form] = {}
        self.sums = False
        for node in graph.nodes:
            if isinstance(node.meta.get("val"), Tensor):
                self.forms[node] = self.read(node)

    def read(self, node: fx.Node) -> Form:
        """Return the form of a node."""
        target = node.target
        if target is getitem:
            target = node.args[0].target  # type: ignore[union-attr]
        value = node.meta["val"]
        if value.numel() == 0:
            return ()
        readings = [self.tables.views.get(target)]
        if value.dtype in FLOATING:
            readings.append(self.tables.products.get(target))
        readings.append(self.tables.functions.get(target))
        for reading in readings:
            if reading is not None:
                try:
                    return self.kept(node, reading(self, node))
                except OpaqueError:
                    pass
        return self.atom(node)

    def atom(self, node: fx.Node) -> Form:
        """Return the form of a node that is computed as it stands."""
        return (atom_term(node, node.meta["val"].shape),)

    def of(self, node: Any) -> Form:
        """Return the form of an argument."""
        if not isinstance(node, fx.Node) or node not in self.forms:
            raise OpaqueError
        return self.forms[node]

    def computed(self, node: Any, form: Form) -> Form:
        """Return a node's value as one tensor, remembering what it is."""
        self.meanings.setdefault(node, form)
        self.forms[node] = self.atom(node)
        return self.forms[node]

    def kept(self, node: fx.Node, form: Form) -> Form:
        """Return the form of a node, or an atom where keeping the form can't pay."""
        form = merged(form)
        if len(form) == 1 and is_reduced(form[0]):
            return self.computed(node, form)
        if len(form) > MOST_TERMS and crowd(form) > MOST_TERMS:
            return self.atom(node)
        for term in form:
            if len(term.factors) > LONGEST_TERM:
                return self.atom(node)
        if len(form) > 1:
            if is_filled(form):
                self.sums = True
                if not self.policy.sums:
                    return self.computed(node, form)
            if any(not t.is_dense or is_outer(t) for t in form):
                return form
            if all(len(t.factors) > 1 for t in form):
                self.sums = True
                if self.policy.sums:
                    return form
            return self.computed(node, form)
        if form and is_pointwise(form[0]):
            return self.computed(node, form)
        if form and is_contraction(form[0]) and is_unstructured(form[0]):
            self.names[node] = fold(form[0], self.names)
            if len(form[0].factors) > self.policy.chain:
                return self.computed(node, form)
        return form

    def product(
        self,
        node: fx.Node,
        first: Any,
        names: Sequence[object],
        second: Any,
        others: Sequence[object],
        out: Sequence[object],
    ) -> Form:
        """Return the form of an ``einsum`` of two nodes."""
        a, b = self.of(first), self.of(second)
        if len(a) > 1 and len(b) > 1:
            a = a if may_multiply(a) else self.computed(first, a)
            b = b if may_multiply(b) else self.computed(second, b)
        if set(names) == set(others) == set(out):
            if covers(b, node) and is_dense_sum(a):
                a = self.computed(first, a)
            if covers(a, node) and is_dense_sum(b):
                b = self.computed(second, b)
        if min(crowd(a) * len(b), len(a) * crowd(b)) > MOST_TERMS:
            raise OpaqueError
        return contract(a, names, b, others, out)


def is_atom(form: Form) -> bool:
    """Tell whether a form is one tensor as it stands."""
    return (
        len(form) == 1
        and len(form[0].factors) == 1
        and form[0].is_dense
        and form[0].atoms[0].axes == form[0].axes
    )


def crowd(form: Form) -> int:
    """Return the most terms that a form has at one place of its value."""
    if len(form) > MOST_PLACED:
        return len(form)
    return max(Counter(map(place_of, form)).values(), default=0)


def place_of(term: Term) -> frozenset[tuple[int, int, int]]:
    """Return where a term has values: the dims, strides and starts of its windows."""
    starts = {
        f.big: f.offset
        for f in term.factors
        if isinstance(f, Window) and not f.is_delta
    }
    return frozenset(
        (dim, size_of(axis[i + 1 :]), starts[label])
        for dim, axis in enumerate(term.axes)
        for i, label in enumerate(axis)
        if label in starts
    )


def is_reduced(term: Term) -> bool:
    """Tell whether a term is a sum over dims of one tensor."""
    return (
        len(term.factors) == 1
        and term.is_dense
        and len(set(labels_in(term.atoms[0])) - term.free) > 0
    )


def covers(form: Form, node: fx.Node) -> bool:
    """Tell whether a factor has as many elements as the node's value."""
    wanted = node.meta["val"].numel()
    return len(form) == 1 and any(
        form[0].free <= set(labels_in(atom)) and wanted == size(atom.axes)
        for atom in form[0].atoms
    )


def size(axes: Any) -> int:
    """Return the number of elements that axes run over."""
    count = 1
    for axis in axes:
        for label in axis:
            count *= label.size
    return count


def is_dense_sum(form: Form) -> bool:
    """Tell whether a form has no structure, and computing it takes a contraction."""
    return all(is_unstructured(t) for t in form) and any(map(is_contraction, form))


def is_unstructured(term: Term) -> bool:
    """Tell whether a term has no indicator and no broadcast label."""
    return term.is_dense and term.free <= labels_of(term.factors)


def is_outer(term: Term) -> bool:
    """Tell whether a term has more elements than any of its tensors: a low rank."""
    elements = size(term.axes)
    return len(term.atoms) > 1 and all(size(a.axes) < elements for a in term.atoms)


def is_filled(form: Form) -> bool:
    """Tell whether dense sums lie at places that together are as large as the value."""
    sizes: dict[Any, int] = {}
    for term in form:
        windows = [f for f in term.factors if isinstance(f, Window)]
        parts = {label for window in windows for label in window.small}
        kept = parts | (term.free - {window.big for window in windows})
        if not windows or len(term.factors) > len(term.atoms) + len(windows):
            return False
        if any(window.is_delta for window in windows):
            return False
        if not kept <= labels_of(term.atoms):
            return False
        labels = [label for axis in term.axes for label in axis]
        place = frozenset((labels.index(w.big), w.offset) for w in windows)
        sizes[place] = size([[*kept]])
    return len(sizes) > 1 and sum(sizes.values()) == size(form[0].axes)


def may_multiply(form: Form) -> bool:
    """Tell whether a sum may be multiplied out with another sum.

    Terms that nearly cancel must be added before they are squared: only sums over
    places (indicators) or of outer products are multiplied out.
    """
    return any(not t.is_dense for t in form) or all(map(is_outer, form))


def is_contraction(term: Term) -> bool:
    """Tell whether a term sums over a label of two tensors."""
    seen: set[Any] = set()
    free = term.free
    for atom in term.atoms:
        labels = set(labels_in(atom)) - free
        if labels & seen:
            return True
        seen |= labels
    return False


def is_plain(term: Term) -> bool:
    """Tell whether a term is elementwise but for sums: no product of matrices."""
    free = term.free
    sets = [set(labels_in(atom)) for atom in term.atoms]
    return term.is_dense and not any(
        a & b - free and a - b and b - a for a, b in combinations(sets, 2)
    )


def is_pointwise(term: Term) -> bool:
    """Tell whether a term multiplies several tensors that all have its shape."""
    free = term.free
    return (
        len(term.factors) > 1
        and term.is_dense
        and all(set(labels_in(atom)) == free for atom in term.atoms)
        and any(len(labels_in(atom)) == len(free) for atom in term.atoms)
    )
