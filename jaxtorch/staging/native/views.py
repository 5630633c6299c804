"""Views in loops: which loop steps along which dim of what is viewed."""

from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.passes.rewriting import (
    PERMUTES,
    RESHAPES,
    VIEWS,
    order_of,
    value_of,
)

aten = torch.ops.aten
Mapping: TypeAlias = tuple[int | None, ...]
"""For each dim of a value the loop that steps along it; None where none does."""


def is_view(node: Any) -> bool:
    """Tell whether a call returns its first argument's memory, seen in another way."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if not isinstance(node.meta["val"], Tensor) or not isinstance(
        node.args[0], fx.Node
    ):
        return False
    if node.target not in VIEWS and primitive_of(node.target).kind is not Kind.VIEW:
        return False
    source = node.args[0].meta["val"]
    return isinstance(source, Tensor) and shares(source, node.meta["val"])


def shares(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors lie in one memory, as elements of one kind."""
    same = one.untyped_storage()._cdata == other.untyped_storage()._cdata
    return same and one.dtype == other.dtype


def root_of(node: Any) -> fx.Node:
    """Return what a view, or a view of a view, is taken of."""
    while is_view(node):
        node = node.args[0]
    found: fx.Node = node
    return found


def broadcast(source: fx.Node, node: fx.Node, mapping: Mapping) -> Mapping:
    """Return the mapping of an operand of an elementwise call."""
    shape = value_of(source).shape
    own = mapping[len(mapping) - len(shape) :] if shape else ()
    return tuple(None if n == 1 else m for n, m in zip(shape, own, strict=True))


def through(view: Any, mapping: Mapping) -> Mapping | None:
    """Return the mapping of what is viewed; None if dims are split, merged or cut."""
    source, shape = value_of(view.args[0]).shape, value_of(view).shape
    if view.target in PERMUTES:
        placed = dict(zip(order_of(view), mapping, strict=True))
        return tuple(placed[d] for d in range(len(shape)))
    if view.target is aten.expand.default:
        return broadcast(view.args[0], view, mapping)
    if view.target not in IN_ORDER:
        return None
    if [n for n in source if n != 1] != [n for n in shape if n != 1]:
        return None
    left = iter(m for m, n in zip(mapping, shape, strict=True) if n != 1)
    return tuple(None if n == 1 else next(left) for n in source)


IN_ORDER = {*RESHAPES, aten.alias.default, aten.detach.default}
"""Views that keep the order of the elements."""
