"""Graph-to-graph passes that are always right: dead code and common subexpressions."""

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.constants import fold_constants
from jaxtorch.staging.memory import order_for_memory, storages
from jaxtorch.staging.region import Region
from jaxtorch.staging.rewriting import infer, infer_again
from jaxtorch.staging.simplify import simplify
from jaxtorch.staging.untracked import drop_inner_marks


def is_pure(node: Any) -> bool:
    """Tell whether a node may be dropped, merged or moved."""
    if node.op != "call_function":
        return False
    if node.target is getitem:
        return True
    if isinstance(node.target, Region):
        return node.target.pure
    kind = primitive_of(node.target).kind
    return kind is Kind.FUNCTIONAL or kind is Kind.VIEW


def drop_dead_code(graph: fx.Graph) -> int:
    """Remove nodes whose result is not used; returns how many."""
    dropped = 0
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and is_pure(node):
            graph.erase_node(node)
            dropped += 1
    return dropped


def merge_common_subexpressions(graph: fx.Graph) -> int:
    """Compute equal calls once; returns how many nodes were merged."""
    seen: dict[Any, fx.Node] = {}
    merged = 0
    for node in list(graph.nodes):
        if not is_pure(node):
            continue
        key = (node.target, freeze(node.args), freeze(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
            merged += 1
    return merged


def freeze(value: Any) -> Any:
    """Make call arguments hashable, telling 1 from 1.0 and True."""
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    if isinstance(value, dict):
        return tuple(sorted((k, freeze(v)) for k, v in value.items()))
    if isinstance(value, float):
        return float, repr(value)
    if isinstance(value, fx.Node):
        return value
    return type(value), value


def output_storages(graph: fx.Graph) -> list[set[int]]:
    """Return the storages of each output."""
    outputs = next(node for node in graph.nodes if node.op == "output").args[0]
    return [set(storages(node)) for node in outputs]


def separate_outputs(graph: fx.Graph, before: list[set[int]]) -> None:
    """Clone outputs that share memory only because of a pass.

    ``before`` holds the storages of the outputs as the function was traced. A caller
    may write into a result, so two results, or a result and an input, share memory only
    where the function said so.
    """
    output = next(node for node in graph.nodes if node.op == "output")
    inputs = {k for n in graph.nodes if n.op == "placeholder" for k in storages(n)}
    results = list(output.args[0])
    after = output_storages(graph)
    for i, node in enumerate(results):
        joined = not after[i].isdisjoint(inputs) and before[i].isdisjoint(inputs)
        for j in range(i):
            if not after[i].isdisjoint(after[j]) and before[i].isdisjoint(before[j]):
                joined = True
        if joined:
            with graph.inserting_before(output):
                copy = graph.call_function(torch.ops.aten.clone.default, (node,))
            copy.meta["device"] = node.meta["device"]
            copy.meta["val"] = infer(copy)
            results[i] = copy
            after[i] = set(storages(copy))
    output.args = (results,)


def optimize_graph(
    graph: fx.Graph, fold: bool = False
) -> tuple[dict[str, int], list[Tensor]]:
    """Run all passes until nothing changes.

    Returns what each of them removed, and with ``fold`` the constants for the
    placeholders that constant folding put behind the others.
    """
    before = output_storages(graph)
    drop_inner_marks(graph)
    counts = {"dead code": 0, "common subexpressions": 0, "simplified": 0}
    while True:
        counts["dead code"] += drop_dead_code(graph)
        merged = merge_common_subexpressions(graph)
        simplified = simplify(graph)
        counts["common subexpressions"] += merged
        counts["simplified"] += simplified
        if not merged and not simplified:
            break
    counts["dead code"] += drop_dead_code(graph)
    infer_again(graph)
    constants = fold_constants(graph, is_pure) if fold else []
    counts["constants"] = len(constants)
    separate_outputs(graph, before)
    movable = {node for node in graph.nodes if is_pure(node)}
    counts["bytes off the peak"] = order_for_memory(graph, movable)
    return counts, constants
