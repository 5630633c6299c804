"""A pass: values that are equal up to their sign are computed once."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.staging.multilinear.cost import machine_for, node_cost
from jaxtorch.staging.passes.rewriting import emit, freeze, is_pure, value_of

aten = torch.ops.aten


class Signed(NamedTuple):
    """A value up to its sign: equal numbers are equal values."""

    sign: int
    number: int


def share_up_to_sign(graph: fx.Graph) -> int:
    """Let values be those of others, or minus those; returns how many."""
    signs = Signs()
    first: dict[int, fx.Node] = {}
    again: list[tuple[fx.Node, fx.Node]] = []
    for node in graph.nodes:
        if node.op != "output" and signs.read(node):
            known = first.setdefault(signs.of[node].number, node)
            if known is not node:
                again.append((node, known))
    shared = 0
    for node, known in reversed(again):
        same = signs.of[node].sign == signs.of[known].sign
        if node.users and is_alike(node, known) and (same or pays(node, known)):
            put(node, known, same)
            shared += 1
    return shared


def is_alike(node: fx.Node, known: fx.Node) -> bool:
    """Tell whether two values have the same dtype, device, shape and strides."""
    one, two = value_of(node), value_of(known)
    same = one.dtype == two.dtype and one.shape == two.shape
    same = same and node.meta["device"] == known.meta["device"]
    return same and one.stride() == two.stride()


def put(node: fx.Node, known: fx.Node, same: bool) -> None:
    """Put another value, or minus it, in the place of a node."""
    if same:
        node.replace_all_uses_with(known)
        return
    for user in list(node.users):
        if user.target in OTHER and not user.kwargs:
            subtract_instead(user, node, known)
    if node.users:
        node.replace_all_uses_with(emit(node, aten.neg.default, known))


def subtract_instead(user: fx.Node, node: fx.Node, known: fx.Node) -> None:
    """Let a sum subtract a value in the place of adding minus it, or the reverse."""
    left, right = user.args
    if left is node and user.target is aten.add.Tensor:
        left, right = right, left
    if right is node and left is not node and isinstance(left, fx.Node):
        user.target = OTHER[user.target]
        user.args = (left, known)


def pays(node: fx.Node, known: fx.Node) -> bool:
    """Tell whether what only a node needs costs more than to negate another."""
    machine = machine_for(node.meta["device"])
    gone = needed_only_by(node, known)
    negated = machine.call + 2 * value_of(node).nbytes / machine.bytes
    return sum(node_cost(machine, each) for each in gone) > negated + machine.call / 2


def needed_only_by(node: fx.Node, known: fx.Node) -> list[fx.Node]:
    """Return what is dead code without a node, if another value stays."""
    gone = {node: None}
    waiting = [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            alone = all(user in gone for user in source.users)
            if alone and source not in gone and source is not known and is_pure(source):
                gone[source] = None
                waiting.append(source)
    return list(gone)


class Signs:
    """The values of a graph, up to their signs."""

    def __init__(self) -> None:
        self.of: dict[Any, Signed] = {}
        self.numbers: dict[Any, int] = {}

    def read(self, node: fx.Node) -> bool:
        """Find the sign of a node's value; False where that says nothing."""
        read = READINGS.get(node.target)
        if read is None or not is_floating(node):
            return False
        floating = all(is_floating(source) for source in node.all_input_nodes)
        found = read(self, node) if floating and node.args else None
        if found is None:
            return False
        self.of[node] = found
        return True

    def argument(self, value: Any) -> Signed | None:
        """Return an argument up to its sign; None where it has none to be told."""
        if isinstance(value, fx.Node):
            return self.of.get(value) or self.new(1, value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self.new(-1 if value < 0 else 1, float(abs(value)))
        return None

    def new(self, sign: int, *key: Any) -> Signed:
        """Return the value that a key stands for, with a sign."""
        return Signed(sign, self.numbers.setdefault(key, len(self.numbers)))


def is_floating(node: fx.Node) -> bool:
    """Tell whether a node is one tensor of floating-point numbers."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def read_minus(signs: Signs, node: fx.Node) -> Signed | None:
    """Turn the sign of a value."""
    value = signs.argument(node.args[0])
    return value and Signed(-value.sign, value.number)


def read_odd(signs: Signs, node: fx.Node) -> Signed | None:
    """Pass the sign of the first argument on."""
    value = signs.argument(node.args[0])
    return value and signs.new(value.sign, *rest_of(node), value.number)


def read_even(signs: Signs, node: fx.Node) -> Signed | None:
    """Forget the sign of the first argument."""
    value = signs.argument(node.args[0])
    return value and signs.new(1, *rest_of(node), value.number)


def read_power(signs: Signs, node: fx.Node) -> Signed | None:
    """Read a power with a whole number as odd or even."""
    power = node.args[1]
    if not isinstance(power, (int, float)) or not float(power).is_integer():
        return None
    return (read_odd if power % 2 else read_even)(signs, node)


def read_pad(signs: Signs, node: fx.Node) -> Signed | None:
    """Read zeros around a value."""
    number = node.args[2] if len(node.args) > 2 else 0
    return read_odd(signs, node) if number == 0 else None


def read_product(signs: Signs, node: fx.Node) -> Signed | None:
    """Multiply the signs of two factors."""
    one, two = (signs.argument(value) for value in node.args[:2])
    if one is None or two is None or len(node.args) > 2 or node.kwargs:
        return None
    if node.args[1] in (1, -1):
        return Signed(one.sign * two.sign, one.number)
    numbers = [one.number, two.number]
    if node.target is aten.mul.Tensor:
        numbers.sort()
    return signs.new(one.sign * two.sign, node.target, *numbers)


def read_sum(signs: Signs, node: fx.Node) -> Signed | None:
    """Give a sum the sign of the part that was met first."""
    one, two = (signs.argument(value) for value in node.args[:2])
    if one is None or two is None or len(node.args) > 2 or node.kwargs:
        return None
    turned = -two.sign if node.target is aten.sub.Tensor else two.sign
    first, second = sorted([one, Signed(turned, two.number)], key=lambda s: s.number)
    sign = first.sign
    return signs.new(sign, SUM, first.number, second.number, sign * second.sign)


def rest_of(node: fx.Node) -> Iterable[Any]:
    """Return all of a call but its first argument."""
    return node.target, freeze(node.args[1:]), freeze(node.kwargs)


SUM = aten.add.Tensor
OTHER: dict[Any, Any] = {
    aten.add.Tensor: aten.sub.Tensor,
    aten.sub.Tensor: aten.add.Tensor,
}
ODD = (
    aten._to_copy.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.clone.default,
    aten.diag_embed.default,
    aten.diagonal.default,
    aten.expand.default,
    aten.mean.dim,
    aten.permute.default,
    aten.reciprocal.default,
    aten.select.int,
    aten.sin.default,
    aten.slice.Tensor,
    aten.sum.dim_IntList,
    aten.t.default,
    aten.tanh.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
)
EVEN = (aten.abs.default, aten.cos.default, aten.cosh.default)
PRODUCTS = (
    aten.bmm.default,
    aten.div.Tensor,
    aten.dot.default,
    aten.mm.default,
    aten.mul.Tensor,
    aten.mv.default,
)
READINGS: dict[Any, Callable[[Signs, fx.Node], Signed | None]] = {
    **dict.fromkeys(ODD, read_odd),
    **dict.fromkeys(EVEN, read_even),
    **dict.fromkeys(PRODUCTS, read_product),
    **dict.fromkeys(OTHER, read_sum),
    aten.neg.default: read_minus,
    aten.pow.Tensor_Scalar: read_power,
    aten.constant_pad_nd.default: read_pad,
}
"""What is known of signs, by the call. Rounding is the same for both signs."""
