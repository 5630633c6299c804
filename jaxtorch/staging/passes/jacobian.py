"""Jacobians pushed through layers, and products of them, in kernels.

Tangents go through a linear layer and an activation as a product and an elementwise
call, whose factor is the same for all tangents of a sample; ``J^T D J`` is a product
with a transposed factor. Neither needs what lies between its calls.
"""

from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.operator import Operator, runs_on
from jaxtorch.staging.passes.rewriting import emit, is_call, shape_of, value_of

aten = torch.ops.aten
PUSH = OPERATORS["push_layer"]
GRAM = OPERATORS["weighted_gram"]
DIAGONAL = OPERATORS["gram_diagonal"]
SHARED = OPERATORS["shared_bmm"]
SMALL = OPERATORS["small_bmm"]
FEWEST_COLUMNS = 16
"""The kernel multiplies whole tiles; of fewer columns most of a tile is empty."""
LONGEST_SUM = 512
"""For longer sums a product takes so long that what cuBLAS saves of it is more than a
pass over its result."""
SLOPES = {
    aten.mul.Tensor,
    aten.tanh_backward.default,
    aten.sigmoid_backward.default,
    aten.threshold_backward.default,
    aten.gelu_backward.default,
    aten.softplus_backward.default,
    aten.leaky_relu_backward.default,
    aten.hardtanh_backward.default,
    aten.hardswish_backward.default,
}
"""Calls that multiply their first argument by a function of the second."""


def lower_jacobians(graph: fx.Graph) -> int:
    """Put kernels in the place of such calls; returns of how many."""
    lowered = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or not runs_on(node.meta["device"]):
            continue
        if node.target in SLOPES:
            made = push_layer(node)
        elif is_call(node, aten.bmm.default, SMALL.overload):
            made = weighted_gram(node)
        elif is_call(node, aten.diagonal.default):
            made = gram_diagonal(node)
        else:
            continue
        if made is not None:
            node.replace_all_uses_with(made)
            lowered += 1
    return lowered


def args_of(node: Any) -> Any:
    """Return the arguments of a call, which can be anything."""
    return node.args


def push_layer(node: Any) -> Any:
    """Recognize ``slope(t w, y)``, y the same for all tangents [.., S, K]."""
    shape = shape_of(node)
    if len(args_of(node)) < 2 or len(shape) not in (2, 3) or shape[-2] == 1:
        return None
    product, factor = args_of(node)[:2]
    layer, y = layer_of(product, shape), shared(factor, shape)
    if layer is None and node.target is aten.mul.Tensor:
        layer, y = layer_of(factor, shape), shared(product, shape)
    if layer is None or y is None:
        return None
    t, w = layer
    batch = shape[0] if len(shape) == 3 else 1
    t = emit(node, aten.view.default, t, [batch, shape[-2], shape_of(w)[0]])
    d = emit(node, aten.view.default, y, [batch, shape[-1]])
    if node.target is not aten.mul.Tensor:
        ones = emit(node, aten.ones_like.default, d)
        d = emit(node, node.target, ones, d, *args_of(node)[2:], **node.kwargs)
    out = emit_supported(PUSH, node, t, w, d)
    return out and emit(node, aten.view.default, out, shape)


def emit_supported(operator: Operator, before: fx.Node, *args: Any) -> Any:
    """Insert a call of an operator, if its kernel would run."""
    if not operator.supports(*(value_of(a) for a in args)):
        return None
    return emit(before, operator.overload, *args)


def layer_of(node: Any, shape: list[int]) -> tuple[Any, Any] | None:
    """Return tangents and weights whose product is what ``node`` shows."""
    if not isinstance(node, fx.Node) or shape_of(node) != shape:
        return None
    product = args_of(node)[0] if is_call(node, aten.view.default) else node
    if not is_call(product, aten.mm.default, SHARED.overload):
        return None
    t, w = args_of(product)
    alone = len(node.users) == 1 and len(product.users) == 1
    return (t, w) if alone and shape_of(w)[0] <= LONGEST_SUM else None


def shared(node: Any, shape: list[int]) -> Any:
    """Return the factor [.., 1, N] of which ``node`` is a copy for each tangent."""
    if is_call(node, aten.expand.default):
        node = args_of(node)[0]
    if not isinstance(node, fx.Node):
        return None
    own = shape_of(node)
    own = [1] * (len(shape) - len(own)) + own
    return node if own == [*shape[:-2], 1, shape[-1]] else None


def weighted_gram(node: Any) -> Any:
    """Recognize ``j^T j``, where either factor may be multiplied by weights of rows."""
    first, second = args_of(node)
    left, right = factor_of(first, 2), factor_of(second, 1)
    if left.source is not right.source or left.turned == right.turned:
        return None
    if (left.weights and right.weights) or shape_of(node)[2] < FEWEST_COLUMNS:
        return None
    j = right.source
    if right.turned:
        j = emit(node, aten.transpose.int, j, 1, 2)
    weights = left.weights or right.weights
    if weights is None:
        d = emit(node, aten.ones_like.default, emit(node, aten.select.int, j, 2, 0))
    else:
        d = emit(node, aten.view.default, weights, shape_of(j)[:2])
    return emit_supported(GRAM, node, j, d)


class Factor(NamedTuple):
    """A factor of a product, undone of what can be undone.

    Attributes:
        source: what was turned and weighted.
        turned: whether its rows are the factor's columns.
        weights: what multiplies the rows that are summed over.
    """

    source: Any
    turned: bool
    weights: Any


def factor_of(node: Any, dim: int) -> Factor:
    """Undo transposing and one product with weights along ``dim``, the summed one."""
    turned, weights = False, None
    while isinstance(node, fx.Node) and node.op == "call_function":
        if is_transpose(node):
            turned, dim, node = not turned, 3 - dim, args_of(node)[0]
            continue
        if node.target is not aten.mul.Tensor or weights is not None:
            break
        weights = next((a for a in args_of(node) if is_along(a, node, dim)), None)
        if weights is None:
            break
        first, second = args_of(node)
        node = second if first is weights else first
    return Factor(node, turned, weights)


def is_transpose(node: Any) -> bool:
    """Tell whether a node swaps the last two of three dims."""
    if is_call(node, aten.permute.default):
        return [d % 3 for d in args_of(node)[1]] == [0, 2, 1]
    if is_call(node, aten.transpose.int):
        return {d % 3 for d in args_of(node)[1:]} == {1, 2}
    return False


def is_along(node: Any, product: Any, dim: int) -> bool:
    """Tell whether a factor of a product differs by sample and along ``dim`` only."""
    if not isinstance(node, fx.Node):
        return False
    wanted = shape_of(product)
    wanted[3 - dim] = 1
    return shape_of(node) == wanted


def gram_diagonal(node: Any) -> Any:
    """Recognize the diagonals of products that nothing else needs."""
    args = list(args_of(node))
    product, offset, first, second = args + [0, 0, 1][len(args) - 1 :]
    if not is_call(product, GRAM.overload) or len(product.users) > 1:
        return None
    if offset != 0 or {first % 3, second % 3} != {1, 2}:
        return None
    return emit_supported(DIAGONAL, node, *args_of(product))
