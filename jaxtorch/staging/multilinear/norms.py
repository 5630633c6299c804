"""Euclidean norms as square roots of sums while products are rewritten."""

from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.staging.passes.rewriting import emit, is_call

aten = torch.ops.aten


class Opened(NamedTuple):
    """A norm, and the calls that stand for it: ``sqrt(sum(x ** 2))``."""

    options: tuple[Any, ...]
    square: fx.Node
    root: fx.Node


def open_norms(graph: fx.Graph) -> list[Opened]:
    """Replace Euclidean norms by sums of squares."""
    opened = []
    for node in list(graph.nodes):
        if not is_euclidean(node):
            continue
        source, dims, keepdim = arguments(node)
        square = emit(node, aten.pow.Tensor_Scalar, source, 2)
        total = emit(node, aten.sum.dim_IntList, square, dims, keepdim)
        root = emit(node, aten.sqrt.default, total)
        node.replace_all_uses_with(root)
        graph.erase_node(node)
        opened.append(Opened((2, dims, keepdim), square, root))
    return opened


def close_norms(opened: list[Opened]) -> None:
    """Put the norms back whose sums were not rewritten."""
    for options, square, root in opened:
        total = root.args[0]
        if root.users and is_call(total, aten.sum.dim_IntList):
            if total.args[0] is square:  # type: ignore[union-attr]
                args = (square.args[0], *options)
                node = emit(root, aten.linalg_vector_norm.default, *args)
                root.replace_all_uses_with(node)


def is_euclidean(node: fx.Node) -> bool:
    """Tell whether a node is a norm of order two in the dtype of its argument."""
    if not is_call(node, aten.linalg_vector_norm.default) or node.kwargs:
        return False
    source: Any = node.args[0]
    order: Any = node.args[1] if len(node.args) > 1 else 2
    same: bool = source.meta["val"].dtype == node.meta["val"].dtype
    return same and len(node.args) < 5 and bool(order == 2)


def arguments(node: fx.Node) -> tuple[Any, Any, bool]:
    """Return the tensor, the dims and whether they are kept."""
    given = dict(enumerate(node.args))
    source, dims, keepdim = given[0], given.get(2), given.get(3, False)
    return source, dims, bool(keepdim)
