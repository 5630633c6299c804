"""Losses of class indices spelled out, so that they join the chains of their scores.

``nll_loss`` picks one score of each row and its backward call writes rows of zeros but
for one. Spelled with the place in a row, both run in the kernel of the softmax.
"""

from operator import getitem
from typing import Any

import torch
from torch import fx

from jaxtorch.staging.passes.chains import can_join
from jaxtorch.staging.passes.rewriting import emit, is_call, value_of

aten = torch.ops.aten
NONE, MEAN = 0, 1


def spell_losses(graph: fx.Graph) -> int:
    """Spell out losses of log_softmax and their gradients; returns how many calls."""
    spelled = 0
    for node in list(graph.nodes):
        if is_call(node, aten.nll_loss_forward.default) and is_plain(node, 0):
            spelled += spell_loss(node)
        elif is_call(node, aten.nll_loss_backward.default) and is_plain(node, 1):
            spell_gradient(node)
            spelled += 1
    return spelled


def is_plain(node: Any, place: int) -> bool:
    """Tell whether a kernel runs the scores, and rows and classes weigh the same."""
    scores, target, weight, _, ignored = node.args[place : place + 5]
    if weight is not None or not is_call(scores, aten._log_softmax.default):
        return False
    x = value_of(scores)
    return (
        can_join(scores)
        and x.dim() == 2
        and scores.args[1] in (1, -1)
        and value_of(target).dtype is torch.int64
        and not 0 <= ignored < x.shape[1]
    )


def hits(node: Any, scores: Any, target: Any) -> fx.Node:
    """Emit the condition that a place in a row is the row's class."""
    count = value_of(scores).shape[1]
    places = emit(node, aten.arange.default, count)
    column = emit(node, aten.unsqueeze.default, target, 1)
    return emit(node, aten.eq.Tensor, places, column)


def spell_loss(node: Any) -> int:
    """``-x[i, y_i]``, summed or averaged over the rows that are not ignored."""
    scores, target, _, reduction, ignored = node.args
    if any(user.target is not getitem for user in node.users):
        return 0
    hit = hits(node, scores, target)
    opposite = emit(node, aten.neg.default, scores)
    picked = emit(node, aten.where.ScalarOther, hit, opposite, 0.0)
    loss = emit(node, aten.sum.dim_IntList, picked, [1])
    kept = emit(node, aten.ne.Scalar, target, ignored)
    dtype = value_of(scores).dtype
    total = emit(node, aten.sum.default, kept, dtype=dtype)
    if reduction != NONE:
        loss = emit(node, aten.sum.default, loss)
    if reduction == MEAN:
        loss = emit(node, aten.div.Tensor, loss, total)
    for user in list(node.users):
        user.replace_all_uses_with((loss, total)[user.args[1]])
        node.graph.erase_node(user)
    node.graph.erase_node(node)
    return 1


def spell_gradient(node: Any) -> None:
    """``-g`` in the place of each row's class, of the mean over their number."""
    g, scores, target, _, reduction, _, total = node.args
    if reduction == MEAN:
        g = emit(node, aten.div.Tensor, g, total)
    if value_of(g).dim():
        g = emit(node, aten.unsqueeze.default, g, 1)
    opposite = emit(node, aten.neg.default, g)
    hit = hits(node, scores, target)
    new = emit(node, aten.where.ScalarOther, hit, opposite, 0.0)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
