"""A pass: a product and a sum become one call of ATen: addcmul, addmm, addmv."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.passes.rewriting import emit, is_call, shape_of, value_of

aten = torch.ops.aten


def combine(graph: fx.Graph) -> int:
    """Combine products and sums; returns how many. The parts are dead code then."""
    made = 0
    for node in list(graph.nodes):
        if node.target not in SUMS or node.kwargs or not is_plain(node):
            continue
        new = combined(node, *node.args)
        if new is None and node.target is aten.add.Tensor:
            new = combined(node, *reversed(node.args))
        if new is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            made += 1
    return made


def is_plain(node: Any) -> bool:
    """Tell whether a sum is of tensors of one dtype of floating-point numbers."""
    dtype = value_of(node).dtype
    return dtype.is_floating_point and all(
        isinstance(a, fx.Node) and value_of(a).dtype == dtype for a in node.args
    )


def combined(node: fx.Node, term: fx.Node, product: Any) -> fx.Node | None:
    """Return one call for ``term + product``, or ``term - product``."""
    if len(product.users) != 1 or term is product:
        return None
    minus = node.target is aten.sub.Tensor
    if is_call(product, aten.mul.Tensor):
        factors, flipped = without_minus(product)
        if not all(is_like(node, factor) for factor in factors):
            return None
        value = {"value": -1} if minus != flipped else {}
        return emit(node, aten.addcmul.default, term, *factors, **value)
    if minus:
        return None
    if is_call(product, aten.view.default):
        return under_view(node, term, product)
    sum_of = MATRIX.get(product.target)
    if sum_of is None or shape_of(product) != shape_of(node):
        return None
    return emit(node, sum_of, term, *product.args)


def under_view(node: fx.Node, row: fx.Node, view: Any) -> fx.Node | None:
    """Return a view of a product of matrices to whose rows one row was added."""
    product = view.args[0]
    if not is_call(product, aten.mm.default) or len(product.users) != 1:
        return None
    columns = shape_of(product)[1:]
    if shape_of(row) != columns or shape_of(view)[-1:] != columns:
        return None
    if shape_of(view) != shape_of(node):
        return None
    whole = emit(node, aten.addmm.default, row, *product.args)
    return emit(node, aten.view.default, whole, shape_of(node))


def without_minus(product: Any) -> tuple[list[Any], bool]:
    """Return the factors of a product, and whether a minus sign was taken off."""
    factors = list(product.args)
    for place, factor in enumerate(factors):
        if is_call(factor, aten.neg.default) and len(factor.users) == 1:
            factors[place] = factor.args[0]
            return factors, True
    return factors, False


def is_like(node: fx.Node, factor: Any) -> bool:
    """Tell whether a factor is a tensor of the dtype and the device of a sum."""
    if (
        not isinstance(factor, fx.Node)
        or value_of(factor).dtype != value_of(node).dtype
    ):
        return False
    return bool(factor.meta["device"] == node.meta["device"])


SUMS = (aten.add.Tensor, aten.sub.Tensor)
MATRIX = {aten.mm.default: aten.addmm.default, aten.mv.default: aten.addmv.default}
