"""A pass: a call writes its result over an argument that nobody reads any more.

The node keeps its functional target and is marked; the generated program makes the call
in place. Only values that are surely alone in their memory are overwritten.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.passes.rewriting import infer, meta_of, value_of
from jaxtorch.staging.running.memory import last_uses

aten = torch.ops.aten


def reuse_memory(graph: fx.Graph) -> int:
    """Mark the calls that can be made in place; returns how many."""
    dying = last_uses(graph)
    marked = 0
    for node in graph.nodes:
        if node.op != "call_function" or not is_alone(node):
            continue
        if node.target in COMMUTATIVE and not node.kwargs:
            if not can_overwrite(node, node.args[0], dying):
                swap_arguments(node, dying)
        if "onednn" in node.meta:
            continue
        source: Any = node.args[0] if node.args else None
        if can_overwrite(node, source, dying) and fits(node):
            node.meta["in_place"] = True
            marked += 1
    share_memory(graph)
    return marked


def share_memory(graph: fx.Graph) -> None:
    """Infer anew what lies in the memory of another value now."""
    moved: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if not node.meta.get("in_place"):
            if is_alone(node) or moved.isdisjoint(node.all_input_nodes):
                continue
        node.meta["val"] = infer(node)
        moved.add(node)


def swap_arguments(node: Any, dying: dict[fx.Node, list[fx.Node]]) -> None:
    """Exchange the arguments of a commutative call if the second can be written."""
    first, second = node.args
    if isinstance(first, fx.Node) and can_overwrite(node, second, dying):
        node.args = (second, first)


def is_alone(node: Any) -> bool:
    """Tell whether a call surely returns one tensor in new memory."""
    target = node.target
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return False
    if not isinstance(node.meta["val"], Tensor) or target in MAY_RETURN_ARGUMENT:
        return False
    if primitive_of(target).kind is not Kind.FUNCTIONAL:
        return False
    return torch.Tag.pointwise in target.tags or target in NEW_MEMORY


def can_overwrite(
    node: fx.Node, source: Any, dying: dict[fx.Node, list[fx.Node]]
) -> bool:
    """Tell whether the result fits into the memory of ``source``, which dies here."""
    if not isinstance(source, fx.Node) or source not in dying.get(node, ()):
        return False
    if source.op != "call_function" or not is_alone(source):
        return False
    if not all(is_alone(user) for user in source.users):  # others may be views
        return False
    own, value = value_of(node), value_of(source)
    same = own.dtype == value.dtype and own.shape == value.shape
    return same and own.stride() == value.stride()


def write_diagonal(x: Tensor, src: Tensor, *where: int) -> Tensor:
    """Make ``diagonal_scatter`` in place."""
    x.diagonal(*where).copy_(src)
    return x


def in_place_entry(node: Any) -> Any:
    """Return the function that makes a call in place, or None."""
    target: OpOverload = node.target
    if target in WRITES:
        return WRITES[target]
    name = target._schema.name.partition("::")[2] + "_"
    packet = getattr(aten, name, None)
    if packet is None or target._overloadname not in packet.overloads():
        return None
    return getattr(Tensor, name, None)


def fits(node: Any) -> bool:
    """Try the call in place on meta tensors."""
    entry = in_place_entry(node)
    if entry is None:
        return False
    first, *rest = [meta_of(a) for a in node.args]
    try:
        with torch._C._DisableTorchDispatch():
            entry(torch.empty_like(first), *rest, **node.kwargs)
    except Exception:  # any refusal means: not in place
        return False
    return True


COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}
MAY_RETURN_ARGUMENT = {aten.conj_physical.default}
NEW_MEMORY = {
    aten.mm.default,
    aten.mv.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.addmv.default,
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.amax.default,
    aten._softmax.default,
    aten._log_softmax.default,
    aten.clone.default,
    aten.cat.default,
    aten.index_put.default,
    aten.zeros.default,
    aten.diagonal_scatter.default,
}
"""What else than elementwise calls makes new memory."""
WRITES = {aten.diagonal_scatter.default: write_diagonal}
"""In place by a view: ATen has no method."""
