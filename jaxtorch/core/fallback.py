"""What stands in for a missing rule: a decomposition, or a loop over the examples."""

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from jaxtorch.core.level import UNCHANGED, Below, tracked_by_autograd
from jaxtorch.core.primitive import Primitive
from jaxtorch.errors import DataDependentError, MissingRuleError, explain
from jaxtorch.rules.likeness import likely_file

GUIDE = "see CONTRIBUTING.md, 'How to add an op'"

_warned: set[Any] = set()


def decompose(
    level: Any, primitive: Primitive, args: Sequence[Any], kwargs: Any
) -> Any:
    """Run the call through a decomposition; NotImplemented where there is none."""
    record = primitive.record
    overload = primitive.overload
    if record is not None and record.decompose is not None:
        with Within(level):
            return record.decompose(*args, **kwargs)
    with Within(level):
        out = overload.decompose(*args, **kwargs)
    if out is not NotImplemented:
        return out
    entry = decomposition_table.get(overload) or getattr(overload, "impl_aten", None)
    if entry is None or overload in UNUSED_DECOMPOSITIONS:
        return NotImplemented
    key = (overload, level)
    if key in _open.entries:
        return NotImplemented
    _open.entries.add(key)
    try:
        with Within(level):
            return entry(*args, **kwargs)
    finally:
        _open.entries.discard(key)


def decompose_or_raise(
    level: Any, primitive: Primitive, args: Sequence[Any], kwargs: Any
) -> Any:
    """Decompose a call whose keyword arguments are differentiated; no rule does it."""
    out = decompose(level, primitive, args, kwargs)
    if out is NotImplemented:
        raise missing_derivative(primitive, level)
    return out


class Within(Below):
    """Within it ``level`` is the innermost one and sees what a decomposition makes.

    A decomposition may write into a tensor that it has just made.
    """

    def __init__(self, level: Any) -> None:
        super().__init__(level)
        self.outer = self.kept[: level.depth]


class Open(threading.local):
    """The table entries that are running; one that meets itself has none."""

    def __init__(self) -> None:
        self.entries: set[Any] = set()


_open = Open()


# Decompositions that branch on a value or need a storage.
UNUSED_DECOMPOSITIONS: set[Any] = set()


def missing_derivative(primitive: Primitive, level: Any) -> MissingRuleError:
    """Return the error for an overload that has no derivative."""
    return MissingRuleError(
        explain(
            f"{level.transform}, level {level.depth}",
            f"no derivative is known for {primitive.overload}.",
            "add a record with linearize= or decompose= to "
            f"{likely_file(primitive.overload)} ({GUIDE})",
        )
    )


class Strictness(threading.local):
    """Whether loops are errors in this thread, and whether they are told at all."""

    def __init__(self) -> None:
        self.strict = 0
        self.silent = 0


STRICTNESS = Strictness()


def reason(primitive: Primitive) -> str:
    """Say why a call has no way but the loop."""
    if primitive.batch is None:
        return "has no batching rule"
    return "has a batching rule, but not for a batched keyword argument"


def refuse_or_warn(level: Any, primitive: Primitive) -> None:
    """Refuse a loop where a strict mode is on, else warn at the operator's first."""
    overload = primitive.overload
    if level.strict or STRICTNESS.strict:
        mode = "vmap(strict=True)" if level.strict else "vmap within jaxtorch.strict()"
        raise MissingRuleError(
            explain(
                f"{mode}, level {level.depth}",
                f"{overload} {reason(primitive)} and would run once per example.",
                f"add a record with batch= to {likely_file(overload)} ({GUIDE}), or "
                "leave strict mode to let it loop",
            )
        )
    if overload not in _warned and not STRICTNESS.silent:
        _warned.add(overload)
        warnings.warn(
            f"There is a performance drop because {overload} {reason(primitive)}: "
            f"vmap runs it once per example. Add a rule to {likely_file(overload)} "
            f"({GUIDE}).",
            stacklevel=2,
        )


def loop(
    level: Any, primitive: Primitive, args: Sequence[Any], kwargs: Any
) -> tuple[Any, Any]:
    """Run the call once per example and stack the results at dim 0."""
    overload = primitive.overload
    refuse_or_warn(level, primitive)
    outs = []
    with tracked_by_autograd() if torch.is_grad_enabled() else UNCHANGED:
        for index in range(level.size):
            own = [take(level, a, index) for a in args]
            named = {k: take(level, v, index) for k, v in kwargs.items()}
            outs.append(overload(*own, **named))
    if not outs:
        raise MissingRuleError(
            explain(
                "vmap",
                f"{overload} has no batching rule and the batch is empty.",
                "pass a batch of at least one example, or add a batching rule",
            )
        )
    with tracked_by_autograd() if torch.is_grad_enabled() else UNCHANGED:
        return stack_outputs(outs), 0


def take(level: Any, arg: Any, index: int) -> Any:
    """Return one example of an argument."""
    if type(arg) is list or type(arg) is tuple:
        return type(arg)(take(level, a, index) for a in arg)
    if getattr(arg, "level", None) is not level:
        return arg
    if arg.batch_dim is None:
        return arg.value
    return arg.value.select(arg.batch_dim, index)


def stack_outputs(outs: list[Any]) -> Any:
    """Stack the outputs of all examples, output by output."""
    first = outs[0]
    if isinstance(first, Tensor):
        return torch.stack(outs)
    if isinstance(first, (list, tuple)):
        return tuple(stack_outputs(list(column)) for column in zip(*outs, strict=True))
    if any(other != first for other in outs):
        raise DataDependentError(
            explain(
                "vmap",
                "an operator returned a different number for each example.",
                "return a tensor instead of a Python number",
            )
        )
    return first
