"""Loops in C: memory, places in it, nests of loops and their text. No ATen call."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int32: "int",
    torch.int64: "long long",
    torch.bool: "unsigned char",
}
"""The dtypes that loops compute in, in C."""


@dataclass(eq=False)
class Buffer:
    """Memory for the elements of one tensor.

    Attributes:
        name: of the pointer.
        dtype: of an element.
        size: how many elements it has room for.
        given: whether the caller gives it.
    """

    name: str
    dtype: torch.dtype
    size: int
    given: bool = False

    @property
    def type(self) -> str:
        return TYPES[self.dtype]

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


class Place(NamedTuple):
    """An element of a buffer at each turn of a nest.

    Attributes:
        strides: one for each loop of the nest.
        moved: what C computes and adds to the place, such as a row that is looked up.
    """

    buffer: Buffer
    offset: int
    strides: tuple[int, ...]
    moved: str = ""


class Scalar(NamedTuple):
    """A value in one turn of a nest: its text in C and its type."""

    text: str
    type: str


class Line(NamedTuple):
    """A line of a nest: text with ``@`` for the place, if it has one."""

    text: str
    place: Place | None = None


@dataclass(eq=False)
class Nest:
    """Loops one in the other, and what each turn does.

    Attributes:
        sizes: of the loops, the outermost first.
        outer: how many of the loops run outside of ``before`` and ``after``.
        before: lines ahead of the inner loops.
        body: lines of each turn.
        after: lines behind the inner loops.
        sums: the names that the inner loops add to.
    """

    sizes: tuple[int, ...]
    outer: int
    before: list[Line] = field(default_factory=list)
    body: list[Line] = field(default_factory=list)
    after: list[Line] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)

    def lines(self) -> list[Line]:
        """Return all lines."""
        return [*self.before, *self.body, *self.after]

    def text(self) -> str:
        """Return the source, with loops made one where memory allows that."""
        places = [line.place for line in self.lines() if line.place is not None]
        loops = merged(self.sizes, self.outer, [p.strides for p in places])
        indent = 1
        written = []
        for number, (own, size) in enumerate(loops):
            if own[0] >= self.outer:
                break
            written.append(opening(indent, number, size, ""))
            indent += 1
        inner = indent - 1
        written += [spelled(line, loops, indent) for line in self.before]
        for number in range(inner, len(loops)):
            last = number == len(loops) - 1
            clause = f" reduction(+:{', '.join(self.sums)})" if self.sums else ""
            pragma = f"#pragma omp simd{clause}\n" if last and self.sums else ""
            written.append(opening(indent, number, loops[number][1], pragma))
            indent += 1
        written += [spelled(line, loops, indent) for line in self.body]
        closing = [f"{'  ' * k}}}" for k in range(indent - 1, 0, -1)]
        between = indent - 1 - inner
        written += closing[:between]
        written += [spelled(line, loops, inner + 1) for line in self.after]
        return "\n".join([*written, *closing[between:]])


Loops = list[tuple[list[int], int]]
"""For each loop that is written: the loops of the nest it runs over, and its size."""


def merged(
    sizes: Sequence[int], outer: int, strides: Sequence[tuple[int, ...]]
) -> Loops:
    """Drop loops of one turn; make one of neighbours that step alike in all places."""
    loops: Loops = []
    for d, size in enumerate(sizes):
        if size == 1:
            continue
        if loops and (d < outer or loops[-1][0][0] >= outer):
            last, before = loops[-1]
            if all(own[last[-1]] == own[d] * size for own in strides):
                loops[-1] = ([*last, d], before * size)
                continue
        loops.append(([d], size))
    return loops


def opening(indent: int, number: int, size: int, pragma: str) -> str:
    """Return the head of a loop."""
    i = f"i{number}"
    return f"{pragma}{'  ' * indent}for (long {i} = 0; {i} < {size}; {i}++) {{"


def spelled(line: Line, loops: Loops, indent: int) -> str:
    """Return the text of a line within the loops."""
    text = line.text
    if line.place is not None:
        text = text.replace("@", element(line.place, loops))
    return "  " * indent + text


def element(place: Place, loops: Loops) -> str:
    """Return the element at a place."""
    terms = [
        f"i{number}" if stride == 1 else f"i{number} * {stride}"
        for number, (own, _) in enumerate(loops)
        if (stride := place.strides[own[-1]])
    ]
    terms += [str(place.offset)] if place.offset else []
    terms += [place.moved] if place.moved else []
    return f"{place.buffer.name}[{' + '.join(terms) or '0'}]"
