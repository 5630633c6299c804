"""What fusing would save: groups of calls that could run as one loop, and their bytes.

A model for choosing a back end and for reading; the compiler decides for itself.
"""

from operator import getitem
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.running.memory import storages

aten = torch.ops.aten


class Fusion:
    """The groups of a graph.

    Attributes:
        groups: for each call in a group of at least two, the number of the group.
        loops: how many loops run, groups and single calls.
        saved: bytes that are not read or written once each group is one loop.
    """

    def __init__(self, graph: fx.Graph) -> None:
        members = group_members(graph)
        self.loops = sum(any(map(is_loop, own)) for own in members)
        fused = [own for own in members if sum(map(is_loop, own)) > 1]
        self.groups = {node: i for i, own in enumerate(fused, 1) for node in own}
        self.saved = sum(saved_by(own) for own in fused)


def group_members(graph: fx.Graph) -> list[list[fx.Node]]:
    """Return the calls that belong together, in the order of their first calls.

    Connected calls do if equally many calls that can't be fused lie before them, so
    that no value leaves a group and comes back.
    """
    depth: dict[fx.Node, int] = {}
    leader: dict[fx.Node, fx.Node] = {}

    def lead(node: fx.Node) -> fx.Node:
        while leader[node] is not node:
            node = leader[node]
        return node

    for node in graph.nodes:
        sources = node.all_input_nodes
        depth[node] = max((depth[s] for s in sources), default=0)
        if node.op != "call_function":
            continue
        if not is_fusable(node):
            depth[node] += 1
            continue
        leader[node] = node
        for source in sources:
            if source in leader and depth[source] == depth[node]:
                leader[lead(source)] = lead(node)
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in leader:
        found.setdefault(lead(node), []).append(node)
    return list(found.values())


def is_fusable(node: fx.Node) -> bool:
    """Tell whether a call can be part of a loop over elements."""
    return is_loop(node) or is_view(node)


def is_view(node: fx.Node) -> bool:
    """Tell whether a call moves nothing."""
    target: Any = node.target
    if not isinstance(target, OpOverload):
        return target is getitem
    return primitive_of(target).kind is Kind.VIEW


def is_loop(node: fx.Node) -> bool:
    """Tell whether a call computes element by element, or reduces."""
    target: Any = node.target
    if not isinstance(target, OpOverload):
        return False
    return torch.Tag.pointwise in target.tags or target.overloadpacket in LOOPS


def saved_by(group: list[fx.Node]) -> int:
    """Return the bytes that the calls of a group move, less those of one loop."""
    written: set[int] = set()
    read: dict[int, int] = {}
    kept: dict[int, int] = {}
    inside = set(group)
    moved = 0
    for node in group:
        own = storages(node)
        given: dict[int, int] = {}
        for source in node.all_input_nodes:
            given.update(storages(source))
        read.update((key, n) for key, n in given.items() if key not in written)
        if is_loop(node):
            moved += sum(given.values()) + sum(own.values())
            written.update(own)
        if any(user not in inside for user in node.users):
            kept.update(own)
    writes = sum(n for key, n in kept.items() if key in written)
    return max(0, moved - sum(read.values()) - writes)


LOOPS = {
    aten._to_copy,
    aten.amax,
    aten.amin,
    aten.full,
    aten.full_like,
    aten.logsumexp,
    aten.mean,
    aten.native_layer_norm,
    aten.native_layer_norm_backward,
    aten.ones,
    aten.ones_like,
    aten.prod,
    aten.sum,
    aten.var,
    aten.zeros,
    aten.zeros_like,
    aten._softmax,
    aten._softmax_backward_data,
    aten._log_softmax,
    aten._log_softmax_backward_data,
}
"""Reductions, fills and what else is a loop without the tag ``pointwise``."""
