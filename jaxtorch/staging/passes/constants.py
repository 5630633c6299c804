"""Constants: what depends on nothing from outside is computed while staging."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from jaxtorch.staging.passes.rewriting import VIEWS, is_pure, made_contiguous
from jaxtorch.staging.region import Region
from jaxtorch.staging.running.memory import bytes_made, storages
from jaxtorch.staging.untracked import UNTRACKED

LIMIT = 1 << 20
"""The largest constant that is kept, in bytes; a larger one is made at each call."""


def fold_constants(graph: fx.Graph) -> list[Tensor]:
    """Replace constant calls by new placeholders, put behind all others.

    Returns the tensors for these placeholders. What an output shares its memory with is
    left alone, so that a caller may write into an output.
    """
    shared = shared_with_outputs(graph)
    known: dict[fx.Node, Tensor] = {}
    with torch.no_grad(), torch._C._DisableTorchDispatch():
        for node in graph.nodes:
            if is_constant(node, known) and shared.isdisjoint(storages(node)):
                target: Any = torch.reshape if node.target in VIEWS else node.target
                given = made_contiguous(target, real(node.args, known))
                value = target(*given, **node.kwargs)
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


def evaluate(values: list[Any], literals: dict[fx.Node, Tensor]) -> list[Any]:
    """Compute arguments of a call; raises ``NotConstantError`` where that can't be.

    ``literals`` are the placeholders of tensors that the function itself has made.
    """
    known: dict[fx.Node, Any] = dict(literals)
    nodes = [n for n in tree_leaves(values) if isinstance(n, fx.Node)]
    needed = set(nodes)
    while nodes:
        node = nodes.pop()
        if node in known:
            continue
        simple = not isinstance(node.target, Region) or node.target is UNTRACKED
        if not (is_pure(node) and simple):
            raise NotConstantError
        fresh = [n for n in node.all_input_nodes if n not in needed]
        needed.update(fresh)
        nodes += fresh
    with torch.no_grad(), torch._C._DisableTorchDispatch():
        for node in next(iter(needed)).graph.nodes if needed else ():
            if node in needed and node not in known:
                known[node] = node.target(*real(node.args, known), **node.kwargs)
    return [real(value, known) for value in values]


class NotConstantError(Exception):
    """A value depends on an input, a captured tensor, or a random number."""


def is_constant(node: fx.Node, known: dict[fx.Node, Tensor]) -> bool:
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
