"""A pass: loops and branches do not compute what nobody reads."""

from operator import getitem
from typing import Any

from torch import fx

from jaxtorch.staging.region import Region, Slim


def drop_dead_results(graph: fx.Graph) -> int:
    """Replace regions by smaller ones; returns how many results were dropped."""
    dropped = 0
    for node in list(graph.nodes):
        if not (isinstance(node.target, Region) and node.target.pure and node.users):
            continue
        if any(user.target is not getitem for user in node.users):
            continue
        slim = node.target.slim({user.args[1] for user in node.users})
        if slim is not None:
            dropped += len(node.meta["val"]) - len(slim.outputs)
            replace(node, slim)
    return dropped


def replace(node: Any, slim: Slim) -> None:
    """Put the smaller region in the place of a node."""
    call: Any = slim.region
    with node.graph.inserting_before(node):
        new = node.graph.call_function(call, tuple(node.args[i] for i in slim.inputs))
    new.meta["device"] = node.meta["device"]
    new.meta["val"] = tuple(node.meta["val"][i] for i in slim.outputs)
    for user in list(node.users):
        user.args = (new, slim.outputs.index(user.args[1]))
    node.graph.erase_node(node)


def needed(
    reads: list[set[int]], used: set[int], carry: range, always: set[int]
) -> tuple[list[int], list[int]]:
    """Return which inputs and results are needed for the used results.

    ``reads`` says which inputs a result depends on. An input that is carried comes out
    as the result of its place; ``always`` are the inputs that decide what runs.
    """
    outputs = set(used)
    while True:
        inputs = always.union(*(reads[i] for i in outputs))
        more = {carry.index(i) for i in inputs if i in carry}
        if more <= outputs:
            break
        outputs |= more
    inputs |= {carry[i] for i in outputs if i < len(carry)}
    return sorted(inputs), sorted(outputs)
