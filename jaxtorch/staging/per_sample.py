"""Norms and weighted sums of per-sample gradients, without the gradients.

The gradients of a linear layer are one batched product [B, O, I]. Where a graph only
takes their norms, or their sum with a weight for each sample, as clipping does, kernels
compute these from the factors of the product.
"""

from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.operator import runs_on
from jaxtorch.staging.rewriting import emit, is_call, shape_of, value_of

aten = torch.ops.aten
WEIGHT = OPERATORS["per_sample_weight"]
SQUARED_NORM = OPERATORS["per_sample_squared_norm"]
WEIGHTED_SUM = OPERATORS["per_sample_weighted_sum"]
PRODUCTS = (aten.bmm.default, OPERATORS["small_bmm"].overload)
ROWS_NORM = OPERATORS["rows_norm"].overload


class Use(NamedTuple):
    """What is made of the gradients.

    Attributes:
        last: the node whose value a kernel computes.
        weights: of a weighted sum, a value of shape [B, 1, 1]; None of a norm.
        is_root: whether a norm is not squared.
    """

    last: fx.Node
    weights: fx.Node | None = None
    is_root: bool = False


def lower_per_sample(graph: fx.Graph) -> int:
    """Replace such uses by kernels; returns how many gradients are no longer made."""
    lowered = 0
    for node in list(graph.nodes):
        if not is_call(node, *PRODUCTS, WEIGHT.overload) or not has_kernel(node):
            continue
        uses = [use_of(user, node) for user in node.users]
        if not uses or None in uses:
            continue
        for use in uses:
            if use is not None:
                replace(node, use)
        lowered += 1
    return lowered


def has_kernel(node: fx.Node) -> bool:
    """Tell whether kernels run for the factors of a product."""
    values = [value_of(factor) for factor in node.all_input_nodes]
    if len(values) != 2 or not runs_on(node.meta["device"]):
        return False
    a, g = values if is_call(node, WEIGHT.overload) else (values[1], values[0].mT)
    return SQUARED_NORM.supports(a, g)


def use_of(user: fx.Node, gradients: fx.Node) -> Use | None:
    """Recognize what one user makes of the gradients."""
    if is_norm(user, gradients):
        return Use(user, is_root=True)
    after = only_user(user)
    if after is None:
        return None
    if is_call(user, aten.view.default) and is_call(after, ROWS_NORM):
        is_norm_of_each = shape_of(after) == shape_of(gradients)[:1]
        return Use(after, is_root=True) if is_norm_of_each else None
    if is_square(user, gradients) and sums(after, [1, 2]):
        return Use(after)
    if is_call(user, aten.mul.Tensor) and sums(after, [0]):
        weights = user.args[1] if user.args[0] is gradients else user.args[0]
        same = value_of(after).dtype == value_of(gradients).dtype
        if same and isinstance(weights, fx.Node) and is_column(weights, gradients):
            return Use(after, weights)
    return None


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the user of a node that has one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_norm(node: Any, gradients: fx.Node) -> bool:
    """Tell whether a node is the Euclidean norm of each gradient."""
    if not is_call(node, aten.linalg_vector_norm.default) or node.kwargs:
        return False
    if len(node.args) != 3 or node.args[1] != 2:
        return False
    return dims_of(node.args[2], gradients) == [1, 2]


def is_square(node: Any, gradients: fx.Node) -> bool:
    """Tell whether a node squares the gradients."""
    if is_call(node, aten.pow.Tensor_Scalar):
        return bool(node.args[1] == 2)
    return is_call(node, aten.mul.Tensor) and list(node.args) == [gradients] * 2


def sums(node: fx.Node, dims: list[int]) -> bool:
    """Tell whether a node sums over ``dims``, which it drops."""
    if not is_call(node, aten.sum.dim_IntList) or node.kwargs or len(node.args) != 2:
        return False
    return dims_of(node.args[1], node.all_input_nodes[0]) == dims


def dims_of(dims: Any, node: fx.Node) -> list[int]:
    """Return dims in order, counted from the front."""
    rank = len(shape_of(node))
    return sorted(d % rank for d in dims) if isinstance(dims, (list, tuple)) else []


def is_column(node: fx.Node, gradients: fx.Node) -> bool:
    """Tell whether a node has one number for each sample."""
    return shape_of(node) == [shape_of(gradients)[0], 1, 1]


def replace(gradients: fx.Node, use: Use) -> None:
    """Put a kernel in the place of a use."""
    last = use.last
    a, g = factors(gradients, last)
    if use.weights is not None:
        size = shape_of(gradients)[:1]
        weights = emit(last, aten.view.default, use.weights, size)
        out = emit(last, WEIGHTED_SUM.overload, a, g, weights)
    else:
        out = emit(last, SQUARED_NORM.overload, a, g)
        if use.is_root:
            out = emit(last, aten.sqrt.default, out)
        if value_of(out).dtype != value_of(last).dtype:
            kind = value_of(last).dtype
            out = emit(last, aten._to_copy.default, out, dtype=kind)
    last.replace_all_uses_with(out)


def factors(gradients: Any, before: fx.Node) -> Any:
    """Return activations [B, T, I] and cotangents [B, T, O]."""
    if is_call(gradients, WEIGHT.overload):
        return gradients.args
    left, right = gradients.args
    if is_call(left, aten.transpose.int):
        source, *dims = left.args
        if dims_of(dims, source) == [1, 2]:
            return right, source
    return right, emit(before, aten.transpose.int, left, 1, 2)
