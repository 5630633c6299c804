"""``torch.no_grad`` in a staged graph: a call that stops reverse-mode derivatives."""

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.region import Region


class Untracked(Region):
    """Returns its argument as it is made under ``torch.no_grad``."""

    __name__ = "no_grad"

    def __call__(self, *args: Any) -> Any:
        value: Tensor = args[0]
        with torch.no_grad():
            return torch.ops.aten.alias.default(value)

    def graphs(self) -> list[fx.Graph]:
        return []

    def flops(self, count: Any) -> int:
        return 0


UNTRACKED = Untracked()


def drop_inner_marks(graph: fx.Graph) -> int:
    """Drop marks of what only marked values are made of; returns how many."""
    dropped = 0
    for node in list(graph.nodes):
        if node.target is UNTRACKED and all(map(is_hidden, node.users)):
            source: Any = node.args[0]
            node.replace_all_uses_with(source)
            graph.erase_node(node)
            dropped += 1
    return dropped


def is_hidden(node: fx.Node) -> bool:
    """Tell whether a value is seen through marks only."""
    if node.op != "call_function" or node.target is UNTRACKED:
        return False
    if not node.users:
        return False
    return all(
        user.target is UNTRACKED or (user.target is getitem and is_hidden(user))
        for user in node.users
    )
