"""Cotangents of several inputs that one call makes together."""

from collections.abc import Callable
from typing import Any


class Joint:
    """Pulls a cotangent back once; each of ``count`` operators picks up its own part.

    ``pull`` takes the cotangent of the output, or of all outputs, and returns one for
    each input.
    """

    __slots__ = ("pull", "count", "last")

    def __init__(self, pull: Callable[[Any], Any], count: int) -> None:
        self.pull = pull
        self.count = count
        self.last: list[Any] | None = None

    def part(self, cotangent: Any, place: int) -> Any:
        """Return the cotangent of the input at ``place``."""
        last = self.last
        if last is None or last[0] is not cotangent:
            last = [cotangent, self.pull(cotangent), self.count]
        last[2] -= 1
        self.last = last if last[2] > 0 else None
        return last[1][place]
