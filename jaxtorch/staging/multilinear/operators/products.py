"""Sums and products: pointwise, of matrices, over dims."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import Call, Form, OpaqueError
from jaxtorch.staging.multilinear.operators.arguments import (
    argument,
    is_number,
    mapped,
    rank_of,
    shape_of,
    times,
)
from jaxtorch.staging.multilinear.reading import Reader, Reading

aten = torch.ops.aten


def negate(reader: Reader, node: Any) -> Form:
    """``-x``."""
    return algebra.scaled(reader.of(node.args[0]), -1)


def multiply(reader: Reader, node: Any) -> Form:
    """A product of two tensors that broadcast, or with a number."""
    first, second = node.args
    for factor, other in ((first, second), (second, first)):
        if is_number(factor):
            return algebra.expanded(
                algebra.scaled(reader.of(other), factor), shape_of(node)
            )
    return pointwise(reader, node, first, second)


def pointwise(reader: Reader, node: Any, first: Any, second: Any) -> Form:
    """A product of two tensors that broadcast."""
    if first.meta["val"].dtype != second.meta["val"].dtype:
        raise OpaqueError
    rank = rank_of(node)
    names = range(rank - rank_of(first), rank)
    others = range(rank - rank_of(second), rank)
    form = reader.product(node, first, names, second, others, list(range(rank)))
    return algebra.expanded(form, shape_of(node))


def divide(reader: Reader, node: Any) -> Form:
    """A quotient by a number, or of a structured tensor by a smaller one."""
    first, second = node.args
    if is_number(second) and second:
        return algebra.scaled(reader.of(first), 1 / second)
    if not isinstance(second, fx.Node) or not isinstance(first, fx.Node):
        raise OpaqueError
    factor = mapped(reader, second, lambda x: Call(aten.reciprocal.default, (x,)))
    return times(reader, node, first, factor)


def square(reader: Reader, node: Any) -> Form:
    """``x * x``."""
    if node.target is aten.pow.Tensor_Scalar and node.args[1] != 2:
        raise OpaqueError
    names = list(range(rank_of(node)))
    return reader.product(node, node.args[0], names, node.args[0], names, names)


def add(reader: Reader, node: Any) -> Form:
    """A sum or a difference of two tensors that broadcast."""
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        raise OpaqueError
    alpha = node.kwargs.get("alpha", 1)
    if node.target is aten.sub.Tensor:
        alpha = -alpha
    if not is_number(alpha):
        raise OpaqueError
    terms: Form = ()
    for form, factor in ((reader.of(first), 1), (reader.of(second), alpha)):
        terms += algebra.expanded(algebra.scaled(form, factor), shape_of(node))
    return terms


def reduce_sum(reader: Reader, node: Any) -> Form:
    """A sum over some or all dims."""
    source = node.args[0]
    dims, keepdim = reduced(node)
    if source.meta["val"].dtype != node.meta["val"].dtype:
        raise OpaqueError
    return algebra.summed(reader.of(source), dims, keepdim)


def reduce_mean(reader: Reader, node: Any) -> Form:
    """A mean over some or all dims."""
    count = node.args[0].meta["val"].numel() / max(node.meta["val"].numel(), 1)
    if not count:
        raise OpaqueError
    return algebra.scaled(reduce_sum(reader, node), 1 / count)


def reduced(node: Any) -> tuple[list[int], bool]:
    """Return the dims that a reduction sums over."""
    rank = rank_of(node.args[0])
    dims = argument(node, 1, None)
    if not dims and dims != 0:
        return list(range(rank)), bool(argument(node, 2, False))
    dims = [dims] if isinstance(dims, int) else dims
    return [d % rank for d in dims if rank], bool(argument(node, 2, False))


EINSUMS: dict[Any, tuple[str, str, str]] = {
    aten.mm.default: ("mk", "kn", "mn"),
    aten.bmm.default: ("bmk", "bkn", "bmn"),
    aten.mv.default: ("mk", "k", "m"),
    aten.dot.default: ("k", "k", ""),
}


def matrix_product(reader: Reader, node: Any) -> Form:
    """A product of matrices and vectors."""
    first, second = node.args
    names, others, out = EINSUMS[node.target]
    return reader.product(node, first, names, second, others, out)


BIASED: dict[Any, Any] = {
    aten.addmm.default: aten.mm.default,
    aten.baddbmm.default: aten.bmm.default,
    aten.addmv.default: aten.mv.default,
}


def biased_product(reader: Reader, node: Any) -> Form:
    """``beta * bias + alpha * (a @ b)``."""
    bias, first, second = node.args
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    if not is_number(alpha) or not is_number(beta):
        raise OpaqueError
    names, others, out = EINSUMS[BIASED[node.target]]
    product = reader.product(node, first, names, second, others, out)
    offset = algebra.expanded(reader.of(bias), shape_of(node))
    return algebra.scaled(offset, beta) + algebra.scaled(product, alpha)


READINGS: dict[Any, Reading] = {
    aten.neg.default: negate,
    aten.mul.Tensor: multiply,
    aten.mul.Scalar: multiply,
    aten.div.Tensor: divide,
    aten.pow.Tensor_Scalar: square,
    aten.square.default: square,
    aten.add.Tensor: add,
    aten.sub.Tensor: add,
    aten.sum.default: reduce_sum,
    aten.sum.dim_IntList: reduce_sum,
    aten.mean.default: reduce_mean,
    aten.mean.dim: reduce_mean,
    **dict.fromkeys(EINSUMS, matrix_product),
    **dict.fromkeys(BIASED, biased_product),
}
