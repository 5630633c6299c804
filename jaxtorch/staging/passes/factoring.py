"""Sums of products that share a factor: ``a @ x - a @ y`` becomes ``a @ (x - y)``."""

from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.staging.passes.rewriting import emit, is_call, shape_of, value_of

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.mv.default)
SUMS = (aten.add.Tensor, aten.sub.Tensor)
VIEWS = (aten.view.default, aten.permute.default)


class Summand(NamedTuple):
    """A number times a node that is added; the views of a product, if it is one."""

    number: float
    node: fx.Node
    product: fx.Node | None
    views: tuple[Any, ...]


def factor_out(graph: fx.Graph) -> int:
    """Add before multiplying where products share a factor; returns how often."""
    saved = 0
    for node in list(graph.nodes):
        if is_sum(node) and not is_part(node):
            summands = summands_of(node, 1)
            fewer = factored(node, summands)
            if len(fewer) < len(summands):
                node.replace_all_uses_with(added(node, fewer))
                saved += len(summands) - len(fewer)
    return saved


def factored(node: fx.Node, summands: list[Summand]) -> list[Summand]:
    """Return summands with the same sum, of which no two share a factor."""
    done: list[Summand] = []
    for summand in summands:
        for place, other in enumerate(done):
            both = joined(node, other, summand)
            if both is not None:
                done[place] = both
                break
        else:
            done.append(summand)
    return done


def is_sum(node: Any) -> bool:
    """Tell whether a node adds two tensors of its own shape and dtype."""
    return (
        is_call(node, *SUMS)
        and isinstance(node.kwargs.get("alpha", 1), (int, float))
        and value_of(node).is_floating_point()
        and all(isinstance(a, fx.Node) and is_like(a, node) for a in node.args)
    )


def is_part(node: fx.Node) -> bool:
    """Tell whether a sum is only read by another one."""
    return len(node.users) == 1 and is_sum(next(iter(node.users)))


def is_like(first: Any, second: Any) -> bool:
    """Tell whether two nodes agree in shape and dtype."""
    same: bool = value_of(first).dtype == value_of(second).dtype
    return same and shape_of(first) == shape_of(second)


def summands_of(node: Any, number: float, whole: bool = True) -> list[Summand]:
    """Return what a sum adds, its sums opened that nothing else reads."""
    alone = len(node.users) == 1
    if is_sum(node) and (whole or alone):
        second = number * node.kwargs.get("alpha", 1)
        second = -second if node.target is aten.sub.Tensor else second
        left, right = node.args
        return summands_of(left, number, False) + summands_of(right, second, False)
    if alone and is_call(node, aten.mul.Tensor) and is_number(node.args[1]):
        return summands_of(node.args[0], number * node.args[1], False)
    return [Summand(number, node, *seen_through(node))]


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, (int, float)) and value - value == 0


def seen_through(node: Any) -> tuple[fx.Node | None, tuple[Any, ...]]:
    """Return the product that a node is a view of, and the views, the last first."""
    views: list[Any] = []
    while len(node.users) == 1:
        if is_call(node, *PRODUCTS):
            return node, tuple(views)
        if not is_call(node, *VIEWS):
            break
        views.append((node.target, tuple(node.args[1])))
        node = node.args[0]
    return None, ()


def joined(node: fx.Node, first: Summand, second: Summand) -> Summand | None:
    """Return the product of the factor that two share and a sum, if there is one."""
    one, two = first.product, second.product
    if one is None or two is None or one.target is not two.target:
        return None
    if first.number == 0:
        return None
    multiply: Any = one.target
    if first.views != second.views:
        return None
    (a, b), (c, d) = one.args, two.args
    left = a is c and is_like(b, d)
    if not left and not (b is d and is_like(a, c)):
        return None
    pair = (b, d) if left else (a, c)
    total = emit(node, aten.add.Tensor, *pair, alpha=second.number / first.number)
    args = (a, total) if left else (total, b)
    product = new = emit(node, multiply, *args)
    for target, where in reversed(first.views):
        new = emit(node, target, new, list(where))
    return Summand(first.number, new, product, first.views)


def added(node: fx.Node, summands: list[Summand]) -> fx.Node:
    """Return the sum."""
    first, *others = summands
    total = first.node
    if first.number != 1:
        total = emit(node, aten.mul.Tensor, total, first.number)
    for other in others:
        alpha = {"alpha": other.number} if other.number != 1 else {}
        total = emit(node, aten.add.Tensor, total, other.node, **alpha)
    return total
