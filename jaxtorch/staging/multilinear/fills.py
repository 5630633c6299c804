"""Uniform tensors that take only their shape from another tensor stop reading it."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.passes.rewriting import emit, shape_of

aten = torch.ops.aten

NUMBERS: dict[Any, int] = {
    aten.new_zeros.default: 0,
    aten.zeros_like.default: 0,
    aten.new_ones.default: 1,
    aten.ones_like.default: 1,
}


def free_fills(graph: fx.Graph) -> None:
    """Make uniform tensors from their shape, so that no product is kept for it."""
    for node in list(graph.nodes):
        if node.target in NUMBERS and all(user.op != "output" for user in node.users):
            named = {"dtype": node.meta["val"].dtype, "device": node.meta["device"]}
            number = NUMBERS[node.target]
            new = emit(node, aten.full.default, shape_of(node), number, **named)
            node.replace_all_uses_with(new)
            graph.erase_node(node)
