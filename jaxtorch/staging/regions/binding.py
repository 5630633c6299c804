"""How a region meets the levels: each transforms its functions and calls it below.

At a trace its functions are staged and it becomes a node of the graph.
"""

from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core.batching import BatchLevel, BatchTensor
from jaxtorch.core.batching import wrap as wrap_batch
from jaxtorch.core.fallback import Within
from jaxtorch.core.forward import DualTensor, ForwardLevel
from jaxtorch.core.forward import wrap as wrap_dual
from jaxtorch.core.level import Below, innermost, unwrap_dead
from jaxtorch.core.reverse import Node, ReverseLevel, TapeTensor
from jaxtorch.core.reverse import wrap as wrap_tape
from jaxtorch.staging.lifting import differentiable
from jaxtorch.staging.passes.rewriting import is_pure
from jaxtorch.staging.region import Region
from jaxtorch.staging.subgraph import Kind, Subgraph, current_trace, kind_of
from jaxtorch.staging.tracer import TraceLevel, TraceTensor


class Bound(Region):
    """A region whose functions may be transformed.

    Attributes:
        functions: what it runs; subgraphs once it is staged.
        outs: the kinds of its outputs, once it is staged.
    """

    functions: tuple[Any, ...] = ()
    outs: list[Kind]

    def __call__(self, *args: Any) -> list[Any]:
        return bind(self, list(args))

    def execute(self, args: Sequence[Tensor]) -> list[Tensor]:
        """Run on plain tensors."""
        raise NotImplementedError

    def stage(self, kinds: Sequence[Kind]) -> "Bound":
        """Return the same region with its functions staged."""
        raise NotImplementedError

    def batch(
        self, level: BatchLevel, values: list[Any], dims: list[int | None]
    ) -> tuple[list[Any], list[int | None]]:
        """Run on batched values; returns the outputs and their batch dims."""
        raise NotImplementedError

    def push(
        self, values: list[Any], tangents: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Run, and push tangents forward; None is a zero, or has no derivative."""
        raise NotImplementedError

    def linearize(self, values: list[Any], wanted: list[bool]) -> tuple[list[Any], Any]:
        """Run; returns the outputs and the linear operator of all wanted values."""
        raise NotImplementedError

    def graphs(self) -> list[fx.Graph]:
        return [function.graph for function in self.functions]

    def flops(self, count: Callable[[fx.Graph], int]) -> int:
        return sum(count(graph) for graph in self.graphs())

    def settle(self, *functions: Subgraph) -> None:
        """Take over staged functions."""
        self.functions = functions
        for function in functions:
            function.prepare()
        calls = [
            node
            for graph in self.graphs()
            for node in graph.nodes
            if node.op == "call_function"
        ]
        self.pure = all(is_pure(node) for node in calls)


def bind(region: Bound, args: list[Any]) -> list[Any]:
    """Run a region at the innermost level among its arguments."""
    args = [unwrap_dead(arg) for arg in args]
    level = innermost(args)
    trace = current_trace()
    if trace is not None and (level is None or level.depth <= trace.depth):
        return emit(trace, region, args)
    if level is None:
        return region.execute(args)
    if isinstance(level, BatchLevel):
        return bind_batch(level, region, args)
    if isinstance(level, ForwardLevel):
        return bind_forward(level, region, args)
    if isinstance(level, ReverseLevel):
        return bind_reverse(level, region, args)
    raise NotImplementedError(level.transform)


def emit(trace: TraceLevel, region: Bound, args: list[Any]) -> list[Any]:
    """Stage a region and put it into the graph of ``trace``."""
    handles = [
        a if type(a) is TraceTensor and a.level is trace else trace.capture(a)
        for a in args
    ]
    with Within(trace):
        staged = region.stage([kind_of(handle) for handle in handles])
    call: Any = staged
    node = trace.graph.call_function(call, tuple(handle.node for handle in handles))
    with torch._C._DisableTorchDispatch():
        values = tuple(
            torch.empty(kind.shape, dtype=kind.dtype, device="meta")
            for kind in staged.outs
        )
    node.meta["val"] = values
    node.meta["device"] = handles[0].device if handles else torch.get_default_device()
    return [
        trace.wrap_output(
            value, trace.graph.call_function(getitem, (node, i)), kind.device
        )
        for i, (value, kind) in enumerate(zip(values, staged.outs, strict=True))
    ]


def bind_batch(level: BatchLevel, region: Bound, args: list[Any]) -> list[Any]:
    """Run a region under ``vmap``."""
    values = []
    dims = []
    for arg in args:
        own = type(arg) is BatchTensor and arg.level is level
        values.append(arg.value if own else arg)
        dims.append(arg.batch_dim if own else None)
    with Below(level):
        if any(dim is not None for dim in dims):
            outs, out_dims = region.batch(level, values, dims)
        else:
            outs = region(*values)
            out_dims = [None] * len(outs)
    return [wrap_batch(level, o, d) for o, d in zip(outs, out_dims, strict=True)]


def bind_forward(level: ForwardLevel, region: Bound, args: list[Any]) -> list[Any]:
    """Run a region under ``jvp``."""
    values = []
    tangents = []
    for arg in args:
        own = type(arg) is DualTensor and arg.level is level
        values.append(arg.value if own else arg)
        tangents.append(arg.tangent if own else None)
    pushed: list[Any]
    with Below(level):
        if any(tangent is not None for tangent in tangents):
            outs, pushed = region.push(values, tangents)
        else:
            outs = region(*values)
            pushed = [None] * len(outs)
    return [wrap_dual(level, o, t) for o, t in zip(outs, pushed, strict=True)]


def bind_reverse(level: ReverseLevel, region: Bound, args: list[Any]) -> list[Any]:
    """Run a region under ``vjp``: one node of the tape for all of its inputs."""
    values = []
    sources = []
    for arg in args:
        own = type(arg) is TapeTensor and arg.level is level
        values.append(arg.value if own else arg)
        sources.append((arg.node, arg.index) if own and arg.node is not None else None)
    recording = torch.is_grad_enabled()
    with Below(level), torch.set_grad_enabled(recording and level.outer_grad_mode):
        if recording and any(source is not None for source in sources):
            wanted = [source is not None for source in sources]
            outs, operator = region.linearize(values, wanted)
            node = joined_node([s for s in sources if s is not None], operator, outs)
        else:
            outs = region(*values)
            node = None
    return [
        wrap_tape(level, out, node if differentiable(out) else None, index)
        for index, out in enumerate(outs)
    ]


def joined_node(sources: list[Any], operator: Any, outs: list[Any]) -> Node:
    """Record one operator of several inputs: first a node that joins them."""
    joined = Node([(Entry(i, len(sources)), *s) for i, s in enumerate(sources)])
    return Node([(operator, joined, None)], len(outs))


class Entry:
    """The linear map of a value to its place in a tuple; None is a zero."""

    __slots__ = ("place", "count")

    def __init__(self, place: int, count: int) -> None:
        self.place = place
        self.count = count

    def apply(self, tangent: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(tangent if i == self.place else None for i in range(self.count))

    def apply_transpose(self, cotangent: tuple[Tensor, ...]) -> Tensor:
        return cotangent[self.place]
