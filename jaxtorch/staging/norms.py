"""Layer and rms norms spelled out, so that they join the chains around them.

Only in float32: in half precision ATen keeps their statistics in another dtype.
"""

from typing import Any

import torch
from torch import fx

from jaxtorch.kernels.operator import runs_on
from jaxtorch.kernels.tracing import FEW_ROWS
from jaxtorch.staging.rewriting import emit, value_of

aten = torch.ops.aten


def spell_norms(graph: fx.Graph) -> int:
    """Spell out norms and their gradients by the input; returns how many."""
    spelled = 0
    for node in list(graph.nodes):
        write = SPELLED.get(node.target)
        if write is not None and is_plain(node):
            spelled += write(node)
    return spelled


def is_plain(node: Any) -> bool:
    """Tell whether a kernel can run the rows: many, of float32, in order."""
    given = [value_of(n) for n in node.all_input_nodes]
    rows = value_of(node.all_input_nodes[0]).numel() // max(1, size_of(node))
    return (
        runs_on(node.meta["device"])
        and rows >= FEW_ROWS
        and all(x.dtype is torch.float32 and x.is_contiguous() for x in given)
    )


def size_of(node: Any) -> int:
    """Return how many elements one row has."""
    shape = next(a for a in node.args if not isinstance(a, fx.Node))
    return torch.Size(shape).numel()


def dims_of(x: Any, shape: Any) -> list[int]:
    """Return the dims that are normalized."""
    rank = value_of(x).dim()
    return list(range(rank - len(shape), rank))


def average(node: Any, x: Any, dims: list[int]) -> fx.Node:
    """Emit a mean that keeps its dims."""
    return emit(node, aten.mean.dim, x, dims, True)


def standardize(node: Any, x: Any, dims: list[int], eps: float) -> Any:
    """Emit ``x rstd`` with ``rstd = (avg(x^2) + eps)^(-1/2)``; returns both."""
    square = average(node, emit(node, aten.mul.Tensor, x, x), dims)
    rstd = emit(node, aten.rsqrt.default, emit(node, aten.add.Tensor, square, eps))
    return emit(node, aten.mul.Tensor, x, rstd), rstd


def spell_layer_norm(node: Any) -> int:
    """``(x - mean) rstd w + b``."""
    x, shape, weight, bias, eps = node.args
    dims = dims_of(x, shape)
    mean = average(node, x, dims)
    centered = emit(node, aten.sub.Tensor, x, mean)
    out, rstd = standardize(node, centered, dims, eps)
    if weight is not None:
        out = emit(node, aten.mul.Tensor, out, weight)
    if bias is not None:
        out = emit(node, aten.add.Tensor, out, bias)
    return replace(node, (out, mean, rstd))


def spell_rms_norm(node: Any) -> int:
    """``x rstd w``."""
    x, shape, weight, eps = node.args
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    out, rstd = standardize(node, x, dims_of(x, shape), eps)
    if weight is not None:
        out = emit(node, aten.mul.Tensor, out, weight)
    return replace(node, (out, rstd))


def spell_layer_norm_gradient(node: Any) -> int:
    """``rstd (h - avg(h) - z avg(h z))`` with ``h = g w`` and the standardized z."""
    g, x, shape, mean, rstd, weight, _, mask = node.args
    if list(mask) != [True, False, False]:
        return 0
    dims = dims_of(x, shape)
    h = g if weight is None else emit(node, aten.mul.Tensor, g, weight)
    z = emit(node, aten.mul.Tensor, emit(node, aten.sub.Tensor, x, mean), rstd)
    slope = average(node, emit(node, aten.mul.Tensor, h, z), dims)
    h = emit(node, aten.sub.Tensor, h, average(node, h, dims))
    h = emit(node, aten.sub.Tensor, h, emit(node, aten.mul.Tensor, z, slope))
    return replace(node, (emit(node, aten.mul.Tensor, h, rstd),))


def replace(node: Any, results: tuple[Any, ...]) -> int:
    """Let the readers of each result read what was emitted."""
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        node.graph.erase_node(user)
    node.graph.erase_node(node)
    return 1


SPELLED = {
    aten.native_layer_norm.default: spell_layer_norm,
    aten.native_layer_norm_backward.default: spell_layer_norm_gradient,
    aten._fused_rms_norm.default: spell_rms_norm,
}
