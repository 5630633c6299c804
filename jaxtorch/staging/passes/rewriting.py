"""What graph passes share: reading nodes, and putting new calls into a graph."""

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.region import Region
from jaxtorch.staging.sizes import Linear

aten = torch.ops.aten


def value_of(node: fx.Node) -> Tensor:
    """Return the meta tensor of a node with one output."""
    value: Tensor = node.meta["val"]
    return value


def shape_of(node: fx.Node) -> list[int]:
    """Return the shape of a node's value."""
    return list(node.meta["val"].shape)


def is_call(node: Any, *overloads: OpOverload) -> bool:
    """Tell whether ``node`` calls one of ``overloads``."""
    return isinstance(node, fx.Node) and node.target in overloads


def is_pure(node: Any) -> bool:
    """Tell whether a node may be dropped, merged or moved."""
    if node.op != "call_function":
        return False
    if node.target is getitem:
        return True
    if isinstance(node.target, Region):
        return node.target.pure
    kind = primitive_of(node.target).kind
    return kind is Kind.FUNCTIONAL or kind is Kind.VIEW


def emit(before: fx.Node, overload: OpOverload, *args: Any, **kwargs: Any) -> fx.Node:
    """Insert a call before a node, on its device, and infer what it returns."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(overload, args, kwargs)
    node.meta["val"] = infer(node)
    node.meta["device"] = before.meta["device"]
    return node


def copied(before: fx.Node, node: fx.Node) -> fx.Node:
    """Emit a copy that lies row by row."""
    row_by_row = {"memory_format": torch.contiguous_format}
    return emit(before, aten.clone.default, node, **row_by_row)


def item(before: fx.Node, node: fx.Node, place: int) -> fx.Node:
    """Emit the choice of one result of a call."""
    with before.graph.inserting_before(before):
        out = before.graph.call_function(getitem, (node, place))
    out.meta["val"] = node.meta["val"][place]
    out.meta["device"] = before.meta["device"]
    return out


def infer(node: fx.Node) -> Any:
    """Run one call on meta tensors; what a region returns stays as it is."""
    if isinstance(node.target, Region):
        return node.meta["val"]
    if node.meta.get("in_place"):
        return meta_of(node.args[0])
    target: Any = torch.reshape if node.target in VIEWS else node.target
    named = {k: meta_of(v) for k, v in node.kwargs.items()}
    if "device" in named or not node.all_input_nodes:
        named["device"] = torch.device("meta")
    args = [meta_of(a) for a in node.args]
    with torch._C._DisableTorchDispatch():
        return run_on_meta(target, made_contiguous(target, args), named)


def made_contiguous(target: Any, args: list[Any]) -> list[Any]:
    """Return the arguments of a call with those contiguous that its kernel needs so."""
    places = CONTIGUOUS.get(target, ())
    return [a.contiguous() if i in places else a for i, a in enumerate(args)]


def run_on_meta(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call an operator on meta tensors."""
    if target in LIKE_FIRST:
        return torch.empty_like(args[0])
    return target(*args, **kwargs)


def infer_again(graph: fx.Graph) -> None:
    """Infer all values anew, so that views share the storage of what they view now."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.meta["val"] = infer(node)


VIEWS = {aten.view.default, aten._unsafe_view.default}
"""Views that run as a reshape: after a rewrite their source may have other strides."""
CONTIGUOUS: dict[Any, tuple[int, ...]] = {
    aten.native_group_norm.default: (0,),
    aten.native_group_norm_backward.default: (0, 1, 2, 3),
    aten.native_layer_norm_backward.default: (0, 1, 3, 4),
    aten._fused_rms_norm_backward.default: (0, 1, 3),
    aten.adaptive_max_pool3d_backward.default: (2,),
    aten.fractional_max_pool2d_backward.default: (4,),
    aten.fractional_max_pool3d_backward.default: (4,),
    aten._pdist_forward.default: (0,),
    aten._pdist_backward.default: (0, 1, 3),
    aten.view_as_complex.default: (0,),
}
"""Arguments that kernels take for contiguous: others are refused or, unseen, misread.

A call may come with other strides than the trace, and passes change those of values.
"""


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor that lies row by row."""
    with torch._C._DisableTorchDispatch():
        return tuple(torch.empty(shape, device="meta").stride())


def meta_of(value: Any) -> Any:
    """Replace the nodes in an argument by their meta tensors."""
    if isinstance(value, fx.Node):
        return value.meta["val"]
    if isinstance(value, (list, tuple)):
        return type(value)(meta_of(v) for v in value)
    return value.at if isinstance(value, Linear) else value


def order_of(node: Any) -> list[int]:
    """Return the permutation that a permuting call makes."""
    rank = value_of(node).dim()
    order = list(range(rank))
    if node.target is aten.permute.default:
        return [d % rank for d in node.args[1]]
    first, second = (
        node.args[1:] if node.target is aten.transpose.int else (0, rank - 1)
    )
    if rank > 1:
        order[first], order[second] = order[second], order[first]
    return order


def freeze(value: Any) -> Any:
    """Make call arguments hashable, telling 1 from 1.0 and True."""
    if isinstance(value, (list, tuple)):
        return tuple(freeze(v) for v in value)
    if isinstance(value, dict):
        return tuple(sorted((k, freeze(v)) for k, v in value.items()))
    if isinstance(value, float):
        return float, repr(value)
    if isinstance(value, fx.Node):
        return value
    return type(value), value


LIKE_FIRST = {
    aten._sample_dirichlet.default,
    aten._standard_gamma_grad.default,
    aten.binomial.default,
    aten._dirichlet_grad.default,
}
"""Operators without a kernel for meta tensors; the result is like the first tensor."""
RESHAPES: tuple[OpOverload, ...] = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
PERMUTES = (
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
)
