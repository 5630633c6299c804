"""Chains of elementwise calls and sums along rows become calls of one kernel each.

Nothing is timed: a chain becomes a kernel where kernels run, and where another back end
does not compile the graph as a whole.
"""

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.kernels.operator import runs_on
from jaxtorch.kernels.pointwise import MOST_OPERANDS, POINTWISE, row_shape
from jaxtorch.kernels.program import INDEX, Builder, Value
from jaxtorch.kernels.tracing import FEW_ROWS
from jaxtorch.kernels.vocabulary import ROW_WORDS, dims_of, fits, speak, word_of
from jaxtorch.staging.passes.rewriting import infer, is_call, is_pure, value_of
from jaxtorch.staging.passes.simplify import uniform

aten = torch.ops.aten
ENDS = (aten.sum.default, aten.sum.dim_IntList, aten.mean.dim)
"""Reductions; what they reduce to may be a value of a chain if they keep their dims."""
LIKES = (
    aten.empty_like.default,
    aten.full_like.default,
    aten.ones_like.default,
    aten.zeros_like.default,
)
"""Calls that read only the shape of a tensor."""
SHORT_ROW = 64
"""Rows that are not along the last dim are short enough to be read in tiles of many."""


class Chain:
    """Calls that run over the elements of one shape.

    Attributes:
        shape: of the elements.
        dims: along which rows lie, empty while no call reduces.
        members: the calls.
    """

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self.dims: tuple[int, ...] = ()
        self.members: list[fx.Node] = []

    def takes(self, node: fx.Node) -> bool:
        """Tell whether a call runs over these elements, along these rows."""
        shape = elements_of(node)
        dims = reduced_dims(node)
        if shape != self.shape:
            return list(shape) == row_shape(self.shape, self.dims) and not dims
        return not (dims and self.dims) or dims == self.dims

    def operands(self) -> dict[fx.Node, fx.Node]:
        """Return what the members read, and how it is broadcast."""
        inside = set(self.members)
        found: dict[fx.Node, fx.Node] = {}
        for node in self.members:
            for source in tensors_of(node):
                own = unexpanded(source)
                if own not in inside:
                    found.setdefault(own, source)
        return found

    def results(self) -> list[fx.Node]:
        """Return the members that are read elsewhere."""
        inside = set(self.members)
        return [m for m in self.members if any(u not in inside for u in readers(m))]


def tensors_of(node: fx.Node) -> list[fx.Node]:
    """Return the sources of a call that a kernel must read: no numbers, no places."""
    if node.target in ROW_WORDS:
        return node.all_input_nodes
    return [
        s
        for s in node.all_input_nodes
        if number_in(s) is None and not counts_places(s, node)
    ]


def counts_places(source: fx.Node, node: fx.Node) -> bool:
    """Tell whether a source numbers the places in the last dim of a call."""
    shape = value_of(node).shape
    return (
        is_call(source, aten.arange.default)
        and bool(shape)
        and source.args == (shape[-1],)
        and value_of(source).dtype is torch.int64
    )


def number_in(node: fx.Node) -> Any:
    """Return the number that all elements of a floating point value are, if any."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return uniform(node)


def unexpanded(node: fx.Node) -> fx.Node:
    """Return what a call broadcasts; kernels broadcast by themselves."""
    while is_call(node, aten.expand.default):
        node = node.args[0]  # type: ignore[assignment]
    return node


def readers(node: fx.Node) -> list[fx.Node]:
    """Return the calls that read a value, also those that read it broadcast."""
    found = []
    for user in node.users:
        found += readers(user) if is_call(user, aten.expand.default) else [user]
    return found


def elements_of(node: fx.Node) -> torch.Size:
    """Return the shape over which a call loops."""
    source: Any = node.args[0] if node.target in ENDS else node
    return value_of(source).shape


def reduced_dims(node: Any) -> tuple[int, ...]:
    """Return the dims along which a call reduces, or counts places."""
    rank = len(elements_of(node))
    if any(counts_places(source, node) for source in node.all_input_nodes):
        return (rank - 1,)
    return dims_of(node.target, node.args, rank)


def ends(node: fx.Node) -> bool:
    """Tell whether a call drops dims, so that no call of its chain can follow."""
    return node.target in ENDS and not (len(node.args) > 2 and node.args[2])


def can_join(node: Any) -> bool:
    """Tell whether a call may be part of a kernel."""
    if node.op != "call_function" or node.target is getitem or not is_pure(node):
        return False
    if word_of(node.target) is None or node.target is aten.expand.default:
        return False
    value = node.meta["val"]
    sources = tensors_of(node)
    if not isinstance(value, Tensor) or not sources or not runs_on(node.meta["device"]):
        return False
    if not value.is_contiguous() or value.numel() == 0 or value.dtype is torch.int64:
        return False
    if any(
        s.meta["device"] != node.meta["device"] or not fits(value_of(s))
        for s in sources
    ):
        return False
    if node.target in ROW_WORDS and not reduces_well(node):
        return False
    if node.target is aten._to_copy.default:
        if not value_of(node.args[0]).is_floating_point():
            return False
    builder = Builder(1)
    values = {s: builder.operand(0) for s in sources}
    return written(node, values, builder) is not None


def reduces_well(node: fx.Node) -> bool:
    """Tell whether rows lie in memory one after the other, and are many.

    A sum that ends its chain may have few rows, since its rows are split.
    """
    shape, dims = elements_of(node), reduced_dims(node)
    rows = torch.Size(row_shape(shape, dims)).numel()
    splits = node.target is not aten.mean.dim and ends(node)
    last = [d for d, size in enumerate(shape) if size > 1][-1:]
    if not dims or not (rows >= FEW_ROWS or splits):
        return False
    return set(last) <= set(dims) or shape.numel() <= rows * SHORT_ROW


def written(node: Any, values: dict[fx.Node, Value], builder: Builder) -> Any:
    """Write a call into the program of the values."""

    def given(source: Any) -> Any:
        if source in values:
            return values[source]
        if counts_places(source, node):
            return builder.step(INDEX)
        return number_in(source)

    args: Any = fx.map_arg(node.args, given)
    kwargs: Any = fx.map_arg(node.kwargs, given)
    return speak(node.target, args, kwargs)


class Finder:
    """Groups the calls of a graph: a call joins the chains of its sources.

    A chain runs at one time, so it never reads what waits for it.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.chain_of: dict[fx.Node, Chain] = {}
        for node in graph.nodes:
            if can_join(node):
                self.add(node)

    def chains(self) -> list[Chain]:
        """Return the chains, with their members in order."""
        found = list({id(c): c for c in self.chain_of.values()}.values())
        for chain in found:
            chain.members.sort(key=self.order.__getitem__)
        return found

    def add(self, node: fx.Node) -> None:
        """Let a call join, and make one chain of all that it joins."""
        sources = [unexpanded(s) for s in tensors_of(node)]
        over = {id(self.chain_of[s]) for s in sources if s in self.chain_of and ends(s)}
        near = {id(c): c for s in sources if (c := self.chain_of.get(s)) is not None}
        chain = Chain(elements_of(node))
        chain.dims = reduced_dims(node)
        chain.members.append(node)
        for key, other in near.items():
            if key not in over and other.takes(node):
                joined = self.merged(chain, other)
                chain = joined or chain
        for member in chain.members:
            self.chain_of[member] = chain

    def merged(self, chain: Chain, other: Chain) -> Chain | None:
        """Return two chains as one, if a kernel can run them at one time."""
        both = Chain(other.shape)
        both.dims = other.dims or chain.dims
        both.members = other.members + chain.members
        fits = len(chain.members) == 1 or chain.shape == other.shape
        if not fits or (chain.dims and other.dims and chain.dims != other.dims):
            return None
        few = len(both.operands()) <= MOST_OPERANDS
        return both if few and not self.waits_for_itself(both) else None

    def waits_for_itself(self, chain: Chain) -> bool:
        """Tell whether something that the members read needs one of them."""
        inside = set(chain.members)
        first = min(self.order[m] for m in inside)
        seen: set[fx.Node] = set()
        waiting = [s for m in inside for s in m.all_input_nodes if s not in inside]
        while waiting:
            node = waiting.pop()
            if node in inside:
                return True
            if node in seen:
                continue
            own = self.chain_of.get(node)
            together = [node] if own is None else own.members
            seen.update(together)
            for each in together:
                if self.order[each] > first:
                    waiting += each.all_input_nodes
        return False


def fuse_chains(graph: fx.Graph) -> int:
    """Replace each chain of two calls or more; returns how many calls were fused."""
    fused = 0
    free_fills(graph)
    for chain in Finder(graph).chains():
        if len(chain.members) > 1 and fuse(graph, chain):
            fused += len(chain.members)
    return fused


def free_fills(graph: fx.Graph) -> None:
    """Let ``ones_like`` and its kin read the shape of an early value, of no chain."""
    for node in graph.nodes:
        source: Any = node.args[0] if node.args else None
        if node.target not in LIKES or not isinstance(source, fx.Node):
            continue
        value = first = source
        while (above := alike_source(value)) is not None:
            value = above
        node.replace_input_with(first, value)


def alike_source(node: fx.Node) -> fx.Node | None:
    """Return a source of an elementwise call that lies in memory as its result."""
    if not can_join(node):
        return None
    own = value_of(node)
    for source in node.all_input_nodes:
        value = value_of(source)
        if value.dtype is own.dtype and value.shape == own.shape:
            if value.stride() == own.stride():
                return source
    return None


def fuse(graph: fx.Graph, chain: Chain) -> bool:
    """Replace one chain; leaves it where a kernel can't return what is read of it."""
    results = chain.results()
    operands = operands_of(chain)
    if operands is None or not results:
        return False
    likes = [at for m in results if (at := like(m, operands)) is not None]
    if len(likes) < len(results):
        return False
    place = make_room(graph, operands, results, set(chain.members))
    if place is None:
        return False
    builder = Builder(len(operands))
    values: dict[fx.Node, Any] = {}
    for i, (own, source) in enumerate(operands.items()):
        values[own] = values[source] = builder.operand(i)
    for node in chain.members:
        for source in tensors_of(node):
            values[source] = values[unexpanded(source)]
        values[node] = written(node, values, builder)
    pairs = zip((values[m] for m in results), likes, strict=True)
    text = builder.text(list(pairs))
    given = (list(operands.values()), text, list(chain.dims))
    call = put(place, results[0], POINTWISE.overload, *given)
    wanted = [value_of(m).numel() for m in results]
    if [made.numel() for made in call.meta["val"]] != wanted:
        graph.erase_node(call)
        return False
    for i, (result, made) in enumerate(zip(results, call.meta["val"], strict=True)):
        item = put(place, result, getitem, call, i)
        shape = value_of(result).shape
        if made.shape != shape:
            item = put(place, result, aten.view.default, item, list(shape))
        result.replace_all_uses_with(item)
    for node in reversed(chain.members):
        erase_with_views(graph, node)
    return True


def put(before: fx.Node, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    """Insert a call that runs on the device of another."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, args)
    node.meta["device"] = like.meta["device"]
    node.meta["val"] = infer(node)
    return node


def operands_of(chain: Chain) -> Any:
    """Return the operands, broadcast where they don't make the chain's shape alone."""
    found = chain.operands()
    if torch.broadcast_shapes(*[value_of(n).shape for n in found]) == chain.shape:
        return {own: own for own in found}
    if (
        torch.broadcast_shapes(*[value_of(n).shape for n in found.values()])
        == chain.shape
    ):
        return found
    return None


def like(node: fx.Node, operands: Any) -> int | None:
    """Return the operand whose dtype a result has."""
    dtype = value_of(node).dtype
    for i, source in enumerate(operands):
        if value_of(source).dtype is dtype and dtype.is_floating_point:
            return i
    return None


def make_room(
    graph: fx.Graph, operands: Any, results: list[fx.Node], inside: set[fx.Node]
) -> fx.Node | None:
    """Return the node before which the kernel may run, with its operands before that.

    Calls that operands need are moved up; None where one of them may not be moved.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    outside = [
        user
        for result in results
        for user in result.users
        if not inside.issuperset(
            readers(user) if is_call(user, aten.expand.default) else [user]
        )
    ]
    place = min(outside, key=order.__getitem__)
    late: set[fx.Node] = set()
    waiting = [*operands.values()]
    while waiting:
        node = waiting.pop()
        if node not in late and order[node] >= order[place]:
            late.add(node)
            waiting += node.all_input_nodes
    if not all(is_pure(node) for node in late):
        return None
    for node in sorted(late, key=order.__getitem__):
        place.prepend(node)
    return place


def erase_with_views(graph: fx.Graph, node: fx.Node) -> None:
    """Erase a member and what only broadcast it."""
    for user in list(node.users):
        erase_with_views(graph, user)
    graph.erase_node(node)
