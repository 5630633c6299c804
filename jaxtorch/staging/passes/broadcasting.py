"""A pass: elementwise calls broadcast by themselves what was expanded for them."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.passes.rewriting import is_call, meta_of, value_of

aten = torch.ops.aten


def drop_expands(graph: fx.Graph) -> int:
    """Let calls read what their arguments were expanded from; returns how often."""
    changed = 0
    for node in list(graph.nodes):
        if node.target in BROADCASTING and is_of_one_dtype(node):
            changed += sum(drop_expand(node, i) for i in range(len(node.args)))
    return changed


def is_of_one_dtype(node: fx.Node) -> bool:
    """Tell whether all tensors are of one dtype: one without dims decides no other."""
    return len({value_of(source).dtype for source in node.all_input_nodes}) == 1


def drop_expand(node: Any, place: int) -> bool:
    """Take the source of an expanded argument if the result stays what it is."""
    argument = node.args[place]
    if not is_call(argument, aten.expand.default):
        return False
    args = [*node.args[:place], argument.args[0], *node.args[place + 1 :]]
    with torch._C._DisableTorchDispatch():
        new = node.target(*map(meta_of, args), **node.kwargs)
    old = value_of(node)
    if new.shape != old.shape or new.stride() != old.stride():
        return False
    node.args = tuple(args)
    return True


BROADCASTING = {
    aten.add.Tensor,
    aten.addcdiv.default,
    aten.addcmul.default,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
    aten.mul.Tensor,
    aten.sigmoid_backward.default,
    aten.sub.Tensor,
    aten.tanh_backward.default,
    aten.threshold_backward.default,
    aten.where.self,
}
"""Elementwise calls that broadcast all their arguments, on every device."""
