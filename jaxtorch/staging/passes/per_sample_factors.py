"""The calls that make a gradient for each sample, and what kernels make instead.

What is made of the gradients is recognized in ``per_sample.py``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.operator import Operator, runs_on
from jaxtorch.staging.passes.rewriting import (
    PERMUTES,
    emit,
    is_call,
    item,
    order_of,
    shape_of,
    value_of,
)

aten = torch.ops.aten
WEIGHT = OPERATORS["per_sample_weight"].overload
SQUARED_NORM = OPERATORS["per_sample_squared_norm"]
WEIGHTED_SUM = OPERATORS["per_sample_weighted_sum"].overload
CONVOLUTION = OPERATORS["per_sample_convolution_weight"].overload
CONVOLUTION_NORM = OPERATORS["per_sample_convolution_squared_norm"]
EMBEDDING = aten.embedding_dense_backward.default
EMBEDDING_NORM = OPERATORS["per_sample_embedding_squared_norm"]
PRODUCTS = (aten.bmm.default, OPERATORS["small_bmm"].overload)


class Gradients(NamedTuple):
    """The gradients of all samples, and how to do without them.

    Attributes:
        node: makes them.
        shape: theirs, with the samples in front.
        squared_norm: emits the squared norms [B] before a node.
        weighted_sum: emits the sum with weights [B] before a node.
    """

    node: fx.Node
    shape: list[int]
    squared_norm: Callable[[fx.Node], fx.Node]
    weighted_sum: Callable[[fx.Node, fx.Node], fx.Node]


def gradients_of(node: fx.Node) -> Gradients | None:
    """Recognize a call that makes gradients which kernels can do without."""
    make = MAKERS.get(node.target)
    if make is None or not runs_on(node.meta["device"]):
        return None
    return make(node)


def runs(operator: Operator, *args: Any) -> bool:
    """Tell whether the kernel of an operator runs for the values of nodes."""
    values = [value_of(a) if isinstance(a, fx.Node) else a for a in args]
    return operator.supports(*values)


def scale(before: fx.Node, weights: fx.Node, rows: Any) -> fx.Node:
    """Emit rows [B, ...] times weights [B]."""
    sizes = shape_of(weights) + [1] * (value_of(rows).dim() - 1)
    column = emit(before, aten.view.default, weights, sizes)
    return emit(before, aten.mul.Tensor, rows, column)


def of_linear(node: Any) -> Gradients | None:
    """``G[b] = sum_t g[b, t] a[b, t]^T``, also written ``bmm(g^T, a)``."""
    first, second = node.args
    values = value_of(first), value_of(second)
    if not is_call(node, WEIGHT):
        values = values[1], values[0].mT
    if not SQUARED_NORM.supports(*values):
        return None

    def factors(before: fx.Node) -> Any:
        if is_call(node, WEIGHT):
            return first, second
        if is_call(first, *PERMUTES) and order_of(first) == [0, 2, 1]:
            return second, first.args[0]
        return second, emit(before, aten.transpose.int, first, 1, 2)

    def squared_norm(before: fx.Node) -> fx.Node:
        return emit(before, SQUARED_NORM.overload, *factors(before))

    def weighted_sum(before: fx.Node, weights: fx.Node) -> fx.Node:
        return emit(before, WEIGHTED_SUM, *factors(before), weights)

    return Gradients(node, shape_of(node), squared_norm, weighted_sum)


def of_convolution(node: Any) -> Gradients | None:
    """A sum of the gradients is one gradient of all images, of scaled cotangents."""
    if not runs(CONVOLUTION_NORM, *node.args):
        return None
    x, g, _, *geometry = node.args

    def squared_norm(before: fx.Node) -> fx.Node:
        return emit(before, CONVOLUTION_NORM.overload, *node.args)

    def weighted_sum(before: fx.Node, weights: fx.Node) -> fx.Node:
        small, big = (
            emit(before, aten.view.default, n, [-1, *shape_of(n)[2:]])
            for n in (scale(before, weights, g), x)
        )
        like = emit(before, aten.new_empty.default, x, shape_of(node)[1:])
        plain = False, [0, 0], 1, [False, True, False]
        kernel = aten.convolution_backward.default
        all_three = emit(before, kernel, small, big, like, None, *geometry, *plain)
        return item(before, all_three, 1)

    return Gradients(node, shape_of(node), squared_norm, weighted_sum)


def of_embedding(node: Any) -> Gradients | None:
    """Rows added into the tables of all samples, which lie under each other.

    The tokens of sample b are shifted to its table, by ``b V``: whether two of one
    sample are equal can be seen all the same.
    """
    g, index, rows, padding_idx, by_frequency = node.args
    count = shape_of(index)[0] if shape_of(index) else 0
    if padding_idx >= 0 or by_frequency or not count:
        return None
    size = rows // count
    tokens = unshifted(index, count, size)
    width = shape_of(node)[1]
    sample = [count, value_of(index).numel() // count]
    flat = value_of(index).reshape(sample), value_of(g).reshape(*sample, width)
    if tokens is None or not EMBEDDING_NORM.supports(*flat):
        return None

    def squared_norm(before: fx.Node) -> fx.Node:
        own = emit(before, aten.view.default, index, sample)
        moved = emit(before, aten.view.default, g, [*sample, width])
        return emit(before, EMBEDDING_NORM.overload, own, moved)

    def weighted_sum(before: fx.Node, weights: fx.Node) -> fx.Node:
        return emit(
            before, EMBEDDING, scale(before, weights, g), tokens, size, -1, False
        )

    return Gradients(node, [count, size, width], squared_norm, weighted_sum)


def unshifted(index: Any, count: int, size: int) -> Any:
    """Return the tokens of an index ``tokens[b] + b size``; None of another one."""
    if not is_call(index, aten.add.Tensor) or index.kwargs:
        return None
    tokens, shift = index.args
    if not isinstance(shift, fx.Node) or shape_of(tokens) != shape_of(index):
        return None
    if shape_of(shift) != [count] + [1] * (value_of(index).dim() - 1):
        return None
    if is_call(shift, aten.view.default):
        shift = shift.args[0]
    if not is_call(shift, aten.mul.Tensor) or shift.args[1] != size:
        return None
    places = shift.args[0]
    is_count = is_call(places, aten.arange.default) and list(places.args) == [count]
    return tokens if is_count else None


MAKERS: dict[Any, Callable[[Any], Gradients | None]] = {
    WEIGHT: of_linear,
    CONVOLUTION: of_convolution,
    EMBEDDING: of_embedding,
    **dict.fromkeys(PRODUCTS, of_linear),
}
