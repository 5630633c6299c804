"""Calls of a graph that hold graphs of their own: what the passes must know of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import fx


class Region:
    """A call whose target runs graphs: a branch or a loop. Subclasses are callable.

    Attributes:
        __name__: how the graph prints it.
        pure: whether the call may be dropped, merged or moved: nothing in it is random.
    """

    __name__ = "region"
    pure = True

    def __call__(self, *args: Any) -> list[Any]:
        """Run on plain tensors, or hand over to the level of a wrapper among them."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.__name__

    def graphs(self) -> Sequence[fx.Graph]:
        """Return the graphs inside, for reading."""
        raise NotImplementedError

    def slim(self, used: set[int]) -> "Slim | None":
        """Return a region without the results that are not used, where that saves."""
        return None

    def flops(self, count: Callable[[fx.Graph], int]) -> int:
        """Return the flops of one call, given how to count those of a graph."""
        raise NotImplementedError


class Slim(NamedTuple):
    """A region that takes some inputs of another one and returns some results."""

    region: Region
    inputs: list[int]
    outputs: list[int]
