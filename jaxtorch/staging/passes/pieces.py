"""Passes: parts of a tensor are written once, in the order in which they are read.

The gradient of a tensor that was split (queries, keys and values, or gates)
arrives as a sum of its parts, each in zeros of the whole size: a concatenation.
"""

from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.staging.passes.rewriting import (
    PERMUTES,
    RESHAPES,
    copied,
    emit,
    infer,
    is_call,
    order_of,
    shape_of,
    value_of,
)
from jaxtorch.staging.running.memory import bytes_made

aten = torch.ops.aten


class Piece(NamedTuple):
    """A part of a tensor along one dim; all else is zero."""

    dim: int
    start: int
    length: int
    node: fx.Node


def join_pieces(graph: fx.Graph) -> int:
    """Concatenate parts in the order that is read; returns how many calls changed."""
    joined = 0
    for node in reversed(list(graph.nodes)):
        new = None
        if is_call(node, aten.add.Tensor) and not is_inner(node):
            new = joined_sum(node)
        elif is_call(node, aten.cat.default, aten.stack.default):
            new = laid_out(node)
        elif is_call(node, aten.view.default):
            new = squeezed(node)
        if new is not None:
            node.replace_all_uses_with(new)
            joined += 1
    return joined


def is_inner(node: Any) -> bool:
    """Tell whether a sum is a term of another sum, and of nothing else."""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    return is_call(user, aten.add.Tensor) and node in terms_of(user, deep=False)


def terms_of(node: Any, deep: bool = True) -> list[fx.Node]:
    """Return the terms of a sum that have its shape and dtype; none of other sums."""
    own, found = value_of(node), []
    for term in node.args:
        if node.kwargs or not isinstance(term, fx.Node):
            return []
        if value_of(term).shape != own.shape or value_of(term).dtype != own.dtype:
            return []
        nested = deep and is_call(term, aten.add.Tensor) and len(term.users) == 1
        found += (terms_of(term) if nested else []) or [term]
    return found


def joined_sum(node: Any) -> fx.Node | None:
    """Return a sum with the pieces among its terms concatenated."""
    pieces: dict[int, list[Piece]] = {}
    joined, rest = [], []
    for term in terms_of(node):
        piece = piece_of(term)
        if piece is None:
            rest.append(term)
        else:
            pieces.setdefault(piece.dim, []).append(piece)
    for dim, own in pieces.items():
        own.sort(key=lambda piece: piece.start)
        ends = [0, *(piece.start + piece.length for piece in own)]
        whole = ends[-1] == shape_of(node)[dim]
        if len(own) < 2 or not whole or [p.start for p in own] != ends[:-1]:
            rest += [piece.node for piece in own]
            continue
        parts = [part_of(node, piece) for piece in own]
        joined.append(emit(node, aten.cat.default, parts, dim))
    if not joined:
        return None
    total, *others = joined + rest
    for other in others:
        total = emit(node, aten.add.Tensor, total, other)
    return total


def piece_of(node: Any) -> Piece | None:
    """Read a term as a piece that nothing else needs."""
    if len(node.users) != 1 or node.kwargs:
        return None
    if is_call(node, aten.select_backward.default):
        _, shape, dim, index = node.args
        size = shape[dim]
        return Piece(dim % len(shape), index % size, 1, node)
    if is_call(node, aten.slice_backward.default):
        source, shape, dim, start, _, step = node.args
        size, length = shape[dim], shape_of(source)[dim]
        start = max(0, start + size if start < 0 else start)
        return Piece(dim % len(shape), start, length, node) if step == 1 else None
    return None


def part_of(before: fx.Node, piece: Piece) -> Any:
    """Return the part, with its dim."""
    source: Any = piece.node.args[0]
    if is_call(piece.node, aten.select_backward.default):
        return emit(before, aten.unsqueeze.default, source, piece.dim)
    return source


def squeezed(node: Any) -> fx.Node | None:
    """Concatenate views of the parts where a view moves dims of size one only."""
    whole = node.args[0]
    if not is_call(whole, aten.cat.default) or len(whole.users) != 1:
        return None
    given, shape = shape_of(whole), shape_of(node)
    dim = (*whole.args, 0)[1] % len(given)
    if given[dim] == 1 or [n for n in given if n != 1] != [n for n in shape if n != 1]:
        return None
    place = sum(n != 1 for n in given[:dim])
    place = [d for d, n in enumerate(shape) if n != 1][place]
    parts = []
    for part in whole.args[0]:
        own = [*shape[:place], shape_of(part)[dim], *shape[place + 1 :]]
        parts.append(emit(node, aten.view.default, part, own))
    return emit(node, aten.cat.default, parts, place)


def laid_out(whole: Any) -> fx.Node | None:
    """Concatenate permuted parts where permutations of the whole would be copied more.

    Returns the whole as it was, permuted back.
    """
    copies = {u: len(copies_of(u)) for u in whole.users if is_call(u, *PERMUTES)}
    first = max(copies, key=lambda user: copies[user], default=None)
    if first is None or copies[first] <= len(whole.users) - len(copies):
        return None
    order = order_of(first)
    dim = (*whole.args, 0)[1] % len(order)
    parts = whole.args[0]
    if is_call(whole, aten.stack.default):
        parts = [emit(whole, aten.unsqueeze.default, part, dim) for part in parts]
    if any(value_of(part).ndim != len(order) for part in parts):
        return None
    moved = [emit(whole, aten.permute.default, part, order) for part in parts]
    new = emit(whole, aten.cat.default, moved, order.index(dim))
    back = [order.index(d) for d in range(len(order))]
    return emit(whole, aten.permute.default, new, back)


def copies_of(node: fx.Node) -> list[fx.Node]:
    """Return the views of a node that are copies, in the order of the graph."""
    return sorted(u for u in node.users if is_call(u, *RESHAPES) and bytes_made(u))


def copy_once(graph: fx.Graph) -> int:
    """Copy once what several views would copy each for itself; returns how many."""
    made = 0
    for node in graph.nodes:
        views = copies_of(node) if is_call(node, *PERMUTES) else []
        if len(views) < 2:
            continue
        copy = copied(views[0], node)
        for view in views:
            view.replace_input_with(node, copy)
            view.meta["val"] = infer(view)
        made += 1
    return made
