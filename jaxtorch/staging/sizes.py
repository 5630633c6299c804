"""One graph for every batch size: traces at three sizes that differ in numbers only.

A number that changes between the traces must be a linear function of the size at all
three; then the graph holds that function in its place.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from jaxtorch.staging.signature import PARTS


class Linear:
    """The integer ``scale * n + offset`` of the batch size n; ``at`` is one value."""

    __slots__ = ("scale", "offset", "at")

    def __init__(self, scale: int, offset: int, at: int) -> None:
        self.scale = scale
        self.offset = offset
        self.at = at

    def __repr__(self) -> str:
        factor = "n" if self.scale == 1 else f"{self.scale} * n"
        return factor if self.offset == 0 else f"{factor} + {self.offset}"


class NotLinearError(Exception):
    """The traces differ in more than linear functions of the size."""


def with_size(leaves: Sequence[Any], places: Sequence[int], size: int) -> list[Any]:
    """Return the leaves with another length of dim 0 at ``places``, not initialized."""
    out = list(leaves)
    for place in places:
        leaf: Tensor = leaves[place]
        out[place] = leaf.new_empty((size, *leaf.shape[1:]))
    return out


def changed_places(
    old: Sequence[Any], new: Sequence[Any]
) -> tuple[list[int], int] | None:
    """Return where two signatures differ in the length of dim 0, and the old length.

    None where they differ in anything else, or in lengths below two, which traces may
    treat as a special case.
    """
    if len(old) != len(new) or old[:PARTS] != new[:PARTS]:
        return None
    places = []
    sizes = set()
    for place, (a, b) in enumerate(zip(old, new, strict=True)):
        if a == b:
            continue
        shaped = isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) == 3
        if not shaped or a[1:] != b[1:] or a[0][1:] != b[0][1:] or not a[0] or not b[0]:
            return None
        places.append(place)
        sizes.add((a[0][0], b[0][0]))
    if len(sizes) != 1 or min(next(iter(sizes))) < 2:
        return None
    return places, next(iter(sizes))[0]


def generalize(graphs: Sequence[fx.Graph], sizes: Sequence[int]) -> None:
    """Put linear functions of the size into the first graph; raises NotLinearError."""
    columns = [list(graph.nodes) for graph in graphs]
    if len({len(column) for column in columns}) != 1:
        raise NotLinearError
    twin: dict[fx.Node, fx.Node] = {}
    found = []
    for row in zip(*columns, strict=True):
        first = row[0]
        if any(n.op != first.op or n.target != first.target for n in row):
            if first.op != "placeholder":
                raise NotLinearError
        for node in row[1:]:
            twin[node] = first
        args = merge([node.args for node in row], sizes, twin)
        kwargs = merge([dict(node.kwargs) for node in row], sizes, twin)
        found.append((first, args, kwargs))
        first.meta["in_place"] = all(n.meta.get("in_place") for n in row)
    for first, args, kwargs in found:
        if first.op == "call_function":
            first._args = args
            first._kwargs = kwargs


def merge(values: Sequence[Any], sizes: Sequence[int], twin: Any) -> Any:
    """Merge one argument of the three traces."""
    first = values[0]
    if any(type(v) is not type(first) for v in values):
        raise NotLinearError
    if isinstance(first, fx.Node):
        if any(twin[v] is not first for v in values[1:]):
            raise NotLinearError
        return first
    if isinstance(first, dict):
        keys = list(first)
        if any(list(v) != keys for v in values):
            raise NotLinearError
        return {k: merge([v[k] for v in values], sizes, twin) for k in keys}
    if isinstance(first, (list, tuple)):
        if any(len(v) != len(first) for v in values):
            raise NotLinearError
        return type(first)(
            merge(list(column), sizes, twin) for column in zip(*values, strict=True)
        )
    if all(v == first for v in values):
        return first
    if type(first) is not int:
        raise NotLinearError
    scale, rest = divmod(values[1] - first, sizes[1] - sizes[0])
    offset = first - scale * sizes[0]
    if rest or values[2] != scale * sizes[2] + offset:
        raise NotLinearError
    return Linear(scale, offset, first)
