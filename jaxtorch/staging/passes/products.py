"""A pass: matrix products in the form that takes the fewest steps.

An outer product is one multiplication an element, the transpose of a product, where it
is copied or a result, is the product of the transposes, and a gradient goes through an
activation in one call.
"""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear.operators.slopes import SLOPES
from jaxtorch.staging.passes.onednn import pays_for_copy
from jaxtorch.staging.passes.rewriting import (
    PERMUTES,
    emit,
    is_call,
    order_of,
    shape_of,
    value_of,
)
from jaxtorch.staging.passes.simplify import uniform
from jaxtorch.staging.running.memory import bytes_made

aten = torch.ops.aten


def tune_products(graph: fx.Graph) -> int:
    """Rewrite products; returns how many. What nobody needs any more is dead code."""
    made = 0
    for node in list(graph.nodes):
        rule = RULES.get(node.target)
        new = rule(node) if rule is not None else None
        if new is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            made += 1
    return made


def spread_product(node: Any) -> fx.Node | None:
    """A product over one index is elementwise: on a CPU ATen writes it faster."""
    *term, left, right = node.args
    if not term and value_of(node).ndim == 3 and shape_of(left)[-1] > 1:
        return shared_product(node, left, right)
    if shape_of(left)[-1] != 1 or node.meta["device"].type != "cpu" or node.kwargs:
        return None
    if not value_of(node).dtype.is_floating_point:
        return None
    overload = aten.addcmul.default if term else aten.mul.Tensor
    return like(node, emit(node, overload, *term, left, right))


def shared_product(node: Any, left: Any, right: Any) -> fx.Node | None:
    """Products with one matrix are one product of all rows, if copying them pays."""
    batch, rows, inner = shape_of(left)
    if batch < 2 or value_of(right).stride(0) != 0:
        return None
    first = emit(node, aten.view.default, left, [batch * rows, inner])
    shared = emit(node, aten.select.int, right, 0, 0)
    product = emit(node, aten.mm.default, first, shared)
    if bytes_made(first) and not pays_for_copy(product):
        for call in (product, shared, first):
            node.graph.erase_node(call)
        return None
    return emit(node, aten.view.default, product, shape_of(node))


def transposed_product(node: Any) -> fx.Node | None:
    """A row by row copy of ``(A B)^T`` is ``B^T A^T``."""
    moved = node.args[0]
    if not is_call(moved, *PERMUTES) or len(moved.users) != 1:
        return None
    product = moved.args[0]
    if not is_call(product, aten.mm.default, aten.bmm.default):
        return None
    order = list(range(value_of(product).ndim))
    order[-2:] = reversed(order[-2:])
    if order_of(moved) != order or len(product.users) != 1:
        return None
    parts = [turned(node, x, order) for x in product.args[::-1]]
    return like(node, emit(node, product.target, *parts))


def turned_result(node: Any) -> fx.Node | None:
    """A result ``(A B)^T`` is ``B^T A^T``, which lies row by row."""
    product = node.args[0]
    if not is_call(product, aten.mm.default) or order_of(node) != [1, 0]:
        return None
    if len(product.users) != 1 or any(user.op != "output" for user in node.users):
        return None
    parts = [turned(node, x, [1, 0]) for x in product.args[::-1]]
    return emit(node, aten.mm.default, *parts)


def turned(before: fx.Node, matrix: Any, order: list[int]) -> Any:
    """Return transposed matrices; what they are transposes of, if they are."""
    if is_call(matrix, *PERMUTES) and order_of(matrix) == order:
        return matrix.args[0]
    return emit(before, aten.permute.default, matrix, order)


def slope_product(node: Any) -> fx.Node | None:
    """``op(1, x) * g`` is ``op(g, x)`` for the derivative of an activation."""
    for part, g in (node.args, node.args[::-1]):
        viewed = is_call(part, aten.view.default) and len(part.users) == 1
        slope = part.args[0] if viewed else part
        if not is_call(slope, *SLOPES) or len(slope.users) != 1:
            continue
        ones, x, *rest = slope.args
        if uniform(ones) == 1 and isinstance(g, fx.Node):
            x = emit(node, aten.view.default, x, shape_of(part)) if viewed else x
            return like(node, emit(node, slope.target, g, x, *rest, **slope.kwargs))
    return None


def like(node: fx.Node, new: fx.Node) -> fx.Node | None:
    """Return the new call if its value lies in memory like that of the old one."""
    own, value = value_of(node), value_of(new)
    same = own.shape == value.shape and own.dtype == value.dtype
    if same and own.stride() == value.stride():
        return new
    new.graph.erase_node(new)
    return None


RULES = {
    aten.mm.default: spread_product,
    aten.bmm.default: spread_product,
    aten.addmm.default: spread_product,
    aten.baddbmm.default: spread_product,
    aten.mul.Tensor: slope_product,
    aten.clone.default: transposed_product,
    **dict.fromkeys(PERMUTES, turned_result),
}
