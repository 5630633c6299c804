"""Algebraic clean-up: views of views, uniform tensors, products with one.

Each rule looks at one node and returns the node that may stand in its place, or None.
Rules that keep every bit of the values are in ``EXACT``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from jaxtorch.staging.passes.rewriting import (
    PERMUTES,
    RESHAPES,
    emit,
    is_call,
    order_of,
    shape_of,
    value_of,
)

aten = torch.ops.aten
Rule = Callable[[fx.Node], fx.Node | None]


def simplify_exactly(graph: fx.Graph) -> int:
    """Apply the rules that keep every bit; returns how many nodes were replaced."""
    return apply_rules(graph, EXACT)


def simplify(graph: fx.Graph) -> int:
    """Apply the rules that may change rounding or the sign of a zero."""
    return apply_rules(graph, FREE)


def apply_rules(graph: fx.Graph, rules: dict[Any, Rule]) -> int:
    """Apply rules to every node in order; returns how many were replaced."""
    replaced = 0
    for node in list(graph.nodes):
        while (rule := rules.get(node.target)) is not None:
            new = rule(node)
            if new is None or new is node:
                break
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            replaced += 1
            node = new
    return replaced


def drop_reshape(node: Any) -> Any:
    """Turn every way to reshape into one view of the first tensor that it views."""
    source = node.args[0]
    while is_call(source, *RESHAPES):
        source = source.args[0]
    shape = shape_of(node)
    if shape_of(source) == shape:
        return source
    if is_call(source, aten.slice.Tensor) and (one := selected(node, source)):
        return one
    if source is node.args[0] and node.target is aten.view.default:
        return None
    return emit(node, aten.view.default, source, shape)


def selected(node: fx.Node, source: Any) -> fx.Node | None:
    """Return the choice of a place, where a slice of one place lost its dim."""
    given, *rest = source.args
    dim, start = (rest[0] if rest else 0) % value_of(given).dim(), (*rest, 0, 0)[1]
    whole, sliced = shape_of(given), shape_of(source)
    if whole[dim] == 1 or sliced[dim] != 1 or not isinstance(start, int):
        return None
    if shape_of(node) != sliced[:dim] + sliced[dim + 1 :]:
        return None
    start = max(start + whole[dim] if start < 0 else start, 0)
    return emit(node, aten.select.int, given, dim, start)


def drop_permutation(node: Any) -> Any:
    """Compose permutations; drop the identity; view where only ones move."""
    source = node.args[0]
    order = order_of(node)
    if is_call(source, *PERMUTES):
        inner = order_of(source)
        order = [inner[d] for d in order]
        source = source.args[0]
    if order == sorted(order):
        return source
    shape = shape_of(source)
    if [d for d in order if shape[d] != 1] == [
        d for d in range(len(order)) if shape[d] != 1
    ]:
        return emit(node, aten.view.default, source, [shape[d] for d in order])
    if source is node.args[0]:
        return None
    if len(order) == 2:
        return emit(node, aten.t.default, source)
    return emit(node, aten.permute.default, source, order)


def drop_copy(node: Any) -> Any:
    """Drop a copy of the same shape and dtype."""
    source = node.args[0]
    out, given = value_of(node), value_of(source)
    if out.shape != given.shape or out.dtype != given.dtype:
        return None
    if node.meta["device"] != source.meta["device"]:
        return None
    return source


def drop_exact_copy(node: Any) -> Any:
    """Drop a copy of the same strides: an order of memory decides rounding."""
    same = value_of(node).stride() == value_of(node.args[0]).stride()
    return drop_copy(node) if same else None


def uniform(node: Any) -> Any:
    """Return the number that all elements of a node are, or None if not known."""
    if not isinstance(node, fx.Node):
        return node if isinstance(node, (int, float)) else None
    if node.target in FILLS:
        number = FILLS[node.target](node)
        return rounded(number, node) if isinstance(number, (int, float)) else None
    if node.target in CARRIES:
        return uniform(node.args[0])
    return None


def rounded(number: float, node: fx.Node) -> Any:
    """Return the number as an element of the node's dtype."""
    with torch._C._DisableTorchDispatch():
        return torch.tensor(number, dtype=value_of(node).dtype).item()


def spread(node: Any, source: Any) -> Any:
    """Return ``source`` broadcast to the shape of ``node``, if the dtypes agree."""
    if value_of(source).dtype != value_of(node).dtype:
        return None
    shape = shape_of(node)
    if shape_of(source) == shape:
        return source
    return emit(node, aten.expand.default, source, shape)


def simplify_product(node: Any) -> Any:
    """``x * 1 = x``; a uniform factor becomes a number."""
    for place in (0, 1):
        number = uniform(node.args[place])
        other = node.args[1 - place]
        if number is None or not isinstance(other, fx.Node):
            continue
        if number == 1:
            return spread(node, other)
        factor = node.args[place]
        if isinstance(factor, fx.Node):
            same = value_of(other).shape == value_of(node).shape
            if same and value_of(other).dtype == value_of(node).dtype:
                return emit(node, aten.mul.Tensor, other, number)
    return None


def simplify_quotient(node: Any) -> Any:
    """``x / 1 = x``."""
    if uniform(node.args[1]) == 1 and isinstance(node.args[0], fx.Node):
        return spread(node, node.args[0])
    return None


def simplify_reduction(node: Any) -> Any:
    """A sum over dims of size one is a view."""
    source = node.args[0]
    value = value_of(node)
    if value.numel() == value_of(source).numel() and value.numel() > 0:
        if value.dtype == value_of(source).dtype:
            return emit(node, aten.view.default, source, list(value.shape))
    return None


def simplify_fill(node: Any) -> Any:
    """A fill like a tensor that lies row by row needs the tensor's shape alone."""
    number = FILLS[node.target](node)
    if not value_of(node).is_contiguous():
        return None
    kind = {"dtype": value_of(node).dtype, "device": node.meta["device"]}
    return emit(node, aten.full.default, shape_of(node), number, **kind)


def simplify_matmul(node: Any) -> Any:
    """A product with the identity matrix, or with a single one, is the other factor."""
    left, right = node.args
    if shape_of(left)[1] == 1:
        if uniform(left) == 1:
            return spread(node, right)
        if uniform(right) == 1:
            return spread(node, left)
    if is_call(left, aten.eye.default):
        return right
    if is_call(right, aten.eye.default):
        return left
    return None


def eye_of_one(node: Any) -> Any:
    """The identity matrix of size one is one everywhere."""
    return 1 if value_of(node).numel() == 1 else None


FILLS: dict[OpOverload, Callable[[fx.Node], Any]] = {
    aten.fill.Scalar: lambda node: node.args[1],
    aten.full.default: lambda node: node.args[1],
    aten.full_like.default: lambda node: node.args[1],
    aten.ones.default: lambda node: 1,
    aten.ones_like.default: lambda node: 1,
    aten.zeros.default: lambda node: 0,
    aten.zeros_like.default: lambda node: 0,
    aten.new_zeros.default: lambda node: 0,
    aten.new_ones.default: lambda node: 1,
    aten.eye.default: eye_of_one,
}
CARRIES = {*RESHAPES, *PERMUTES, aten.expand.default, aten.clone.default}
EXACT: dict[Any, Rule] = {
    **dict.fromkeys(RESHAPES, drop_reshape),
    **dict.fromkeys(PERMUTES, drop_permutation),
    aten.expand.default: drop_copy,
    aten.clone.default: drop_exact_copy,
    aten.alias.default: drop_copy,
    aten._to_copy.default: drop_exact_copy,
    aten.mul.Tensor: simplify_product,
    aten.div.Tensor: simplify_quotient,
    aten.full_like.default: simplify_fill,
    aten.ones_like.default: simplify_fill,
    aten.zeros_like.default: simplify_fill,
    aten.new_ones.default: simplify_fill,
    aten.new_zeros.default: simplify_fill,
}
FREE: dict[Any, Rule] = {
    aten.clone.default: drop_copy,
    aten._to_copy.default: drop_copy,
    aten.sum.dim_IntList: simplify_reduction,
    aten.mm.default: simplify_matmul,
}
