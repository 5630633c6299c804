"""Watched batching: which operators a ``vmap`` meets and by which way each runs."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtorch.core.batching import BatchLevel, BatchTensor
from jaxtorch.core.primitive import Kind, Primitive
from jaxtorch.rules.likeness import likely_file

WAYS = ("loop", "decomposition", "rule", "shared")
"""From the slowest: once per example, as other operators, for all examples at once, and
once because all examples share the arguments."""


class Row(NamedTuple):
    """One line of a report: an operator, its way, and how often it ran at a level.

    Attributes:
        operator: the name of the ATen overload.
        way: ``"rule"``, ``"decomposition"``, ``"loop"``, or ``"shared"`` for a call
            that runs once because no argument is batched.
        level: the depth of the transform that ran it; 1 is the outermost.
        calls: how many times.
        file: where a rule would go; empty for what does not loop.
    """

    operator: str
    way: str
    level: int
    calls: int
    file: str


class Notes:
    """What is noted while a report is made."""

    def __init__(self) -> None:
        self.calls: dict[tuple[Any, str, int], int] = {}

    def rows(self) -> tuple[Row, ...]:
        """Return the lines, the slowest ways first, else in the order of meeting."""
        rows = [
            Row(str(op), way, depth, calls, likely_file(op) if way == "loop" else "")
            for (op, way, depth), calls in self.calls.items()
        ]
        return tuple(sorted(rows, key=lambda row: WAYS.index(row.way)))


class Watch(threading.local):
    """The notes that this thread takes; None while nothing is watched."""

    def __init__(self) -> None:
        self.notes: Notes | None = None


WATCH = Watch()


def open_batch(size: int, randomness: str, strict: bool) -> BatchLevel:
    """Make the level of a vmap, a watched one while a report is made."""
    if WATCH.notes is None:
        return BatchLevel(size, randomness, strict)
    return WatchedLevel(size, randomness, strict)


class WatchedLevel(BatchLevel):
    """A level that notes by which way each call runs."""

    def __init__(self, size: int, randomness: str, strict: bool) -> None:
        super().__init__(size, randomness, strict)
        self.way = ""

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        outer = self.way
        varies = self.varies([*args, *kwargs.values()])
        self.way = "rule" if varies or primitive.kind is Kind.RANDOM else "shared"
        try:
            out = super().process(primitive, args, kwargs)
            self.note(primitive)
        finally:
            self.way = outer
        return out

    def without_rule(
        self, primitive: Primitive, args: Sequence[Any], kwargs: Any
    ) -> Any:
        self.way = "decomposition"
        return super().without_rule(primitive, args, kwargs)

    def loop(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        self.way = "loop"
        return super().loop(primitive, args, kwargs)

    def varies(self, args: Sequence[Any]) -> bool:
        """Tell whether any argument differs between the examples."""
        for arg in args:
            if type(arg) is BatchTensor and arg.level is self:
                if arg.batch_dim is not None:
                    return True
            elif type(arg) in (list, tuple) and self.varies(arg):
                return True
        return False

    def note(self, primitive: Primitive) -> None:
        """Count a call in the report."""
        notes = WATCH.notes
        if notes is not None:
            key = (primitive.overload, self.way, self.depth)
            notes.calls[key] = notes.calls.get(key, 0) + 1
