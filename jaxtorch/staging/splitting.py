"""The derivative of a graph in two parts: what runs forward, and what is linear.

The function and its pullback are traced as one graph. What depends on a cotangent is
the linear part; what that reads of the rest are the residuals. Views, constants and
what depends on invariant inputs alone are computed anew instead of kept.
"""

from collections.abc import Iterable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core import alias
from jaxtorch.core.primitive import Kind as CallKind
from jaxtorch.core.primitive import primitive_of
from jaxtorch.core.reverse import LEAF, Node, ReverseLevel, TapeTensor, pull_back, wrap
from jaxtorch.staging.lifting import differentiable
from jaxtorch.staging.passes.pipeline import drop_dead_code, merge_common_subexpressions
from jaxtorch.staging.passes.results import output_of
from jaxtorch.staging.passes.rewriting import is_pure
from jaxtorch.staging.region import Region
from jaxtorch.staging.subgraph import (
    Function,
    Kind,
    Subgraph,
    add_input,
    current_trace,
    kind_of,
    node_kind,
)
from jaxtorch.staging.tracer import TraceLevel


class Split:
    """A function split into a forward part and a linear part.

    Attributes:
        forward: ``(*values) -> (*outs, *made)``.
        linear: ``(*read, *made, *cotangents) -> cotangents of the wanted values``;
            there is a cotangent for each output that has derivatives.
        outs: the kinds of the outputs.
        read: the positions of the values that the linear part reads.
        made: the kinds of the residuals that the forward part makes.
    """

    def __init__(
        self,
        func: Function,
        kinds: Sequence[Kind],
        wanted: Sequence[bool],
        invariant: Sequence[bool],
    ) -> None:
        joint = Joint(func, kinds, wanted)
        self.outs = joint.outs
        fixed = {n for n, own in zip(joint.inputs, invariant, strict=True) if own}
        linear = dependents(joint.cotangents)
        needed = Needed(joint, linear, fixed)
        self.read = [i for i, node in enumerate(joint.inputs) if node in needed.kept]
        made = [n for n in needed.kept if n not in set(joint.inputs)]
        self.made = [node_kind(node) for node in made]
        read = [joint.inputs[i] for i in self.read]
        forward = [n for n in joint.graph.nodes if n not in linear]
        self.forward = joint.part(
            joint.inputs, forward, [*joint.results[: len(joint.outs)], *made]
        )
        self.linear = joint.part(
            [*read, *made, *joint.cotangents],
            [n for n in joint.graph.nodes if n in linear or n in needed.anew],
            joint.results[len(joint.outs) :],
        )


class Joint:
    """A function and its pullback as one graph."""

    def __init__(
        self, func: Function, kinds: Sequence[Kind], wanted: Sequence[bool]
    ) -> None:
        outer = current_trace()
        trace = TraceLevel(outer.optimize if outer else "full")
        leaves = [Node(LEAF) if want else None for want in wanted]
        with trace:
            values = [add_input(trace, kind) for kind in kinds]
            level = ReverseLevel()
            with level:
                outs = func(
                    *[
                        v if leaf is None else wrap(level, v, leaf, None)
                        for v, leaf in zip(values, leaves, strict=True)
                    ]
                )
                parts = [tape_parts(level, out) for out in outs]
            primals = [trace.handle(value) for value, _ in parts]
            cotangents = []
            pairs = []
            for primal, (_, root) in zip(primals, parts, strict=True):
                if differentiable(primal):
                    cotangents.append(add_input(trace, kind_of(primal)))
                    if root is not None:
                        pairs.append((root, cotangents[-1]))
            wanted_leaves = [leaf for leaf in leaves if leaf is not None]
            pulled = pull_back(
                [root for root, _ in pairs], [c for _, c in pairs], wanted_leaves, True
            )
            sources = [v for v, want in zip(values, wanted, strict=True) if want]
            cotangents_in = [
                trace.handle(torch.zeros_like(v) if c is None else c)
                for v, c in zip(sources, pulled, strict=True)
            ]
        trace.graph.output([h.node for h in [*primals, *cotangents_in]])
        self.graph = trace.ruled()
        places = (g.find_nodes(op="placeholder") for g in (trace.graph, self.graph))
        own = dict(zip(*places, strict=True))
        self.optimize = trace.optimize
        self.inputs = [own[value.node] for value in values]
        self.cotangents = [own[c.node] for c in cotangents]
        self.outs = [kind_of(primal) for primal in primals]
        self.bound = {own[handle.node]: t for t, handle in trace.captured.values()}
        drop_dead_code(self.graph)
        merge_common_subexpressions(self.graph)
        results: Any = output_of(self.graph).args[0]
        self.results: list[fx.Node] = list(results)

    def part(
        self, inputs: list[fx.Node], nodes: list[fx.Node], results: list[fx.Node]
    ) -> Subgraph:
        """Copy a part of the graph that takes ``inputs`` and returns ``results``."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        used = {source for node in nodes for source in node.all_input_nodes}
        bound = [n for n in self.bound if n in used or n in results]
        for node in [*inputs, *bound]:
            copies[node] = graph.placeholder(node.name)
            copies[node].meta = dict(node.meta)
        for node in nodes:
            if node.op == "call_function" and node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output([copies[node] for node in results])
        kinds = [node_kind(node) for node in results]
        return Subgraph(graph, [self.bound[n] for n in bound], kinds, self.optimize)


class Needed:
    """What the linear part reads: nodes that are kept, and nodes computed anew."""

    def __init__(self, joint: Joint, linear: set[fx.Node], fixed: set[fx.Node]) -> None:
        self.kept: dict[fx.Node, None] = {}
        self.anew: set[fx.Node] = set()
        self.bound = joint.bound
        self.invariant = only_from(joint.graph, fixed | set(joint.bound))
        for node in joint.graph.nodes:
            if node in linear:
                self.need_all(n for n in node.all_input_nodes if n not in linear)
        pulled = joint.results[len(joint.outs) :]
        self.need_all(n for n in pulled if n not in linear)

    def need_all(self, nodes: Iterable[fx.Node]) -> None:
        """Keep the nodes, or compute them anew from others."""
        for node in nodes:
            if node in self.kept or node in self.anew or node in self.bound:
                continue
            if self.is_cheap(node):
                self.anew.add(node)
                self.need_all(node.all_input_nodes)
            else:
                self.kept[node] = None

    def is_cheap(self, node: fx.Node) -> bool:
        """Tell whether a value is better computed anew than kept."""
        if not is_pure(node):
            return False
        if node in self.invariant:
            return True
        target: Any = node.target
        if target is getitem or isinstance(target, Region):
            return False
        return primitive_of(target).kind is CallKind.VIEW


def dependents(roots: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the roots and every call that depends on one of them."""
    found: set[fx.Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in found and node.op != "output":
            found.add(node)
            stack.extend(node.users)
    return found


def only_from(graph: fx.Graph, roots: set[fx.Node]) -> set[fx.Node]:
    """Return the pure calls that depend on nothing but ``roots``."""
    found = set(roots)
    for node in graph.nodes:
        if is_pure(node) and all(source in found for source in node.all_input_nodes):
            found.add(node)
    return found - roots


def tape_parts(level: ReverseLevel, out: Tensor) -> tuple[Tensor, Any]:
    """Return the primal of an output, and where it stands on the tape."""
    if type(out) is TapeTensor and out.level is level:
        if out.alias is not None:
            alias.refresh(out)
        return out.value, None if out.node is None else (out.node, out.index)
    return out, None
