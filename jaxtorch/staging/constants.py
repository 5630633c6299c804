"""Constant folding: what depends on no input is computed once, when staging ends."""

from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.memory import bytes_made, storages
from jaxtorch.staging.rewriting import VIEWS

LIMIT = 1 << 20
"""The largest constant that is kept, in bytes; a larger one is made at each call."""


def fold_constants(graph: fx.Graph, is_pure: Any) -> list[Tensor]:
    """Replace constant calls by new placeholders, put behind all others.

    Returns the tensors for these placeholders. What an output shares its memory with is
    left alone, so that a caller may write into an output.
    """
    shared = shared_with_outputs(graph)
    known: dict[fx.Node, Tensor] = {}
    with torch.no_grad(), torch._C._DisableTorchDispatch():
        for node in graph.nodes:
            if is_constant(node, known, is_pure) and shared.isdisjoint(storages(node)):
                target: Any = torch.reshape if node.target in VIEWS else node.target
                value = target(*real(node.args, known), **node.kwargs)
                if isinstance(value, Tensor):
                    known[node] = value
    constants: list[Tensor] = []
    for node, value in known.items():
        if all(user in known for user in node.users):
            continue
        with graph.inserting_after(last_placeholder(graph)):
            place = graph.placeholder(f"k{len(constants)}")
        place.meta.update(node.meta)
        node.replace_all_uses_with(place)
        constants.append(value)
    for node in reversed(known):
        graph.erase_node(node)
    return constants


def is_constant(node: fx.Node, known: dict[fx.Node, Tensor], is_pure: Any) -> bool:
    """Tell whether a call depends on constants alone and is small enough to keep."""
    if node.op != "call_function" or not is_pure(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if any(source not in known for source in node.all_input_nodes):
        return False
    return bytes_made(node) <= LIMIT


def shared_with_outputs(graph: fx.Graph) -> set[int]:
    """Return the storages that outputs hold."""
    found: set[int] = set()
    for node in graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                found.update(storages(source))
    return found


def last_placeholder(graph: fx.Graph) -> fx.Node:
    """Return the last placeholder, or the root of a graph without one."""
    last: fx.Node = graph._root
    for node in graph.nodes:
        if node.op == "placeholder":
            last = node
    return last


def real(value: Any, known: dict[fx.Node, Tensor]) -> Any:
    """Replace the nodes in an argument by their tensors."""
    if isinstance(value, fx.Node):
        return known[value]
    if isinstance(value, (list, tuple)):
        return type(value)(real(v, known) for v in value)
    return value
