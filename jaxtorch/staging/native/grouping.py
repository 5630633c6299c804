"""Which calls of a graph run as loops: groups between the calls that ATen makes."""

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.native.calls import ELEMENTS, REDUCTIONS, WHOLES
from jaxtorch.staging.native.compiler import load
from jaxtorch.staging.native.function import LoopFunction
from jaxtorch.staging.native.loops import TYPES
from jaxtorch.staging.native.scalars import speaks
from jaxtorch.staging.native.views import is_view, root_of
from jaxtorch.staging.native.writer import Writer
from jaxtorch.staging.passes.pipeline import drop_dead_code
from jaxtorch.staging.passes.results import output_of
from jaxtorch.staging.passes.reuse import reuse_memory
from jaxtorch.staging.passes.rewriting import infer_again, is_pure, value_of
from jaxtorch.staging.passes.simplify import uniform

MOST_ELEMENTS = 1 << 16
"""Larger tensors are left to ATen, which runs them on all threads."""
FEWEST_CALLS = 2
"""Fewer calls are left to ATen."""


def copied(graph: fx.Graph) -> fx.Graph:
    """Copy a graph, with no call made in place and all values inferred anew."""
    copy = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        names[node] = copy.node_copy(node, names.__getitem__)
        names[node].meta = {k: v for k, v in node.meta.items() if k != "in_place"}
    infer_again(copy)
    return copy


def can_loop(node: Any) -> bool:
    """Tell whether loops can make what a call makes."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    value = node.meta["val"]
    if not isinstance(value, Tensor) or is_view(node) or not is_pure(node):
        return False
    tensors = [value, *(s.meta["val"] for s in node.all_input_nodes)]
    if not all(isinstance(t, Tensor) and is_small(t) for t in tensors):
        return False
    if node.meta["device"].type != "cpu" or value.dtype not in TYPES:
        return False
    if value.untyped_storage().nbytes() != value.numel() * value.dtype.itemsize:
        return False
    if uniform(node) is not None:
        return True
    entry = ELEMENTS.get(node.target) or WHOLES.get(node.target)
    return entry[1](node) if entry is not None else speaks(node)


def is_small(x: Tensor) -> bool:
    """Tell whether one thread is enough for a tensor."""
    return x.dtype in TYPES and 0 < x.numel() <= MOST_ELEMENTS


def levels(graph: fx.Graph) -> tuple[dict[fx.Node, int], set[fx.Node]]:
    """Return when each call can run, and which run as loops.

    Loops of one level run at one time, ahead of ATen's calls of that level.
    """
    loops: set[fx.Node] = set()
    level: dict[fx.Node, int] = {}
    impure = 0
    for node in graph.nodes:
        above = 0
        own = can_loop(node)
        for source in node.all_input_nodes:
            behind = own and source not in loops
            behind = behind and root_of(source).op != "placeholder"
            above = max(above, level[source] + behind)
        if node.op == "call_function" and not is_pure(node):
            above = impure = max(above, impure)
        level[node] = above
        if own or (is_view(node) and node.args[0] in loops):
            loops.add(node)
    return level, loops


def levelled(graph: fx.Graph) -> tuple[list[fx.Node], list[list[fx.Node]]]:
    """Return the calls, such that groups are together, and the groups."""
    level, loops = levels(graph)
    groups: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if node in loops and not is_view(node):
            groups.setdefault(level[node], []).append(node)
    order = {node: i for i, node in enumerate(graph.nodes)}
    calls = [node for node in graph.nodes if node.op == "call_function"]
    calls.sort(key=lambda n: (level[n], n not in loops, order[n]))
    return calls, [m for m in groups.values() if len(counted(m)) >= FEWEST_CALLS]


def counted(members: list[fx.Node]) -> list[fx.Node]:
    """Return the calls of a group that make more than a constant."""
    return [node for node in members if uniform(node) is None]


def calls_saved(graph: fx.Graph) -> int:
    """Return how many calls fewer run where loops stand for groups of them."""
    return sum(len(members) - 1 for members in levelled(graph)[1])


def group(graph: fx.Graph) -> tuple[fx.Graph, list[LoopFunction]]:
    """Return a copy of a graph in which loops stand for groups of calls, and these.

    Raises:
        CompilerError: the C compiler failed, or there is none.
    """
    graph = copied(graph)
    calls, groups = levelled(graph)
    last = output_of(graph)
    for node in calls:
        last.prepend(node)
    made = [replace(graph, own, f"run{number}") for number, own in enumerate(groups)]
    library = load("\n".join(f.source for f in made)) if made else None
    for function in made:
        function.bind(getattr(library, function.symbol))
    sort(graph)
    drop_dead_code(graph)
    reuse_memory(graph)
    return graph, made


def sort(graph: fx.Graph) -> None:
    """Put each call behind what it reads, and else in the order in which they are."""
    placed: set[fx.Node] = set()
    last = output_of(graph)
    waiting = [n for n in reversed(graph.nodes) if n.op == "call_function"]
    while waiting:
        node = waiting.pop()
        missing = [
            s
            for s in node.all_input_nodes
            if s.op == "call_function" and s not in placed
        ]
        if missing:
            waiting += [node, *missing]
        elif node not in placed:
            last.prepend(node)
            placed.add(node)


def replace(graph: fx.Graph, members: list[fx.Node], symbol: str) -> LoopFunction:
    """Let loops stand for calls."""
    inside = set(members)
    results = [node for node in members if is_read_outside(node, inside)]
    function = LoopFunction(
        Writer(members, results, ELEMENTS, WHOLES, REDUCTIONS), symbol
    )
    behind = members[-1]
    with graph.inserting_after(behind):
        call = graph.call_function(function, tuple(function.inputs))
    call.meta["device"] = behind.meta["device"]
    call.meta["val"] = [value_of(node) for node in results]
    after = call
    for place, node in enumerate(results):
        with graph.inserting_after(after):
            chosen = after = graph.call_function(getitem, (call, place))
        chosen.meta |= {"device": node.meta["device"], "val": value_of(node)}
        for user in list(node.users):
            if user not in inside:
                user.replace_input_with(node, chosen)
    return function


def is_read_outside(node: fx.Node, inside: set[fx.Node]) -> bool:
    """Tell whether someone outside of a group reads a value, or a view of it."""
    for user in node.users:
        if user in inside:
            continue
        if not is_view(user) or user.op == "output":
            return True
        if is_read_outside(user, inside):
            return True
    return False
