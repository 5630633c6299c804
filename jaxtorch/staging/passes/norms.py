"""Layer, rms and group norms spelled out, so that they join the chains around them.

Only in float32: in half precision ATen keeps their statistics in another dtype.
"""

from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.kernels.operator import runs_on
from jaxtorch.kernels.tracing import FEW_ROWS
from jaxtorch.staging.passes.rewriting import emit, shape_of, value_of

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
    if node.target in GROUPED:
        return torch.Size(Groups.of(node).full[2:]).numel()
    shape = next(a for a in node.args if not isinstance(a, fx.Node))
    return torch.Size(shape).numel()


class Groups(NamedTuple):
    """Shapes of a group norm with a dim of groups: its rows are the last two dims."""

    full: list[int]
    stats: list[int]
    affine: list[int]

    @classmethod
    def of(cls, node: Any) -> "Groups":
        """Read samples, channels, positions and groups off a call."""
        samples, channels, positions, groups = (a for a in node.args if type(a) is int)
        each = channels // groups
        full = [samples, groups, each, positions]
        return cls(full, [samples, groups, 1, 1], [groups, each, 1])


def shaped(node: Any, x: Any, shape: list[int]) -> Any:
    """Emit a value in another shape."""
    return None if x is None else emit(node, aten.view.default, x, shape)


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
    return replace(node, normalize(node, x, weight, bias, dims_of(x, shape), eps))


def normalize(
    node: Any, x: Any, weight: Any, bias: Any, dims: list[int], eps: float
) -> tuple[Any, Any, Any]:
    """Emit ``(x - mean) rstd w + b``; returns it, the mean and rstd."""
    mean = average(node, x, dims)
    centered = emit(node, aten.sub.Tensor, x, mean)
    out, rstd = standardize(node, centered, dims, eps)
    if weight is not None:
        out = emit(node, aten.mul.Tensor, out, weight)
    if bias is not None:
        out = emit(node, aten.add.Tensor, out, bias)
    return out, mean, rstd


def spell_group_norm(node: Any) -> int:
    """As layer norm: the channels and positions of a group are a row."""
    x, weight, bias, *_, eps = node.args
    own = Groups.of(node)
    weight, bias = (shaped(node, p, own.affine) for p in (weight, bias))
    split = shaped(node, x, own.full)
    out, *stats = normalize(node, split, weight, bias, [2, 3], eps)
    stats = [shaped(node, n, own.stats[:2]) for n in stats]
    return replace(node, (shaped(node, out, shape_of(x)), *stats))


def spell_rms_norm(node: Any) -> int:
    """``x rstd w``."""
    x, shape, weight, eps = node.args
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    out, rstd = standardize(node, x, dims_of(x, shape), eps)
    if weight is not None:
        out = emit(node, aten.mul.Tensor, out, weight)
    return replace(node, (out, rstd))


def spell_layer_norm_gradient(node: Any) -> int:
    """The gradient by the input; of parameters too it stays one call."""
    g, x, shape, mean, rstd, weight, _, mask = node.args
    if list(mask) != [True, False, False]:
        return 0
    dims = dims_of(x, shape)
    return replace(node, (gradient(node, g, x, mean, rstd, weight, dims),))


def spell_rms_norm_gradient(node: Any) -> int:
    """As that of layer norm, without a mean."""
    g, x, shape, rstd, weight, mask = node.args
    if list(mask) != [True, False]:
        return 0
    dims = dims_of(x, shape)
    return replace(node, (gradient(node, g, x, None, rstd, weight, dims),))


def spell_group_norm_gradient(node: Any) -> int:
    """As that of layer norm."""
    g, x, mean, rstd, weight, *_, mask = node.args
    if list(mask) != [True, False, False]:
        return 0
    own = Groups.of(node)
    rows, split = shaped(node, g, own.full), shaped(node, x, own.full)
    mean, rstd = (shaped(node, n, own.stats) for n in (mean, rstd))
    weight = shaped(node, weight, own.affine)
    out = gradient(node, rows, split, mean, rstd, weight, [2, 3])
    return replace(node, (shaped(node, out, shape_of(x)),))


def gradient(
    node: Any, g: Any, x: Any, mean: Any, rstd: Any, weight: Any, dims: list[int]
) -> fx.Node:
    """Emit ``rstd (h - avg(h) - z avg(h z))`` with ``h = g w``, standardized ``z``."""
    h = g if weight is None else emit(node, aten.mul.Tensor, g, weight)
    centered = x if mean is None else emit(node, aten.sub.Tensor, x, mean)
    z = emit(node, aten.mul.Tensor, centered, rstd)
    slope = average(node, emit(node, aten.mul.Tensor, h, z), dims)
    if mean is not None:
        h = emit(node, aten.sub.Tensor, h, average(node, h, dims))
    h = emit(node, aten.sub.Tensor, h, emit(node, aten.mul.Tensor, z, slope))
    return emit(node, aten.mul.Tensor, h, rstd)


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
    aten._fused_rms_norm_backward.default: spell_rms_norm_gradient,
    aten.native_group_norm.default: spell_group_norm,
    aten.native_group_norm_backward.default: spell_group_norm_gradient,
}
GROUPED = (aten.native_group_norm.default, aten.native_group_norm_backward.default)
