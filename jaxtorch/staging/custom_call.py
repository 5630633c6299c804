"""``CustomCall``: a function with rules of its own in a graph that is yet to meet them.

Only the body of a loop or a branch that is traced inside a transform holds one. Each
level around the body applies its rules; at the outermost trace nothing is left of it.
"""

from collections.abc import Sequence
from operator import getitem
from typing import Any

from torch import Tensor, fx

from jaxtorch.core.custom import INTERPRETERS, Custom, Leaves, apply
from jaxtorch.core.level import STATE, Wrapper
from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.passes.rewriting import is_pure
from jaxtorch.staging.region import Region


class CustomCall(Region):
    """``(*tensors) -> tensors`` of one call; its other leaves are kept beside."""

    __name__ = "custom"

    def __init__(self, custom: Custom, leaves: Leaves, pure: bool) -> None:
        self.custom = custom
        self.others = without_tensors(leaves)
        self.pure = pure

    def __call__(self, *args: Any) -> list[Any]:
        outs = apply(self.custom, filled(self.others, args))
        return [out for out in outs if isinstance(out, Tensor)]

    def graphs(self) -> Sequence[fx.Graph]:
        return []

    def flops(self, count: Any) -> int:
        return 0


def without_tensors(leaves: Leaves) -> list[Any]:
    """Return None for each tensor, and a tuple of each other leaf."""
    return [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]


def filled(places: list[Any], tensors: Sequence[Any]) -> Leaves:
    """Put tensors back between the other leaves."""
    found = iter(tensors)
    return [next(found) if own is None else own[0] for own in places]


def run_custom(level: Any, custom: Custom, leaves: Leaves) -> Leaves:
    """Run a function at a trace, or put it off where levels around have a say."""
    outer = STATE.levels[: level.depth - 1]
    if not any(isinstance(each, INTERPRETERS) for each in outer):
        return custom.call(leaves)
    handles = [level.handle(x) if isinstance(x, Tensor) else x for x in leaves]
    tensors: list[Any] = [x for x in handles if isinstance(x, Tensor)]
    outs, pure = tried(level, custom, handles)
    made: list[Any] = [out for out in outs if isinstance(out, Tensor)]
    if not made:
        return outs
    call: Any = CustomCall(custom, handles, pure)
    node = level.graph.call_function(call, tuple(t.node for t in tensors))
    node.meta["val"] = tuple(out.value for out in made)
    node.meta["device"] = made[0].device
    results = [
        level.wrap_output(
            out.value, level.graph.call_function(getitem, (node, i)), out.device
        )
        for i, out in enumerate(made)
    ]
    return filled(without_tensors(outs), results)


def tried(level: Any, custom: Custom, handles: Leaves) -> tuple[Leaves, bool]:
    """Run the function in a trace that is thrown away; returns whether it is pure."""
    inner = type(level)(level.optimize)
    with inner:
        outs = custom.call(
            [inner.add_input(x) if isinstance(x, Tensor) else x for x in handles]
        )
        outs = [inner.handle(out) if isinstance(out, Tensor) else out for out in outs]
    captured = [tensor for tensor, _ in inner.captured.values()]
    if any(isinstance(t, Wrapper) and t.level is level for t in captured):
        raise UsageError(
            explain(
                "jit",
                f"{custom.name} uses a value of the body around it that is not among "
                "its arguments.",
                "pass the value as an argument instead of capturing it",
            )
        )
    calls = [node for node in inner.graph.nodes if node.op == "call_function"]
    return outs, all(map(is_pure, calls))
