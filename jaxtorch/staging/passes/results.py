"""What a staged function promises of its results, whatever the passes do.

A caller may write into a result. So two results, or a result and an input, share memory
only where the function said so, and no result has elements that share memory, or is
scattered in memory, because of a pass.
"""

from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.passes.rewriting import infer
from jaxtorch.staging.running.memory import storages


class Results:
    """The storages of a graph's results, and how each of them lies in memory."""

    def __init__(self, graph: fx.Graph) -> None:
        nodes = output_of(graph).args[0]
        self.storages = [set(storages(node)) for node in nodes]
        self.layouts = [layout_of(node.meta["val"]) for node in nodes]


def output_of(graph: fx.Graph) -> Any:
    """Return the last node of a graph."""
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def layout_of(value: Tensor) -> int:
    """Return 2 for a contiguous tensor, 1 for a dense one, 0 for others."""
    if value.is_contiguous():
        return 2
    return int(torch.ops.aten.is_non_overlapping_and_dense(value))


def keep_promises(graph: fx.Graph, promised: Results) -> int:
    """Clone the results that break a promise; returns how many."""
    output = output_of(graph)
    inputs = {k for n in graph.nodes if n.op == "placeholder" for k in storages(n)}
    nodes = list(output.args[0])
    now = Results(graph)
    cloned = 0
    for i, node in enumerate(nodes):
        scattered = now.layouts[i] < promised.layouts[i]
        shared = newly_shared(i, now.storages, promised.storages, inputs)
        if scattered or shared:
            kind: Any = {"memory_format": torch.contiguous_format} if scattered else {}
            with graph.inserting_before(output):
                copy = graph.call_function(torch.ops.aten.clone.default, (node,), kind)
            copy.meta["device"] = node.meta["device"]
            copy.meta["val"] = infer(copy)
            nodes[i] = copy
            now.storages[i] = set(storages(copy))
            cloned += 1
    output.args = (nodes,)
    return cloned


def newly_shared(
    i: int, now: list[set[int]], promised: list[set[int]], inputs: set[int]
) -> bool:
    """Tell whether a result shares memory with an input or an earlier one since."""
    if not now[i].isdisjoint(inputs) and promised[i].isdisjoint(inputs):
        return True
    return any(
        not now[i].isdisjoint(now[j]) and promised[i].isdisjoint(promised[j])
        for j in range(i)
    )
