"""Symbolic zeros: nothing is computed with a tensor that is known to be zero.

``0 * x`` is zero here even where x is infinite or not a number; what assumes that is
left to ``optimize="full"``, and so is what loses the sign of a zero.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from jaxtorch.staging.passes.rewriting import emit, shape_of, value_of
from jaxtorch.staging.passes.simplify import Rule, spread, uniform

aten = torch.ops.aten


def propagate_zeros(graph: fx.Graph) -> int:
    """Make zeros of what is zero bit by bit; returns how many nodes were replaced."""
    return replace_zeros(graph, EXACT, {})


def drop_products_with_zero(graph: fx.Graph) -> int:
    """Make zeros of products with zero, and drop terms that are zero."""
    return replace_zeros(graph, FREE, SUMS)


def replace_zeros(
    graph: fx.Graph,
    zero_if: dict[OpOverload, Callable[[fx.Node], bool]],
    rules: dict[OpOverload, Rule],
) -> int:
    """Replace calls by zeros where a test holds, or by what a rule gives instead."""
    replaced = 0
    for node in list(graph.nodes):
        target: Any = node.target
        new = None
        if target in zero_if and zero_if[target](node):
            new = zeros_like(node)
        elif target in rules:
            new = rules[target](node)
        if new is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            replaced += 1
    return replaced


def zeros_like(node: fx.Node) -> fx.Node:
    """Emit zeros of the kind of a node."""
    kind = {"dtype": value_of(node).dtype, "device": node.meta["device"]}
    return emit(node, aten.zeros.default, shape_of(node), **kind)


def is_zero(value: Any) -> bool:
    """Tell whether an argument is known to be zero, and not minus zero, everywhere."""
    number = uniform(value)
    return number is not None and number == 0 and math.copysign(1, number) > 0


def first(node: fx.Node) -> bool:
    """The first argument is zero."""
    return is_zero(node.args[0])


def first_of_some(node: Any) -> bool:
    """The first argument is zero, and has elements."""
    return is_zero(node.args[0]) and value_of(node.args[0]).numel() > 0


def first_two(node: fx.Node) -> bool:
    """The first two arguments are zero."""
    return all(map(is_zero, node.args[:2]))


def either(node: fx.Node) -> bool:
    """One of the first two arguments is zero."""
    return any(map(is_zero, node.args[:2]))


def both_choices(node: fx.Node) -> bool:
    """Whatever is chosen is zero."""
    return all(map(is_zero, node.args[1:3]))


def all_listed(node: fx.Node) -> bool:
    """All tensors of the list are zero."""
    tensors: Any = node.args[0]
    return all(map(is_zero, tensors))


def padded_by_zero(node: fx.Node) -> bool:
    """The first argument and what is put around it are zero."""
    return is_zero(node.args[0]) and (len(node.args) < 3 or is_zero(node.args[2]))


def rest(node: fx.Node) -> bool:
    """One of the factors behind the first argument is zero, and so is that."""
    return is_zero(node.args[0]) and product_is_zero(node)


def product_is_zero(node: fx.Node) -> bool:
    """One of the factors behind the first argument is zero."""
    return any(map(is_zero, node.args[1:3]))


def drop_term(node: Any) -> Any:
    """``x + 0 = x`` and ``x - 0 = x``; ``0 + x = x``."""
    terms = node.args[:2]
    if isinstance(terms[0], fx.Node) and is_zero(terms[1]):
        return spread(node, terms[0])
    adds = node.target is aten.add.Tensor and not node.kwargs
    if adds and isinstance(terms[1], fx.Node) and is_zero(terms[0]):
        return spread(node, terms[1])
    return None


def drop_product(node: Any) -> Any:
    """``x + 0 * y = x``."""
    if product_is_zero(node) and node.kwargs.get("beta", 1) == 1:
        return spread(node, node.args[0])
    return None


SELECTED = (
    aten.slice.Tensor,
    aten.select.int,
    aten.diagonal.default,
    aten.unfold.default,
    aten.flip.default,
    aten.roll.default,
    aten.tril.default,
    aten.triu.default,
    aten.diag_embed.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.gather.default,
    aten.take.default,
    aten.repeat.default,
    aten.cumsum.default,
    aten.abs.default,
    aten.relu.default,
    aten.sin.default,
    aten.tanh.default,
    aten.sqrt.default,
    aten.expm1.default,
    aten.log1p.default,
    aten.erf.default,
    aten.clone.default,
    aten.alias.default,
    aten._to_copy.default,
)
"""Zero where their first argument is zero."""

LINEAR = (
    aten.neg.default,
    aten.tanh_backward.default,
    aten.sigmoid_backward.default,
    aten.threshold_backward.default,
    aten.gelu_backward.default,
    aten.silu_backward.default,
    aten._softmax_backward_data.default,
    aten._log_softmax_backward_data.default,
)
"""Zero, or minus zero, where their first argument is zero and the others are finite."""

EXACT: dict[Any, Callable[[fx.Node], bool]] = {
    **dict.fromkeys(SELECTED, first),
    aten.sum.default: first,
    aten.sum.dim_IntList: first,
    aten.mean.default: first_of_some,
    aten.mean.dim: first_of_some,
    aten.cat.default: all_listed,
    aten.stack.default: all_listed,
    aten.where.self: both_choices,
    aten.add.Tensor: first_two,
    aten.slice_scatter.default: first_two,
    aten.select_scatter.default: first_two,
    aten.diagonal_scatter.default: first_two,
    aten.constant_pad_nd.default: padded_by_zero,
}
FREE: dict[Any, Callable[[fx.Node], bool]] = {
    **dict.fromkeys(LINEAR, first),
    aten.div.Tensor: first,
    aten.sub.Tensor: first_two,
    aten.mul.Tensor: either,
    aten.mm.default: either,
    aten.bmm.default: either,
    aten.mv.default: either,
    aten.dot.default: either,
    aten.addmm.default: rest,
    aten.baddbmm.default: rest,
    aten.addcmul.default: rest,
}
SUMS: dict[Any, Rule] = {
    aten.add.Tensor: drop_term,
    aten.sub.Tensor: drop_term,
    aten.addmm.default: drop_product,
    aten.baddbmm.default: drop_product,
    aten.addmv.default: drop_product,
    aten.addcmul.default: drop_product,
}
