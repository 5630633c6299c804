"""Graphs within a graph: traced from a function, read step by step, or compiled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from jaxtorch.core.custom import INTERPRETERS
from jaxtorch.core.level import STATE
from jaxtorch.errors import MutationError, explain
from jaxtorch.staging.custom_call import CustomCall
from jaxtorch.staging.passes.pipeline import drop_dead_code, optimize_graph
from jaxtorch.staging.passes.results import output_of
from jaxtorch.staging.running.execution import compile_graph
from jaxtorch.staging.tracer import TraceLevel, TraceTensor, user_line

Function = Callable[..., list[Any]]


class Kind(NamedTuple):
    """What is known of a tensor before it is computed."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


def kind_of(tensor: Tensor) -> Kind:
    """Return the kind of a tensor, wrapper or not."""
    return Kind(tensor.shape, tensor.dtype, tensor.device)


class Subgraph:
    """A function of tensors that is a graph and reads nothing from outside.

    Attributes:
        graph: takes the inputs, then what is bound.
        bound: plain tensors that the graph reads besides its inputs.
        outs: the kinds of the outputs.
    """

    def __init__(
        self, graph: fx.Graph, bound: list[Tensor], outs: list[Kind], optimize: str
    ) -> None:
        self.graph = graph
        self.bound = bound
        self.outs = outs
        self.optimize = optimize
        self.ruled = graph if holds_calls(graph) else None
        self.run: Function | None = None

    def __call__(self, *values: Any) -> list[Any]:
        """Run; compiled at the first run outside of a trace."""
        if STATE.levels:
            return interpret(self.ruled or self.graph, [*values, *self.bound])
        if self.run is None:
            self.prepare()
            self.run = compile_graph(self.graph).run
        return self.run(*values, *self.bound)

    def reads(self) -> list[set[int]]:
        """Return which inputs each output depends on, by position."""
        count = len(self.graph.find_nodes(op="placeholder")) - len(self.bound)
        known: dict[fx.Node, set[int]] = {}
        for place, node in enumerate(self.graph.nodes):
            if node.op == "placeholder":
                known[node] = {place} if place < count else set()
            else:
                known[node] = set().union(*(known[n] for n in node.all_input_nodes))
        return [known[node] for node in output_of(self.graph).args[0]]

    def part(self, inputs: Sequence[int], outputs: Sequence[int]) -> "Subgraph":
        """Return the function that gives some outputs and takes what they need."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(self.graph, copies)
        results = output_of(self.graph).args[0]
        graph.output([copies[results[i]] for i in outputs])
        drop_dead_code(graph)
        places = graph.find_nodes(op="placeholder")
        count = len(places) - len(self.bound)
        bound = [b for b, n in zip(self.bound, places[count:], strict=True) if n.users]
        for place, node in enumerate(places):
            if not node.users if place >= count else place not in inputs:
                graph.erase_node(node)
        outs = [self.outs[i] for i in outputs]
        return Subgraph(graph, bound, outs, self.optimize)

    def prepare(self) -> None:
        """Optimize the graph, once; functions with rules are traced through."""
        if self.graph is self.ruled and not any(
            isinstance(level, INTERPRETERS) for level in STATE.levels
        ):
            self.graph, captured = inlined(self.graph)
            self.bound = self.bound + captured
        if self.optimize != "none":
            optimize_graph(self.graph, self.optimize)
            self.optimize = "none"


def interpret(graph: fx.Graph, values: list[Any]) -> list[Any]:
    """Run a graph node by node."""
    known: dict[fx.Node, Any] = {}
    inputs = iter(values)
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = next(inputs)
        elif node.op == "output":
            return [known[n] for n in node.args[0]]
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    raise AssertionError("a graph without an output")


def holds_calls(graph: fx.Graph) -> bool:
    """Tell whether a graph calls functions that have rules of their own."""
    return any(isinstance(node.target, CustomCall) for node in graph.nodes)


def inlined(graph: fx.Graph) -> tuple[fx.Graph, list[Tensor]]:
    """Return a graph with the code of its functions inside, and what that captures."""
    level = TraceLevel()
    with level:
        inputs = [
            add_input(level, node_kind(node))
            for node in graph.find_nodes(op="placeholder")
        ]
        outs = [level.handle(out) for out in interpret(graph, inputs)]
    level.graph.output([out.node for out in outs])
    return level.graph, [tensor for tensor, _ in level.captured.values()]


def node_kind(node: fx.Node) -> Kind:
    """Return the kind of a node's value."""
    value = node.meta["val"]
    return Kind(value.shape, value.dtype, node.meta["device"])


def current_trace() -> TraceLevel | None:
    """Return the innermost open trace, if any."""
    for level in reversed(STATE.levels):
        if isinstance(level, TraceLevel):
            return level
    return None


def trace(where: object, func: Function, kinds: Sequence[Kind]) -> Subgraph:
    """Trace a function of tensors of the given kinds; what it captures is bound."""
    outer = current_trace()
    level = TraceLevel(outer.optimize if outer else "full")
    with level:
        handles = [add_input(level, kind) for kind in kinds]
        outs = [level.handle(out) for out in func(*handles)]
        refuse_writes(where, level, handles)
    level.graph.output([out.node for out in outs])
    captured = [tensor for tensor, _ in level.captured.values()]
    return Subgraph(level.ruled(), captured, [kind_of(o) for o in outs], level.optimize)


def add_input(level: TraceLevel, kind: Kind) -> TraceTensor:
    """Add an input of a kind to the graph of ``level``."""
    with torch._C._DisableTorchDispatch():
        value = torch.empty(kind.shape, dtype=kind.dtype, device="meta")
    node = level.graph.placeholder(f"x{len(level.inputs)}")
    handle = level.wrap(value, node, kind.device)
    level.inputs.append(handle)
    return handle


def refuse_writes(where: object, level: TraceLevel, handles: list[TraceTensor]) -> None:
    """Refuse a function that writes into its arguments or captured tensors."""
    for handle in [*handles, *(h for _, h in level.captured.values())]:
        if handle.alias is not None and handle.alias.version:
            raise written(where)


def written(where: object) -> MutationError:
    """Return the error for a write into an argument or a captured tensor."""
    return MutationError(
        explain(
            where,
            "the function writes in place into one of its arguments or into a tensor "
            "from outside.",
            "use the out-of-place operation, and return the new value",
            f"at {user_line()}",
        )
    )
