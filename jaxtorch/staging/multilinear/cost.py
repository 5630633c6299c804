"""The cost model: what a call, a product and a contraction take on a device.

Times are in microseconds. They rank alternatives; they do not predict a clock.
"""

from dataclasses import dataclass
from operator import getitem
from typing import Any

from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry, shape_wrapper

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.passes.rewriting import meta_of
from jaxtorch.staging.region import Region
from jaxtorch.staging.running.flops import FORMULAS
from jaxtorch.staging.running.memory import bytes_made


@dataclass(frozen=True)
class Machine:
    """The balance of a device.

    Attributes:
        flops: multiplications and additions of a matrix product in a microsecond.
        bytes: bytes of memory traffic in a microsecond.
        call: microseconds that a call takes before it computes.
        view: microseconds that a call takes that only makes a view.
    """

    flops: float
    bytes: float
    call: float
    view: float


REGISTRY = {**flop_registry, **{k: shape_wrapper(f) for k, f in FORMULAS.items()}}
"""The formula of each operator that has one."""

CPU = Machine(flops=60e3, bytes=10e3, call=2.0, view=0.8)
CUDA = Machine(flops=50e6, bytes=2e6, call=4.0, view=0.8)


def machine_for(device: Any) -> Machine:
    """Return the balance of a device."""
    return CUDA if device is not None and device.type == "cuda" else CPU


def product_cost(
    machine: Machine, left: int, right: int, out: int, union: int, itemsize: int
) -> float:
    """Return the cost of multiplying two tensors, given their numbers of elements.

    ``union`` is the number of elements of the product before the sum.
    """
    touched = (left + right + out) * itemsize
    calls = machine.call + machine.view
    if union == out:
        return calls + touched / machine.bytes
    if union == left == right:
        touched += 2 * union * itemsize  # multiplied, then summed
        return calls + machine.call + touched / machine.bytes
    arithmetic = 2 * union / machine.flops
    return calls + machine.view + touched / machine.bytes + arithmetic


def node_cost(machine: Machine, node: fx.Node) -> float:
    """Return the cost of one call of a graph."""
    target: Any = node.target
    if node.op != "call_function" or target is getitem:
        return 0.0
    if isinstance(target, Region):
        traffic = sum(bytes_of(s) for s in node.all_input_nodes) + bytes_made(node)
        return machine.call + traffic / machine.bytes
    if primitive_of(target).kind is Kind.VIEW:
        copied = 2 * bytes_made(node)
        return machine.view + copied / machine.bytes
    traffic = sum(bytes_of(s) for s in node.all_input_nodes) + bytes_made(node)
    return machine.call + traffic / machine.bytes + flops_of(node) / machine.flops


def bytes_of(node: fx.Node) -> int:
    """Return the bytes of the elements that a node's value shows, each counted once."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return 0
    held: int = value.untyped_storage().nbytes()
    return min(value.numel() * value.itemsize, held)


def flops_of(node: fx.Node) -> int:
    """Count the flops of one call by its registered formula."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in REGISTRY:
        return 0
    formula = REGISTRY[packet]
    kwargs = {k: meta_of(v) for k, v in node.kwargs.items()}
    args = [meta_of(a) for a in node.args]
    return int(formula(*args, **kwargs, out_val=node.meta["val"]))
