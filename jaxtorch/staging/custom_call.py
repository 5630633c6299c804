"""``CustomCall``: a function with rules of its own in a graph that is yet to meet them.

The body of a loop or a branch that is traced inside a transform holds them: each level
around the body applies their rules. What a trace runs is the code of the function, and
beside it a graph is kept where the function is one call, for torch.autograd outside.
"""

from collections.abc import Sequence
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from jaxtorch.core.custom import INTERPRETERS, Custom, Leaves, apply
from jaxtorch.core.level import STATE, Wrapper
from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.passes.rewriting import is_pure
from jaxtorch.staging.region import Region

aten = torch.ops.aten


class CustomCall(Region):
    """``(*tensors) -> tensors`` of one call; its other leaves are kept beside."""

    __name__ = "custom"

    def __init__(self, custom: Custom, leaves: Leaves, pure: bool) -> None:
        self.custom = custom
        self.others = without_tensors(leaves)
        self.pure = pure

    def __call__(self, *args: Any) -> list[Any]:
        outs = apply(self.custom, filled(self.others, args))
        return [out for out in outs if isinstance(out, Tensor)]

    def graphs(self) -> Sequence[fx.Graph]:
        return []

    def flops(self, count: Any) -> int:
        return 0


def without_tensors(leaves: Leaves) -> list[Any]:
    """Return None for each tensor, and a tuple of each other leaf."""
    return [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]


def filled(places: list[Any], tensors: Sequence[Any]) -> Leaves:
    """Put tensors back between the other leaves."""
    found = iter(tensors)
    return [next(found) if own is None else own[0] for own in places]


def run_custom(level: Any, custom: Custom, leaves: Leaves) -> Leaves:
    """Run a function at a trace, or put it off where levels around have a say."""
    outer = STATE.levels[: level.depth - 1]
    if not any(isinstance(each, INTERPRETERS) for each in outer):
        return noted(level, custom, leaves) if custom.ruled else custom.call(leaves)
    handles = [level.handle(x) if isinstance(x, Tensor) else x for x in leaves]
    tensors: list[Any] = [x for x in handles if isinstance(x, Tensor)]
    outs, pure = tried(level, custom, handles)
    made: list[Any] = [out for out in outs if isinstance(out, Tensor)]
    if not made:
        return outs
    nodes = [t.node for t in tensors]
    picked = put_call(
        level.graph, CustomCall(custom, handles, pure), nodes, [o.node for o in made]
    )
    results = [
        level.wrap(out.value, node, out.device)
        for out, node in zip(made, picked, strict=True)
    ]
    return filled(without_tensors(outs), results)


def put_call(
    graph: fx.Graph, call: Any, args: list[fx.Node], like: list[fx.Node]
) -> list[fx.Node]:
    """Put a call into a graph; returns its results, which are ``like`` some nodes."""
    node = graph.call_function(call, tuple(args))
    node.meta["val"] = tuple(each.meta["val"] for each in like)
    node.meta["device"] = like[0].meta["device"]
    picked = []
    for i, each in enumerate(like):
        picked.append(graph.call_function(getitem, (node, i)))
        picked[-1].meta.update(val=each.meta["val"], device=each.meta["device"])
    return picked


class Noted(NamedTuple):
    """A function that was traced through: its nodes, and the call that they are."""

    call: CustomCall
    args: list[fx.Node]
    nodes: list[fx.Node]
    outs: list[fx.Node]


def noted(level: Any, custom: Custom, leaves: Leaves) -> Leaves:
    """Run a function at a trace, and note which nodes of the graph it is."""
    handles: list[Any] = [
        level.handle(x) if isinstance(x, Tensor) else x for x in leaves
    ]
    given: list[Any] = [x for x in handles if isinstance(x, Tensor)]
    args = [x.node for x in given]
    known = set(level.graph.nodes)
    outs = custom.call(handles)
    outs = [
        fresh(level, out, known) if isinstance(out, Tensor) else out for out in outs
    ]
    nodes = [n for n in level.graph.nodes if n not in known and n.op != "placeholder"]
    returned: list[Any] = [out for out in outs if isinstance(out, Tensor)]
    made = [out.node for out in returned]
    if made:
        read = {source for node in nodes for source in node.all_input_nodes}
        own = {*nodes, *args, *(h.node for _, h in level.captured.values())}
        written = [x.node for x in given] != args
        level.loses_rules |= written or not read <= own
        call = CustomCall(custom, handles, all(map(is_pure, nodes)))
        level.noted.append(Noted(call, args, nodes, made))
    return outs


def fresh(level: Any, out: Tensor, known: set[fx.Node]) -> Any:
    """Return a result as a value of its own, not one of before the call."""
    handle = level.handle(out)
    return aten.alias.default(handle) if handle.node in known else handle


def with_calls(graph: fx.Graph, noted: list[Noted]) -> fx.Graph:
    """Return a copy of a graph in which the noted functions are calls."""
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    new.output(new.graph_copy(graph, copies))
    for own in reversed(noted):  # a call inside of another one comes before it
        if own.nodes[0] not in copies:
            continue
        with new.inserting_before(copies[own.nodes[0]]):
            args = [copies[arg] for arg in own.args]
            picked = put_call(new, own.call, args, own.outs)
        for out, pick in zip(own.outs, picked, strict=True):
            copies[out].replace_all_uses_with(pick)
        for node in reversed(own.nodes):
            if not copies[node].users:
                new.erase_node(copies.pop(node))
    return new


def tried(level: Any, custom: Custom, handles: Leaves) -> tuple[Leaves, bool]:
    """Run the function in a trace that is thrown away; returns whether it is pure."""
    inner = type(level)(level.optimize)
    with inner:
        outs = custom.call(
            [inner.add_input(x) if isinstance(x, Tensor) else x for x in handles]
        )
        outs = [inner.handle(out) if isinstance(out, Tensor) else out for out in outs]
    captured = [tensor for tensor, _ in inner.captured.values()]
    if any(isinstance(t, Wrapper) and t.level is level for t in captured):
        raise UsageError(
            explain(
                "jit",
                f"{custom.name} uses a value of the body around it that is not among "
                "its arguments.",
                "pass the value as an argument instead of capturing it",
            )
        )
    calls = [node for node in inner.graph.nodes if node.op == "call_function"]
    return outs, all(map(is_pure, calls))
