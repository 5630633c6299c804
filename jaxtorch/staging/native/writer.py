"""The loops of a group of calls: which call runs in which nest, what lies in memory.

An elementwise call of which one other call reads each element once is computed there.
All others get a nest: the first one over the same shape that is not too early.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from jaxtorch.staging.native.loops import TYPES, Buffer, Line, Nest, Place, Scalar
from jaxtorch.staging.native.scalars import lines_of, literal, tensors_in
from jaxtorch.staging.native.views import Mapping, broadcast, is_view, root_of, through
from jaxtorch.staging.passes.rewriting import value_of
from jaxtorch.staging.passes.simplify import uniform

Element = Callable[["Writer", Nest, Any, Mapping], Scalar]
"""Writes the lines that make one element of a call."""
Whole = Callable[["Writer", Any], None]
"""Writes the nests of a call that is no single element's."""
Fits = Callable[[Any], bool]
"""Tells whether a call can be written."""


def identity(shape: Sequence[int]) -> Mapping:
    """Return the mapping of a tensor over which a nest loops."""
    return tuple(None if size == 1 else d for d, size in enumerate(shape))


class Writer:
    """Writes the loops of one group.

    Attributes:
        members: the calls of the group in order, without views.
        results: those of them that must lie in memory for others.
        nests: the loops in the order in which they run.
        inputs: what is read from outside, in memory of its own.
        faults: what is wrong where a check fails, in words.
    """

    def __init__(
        self,
        members: Sequence[fx.Node],
        results: Sequence[fx.Node],
        elements: dict[Any, tuple[Element, Fits]],
        wholes: dict[Any, tuple[Whole, Fits]],
        once: Collection[Any],
    ) -> None:
        self.members = set(members)
        self.results = list(results)
        self.elements = elements
        self.wholes = wholes
        self.once = once
        self.nests: list[Nest] = []
        self.flat: dict[Nest, tuple[int, ...]] = {}
        self.values: dict[Nest, dict[Any, Scalar]] = {}
        self.home: dict[fx.Node, Nest] = {}
        self.last: dict[fx.Node, int] = {}
        self.inputs: dict[fx.Node, Buffer] = {}
        self.buffers: dict[fx.Node, Buffer] = {}
        self.faults: list[str] = []
        self.names = 0
        for node in members:
            self.write(node)
        for node in results:
            self.buffer(node)
        self.store_values()

    def fresh(self, stem: str = "t") -> str:
        """Return a name that is not taken."""
        self.names += 1
        return f"{stem}{self.names}"

    def write(self, node: Any) -> None:
        """Write the nests of a call, or leave it to the call that reads it."""
        if node.target in self.wholes:
            self.wholes[node.target][0](self, node)
            self.last[node] = len(self.nests) - 1
        elif not self.is_inlined(node):
            self.settle(node)

    # Where a call is computed.

    def is_inlined(self, node: fx.Node) -> bool:
        """Tell whether the one call that reads a value computes it."""
        if node in self.results:
            return False
        if uniform(node) is not None:
            return True
        readers = list(self.readers(node))
        if len(readers) != 1 or readers[0] is None:
            return False
        (reader,) = readers
        own, shape = value_of(node).numel(), self.turns(reader)
        return own == shape and self.reads_once(reader)

    def readers(self, node: fx.Node) -> Iterator[fx.Node | None]:
        """Yield who reads a value, also broadcast; None where it must lie in memory."""
        for user in node.users:
            if is_view(user):
                if through(user, identity(value_of(user).shape)) is None:
                    yield None
                yield from self.readers(user)
            elif user in self.members:
                yield user

    def turns(self, node: Any) -> int:
        """Return how many elements a call reads of a value in its full shape."""
        whole = node.target in self.wholes and isinstance(node.args[0], fx.Node)
        return value_of(node.args[0] if whole else node).numel()

    def reads_once(self, reader: Any) -> bool:
        """Tell whether a call reads each element of a value at one turn alone."""
        if reader.target in self.wholes:
            return reader.target in self.once
        return reader.target not in self.elements

    def settle(self, node: fx.Node) -> None:
        """Compute an elementwise call in the first nest where it can be."""
        shape = tuple(value_of(node).shape)
        own = identity(shape)
        first = self.earliest(node, shape, own)
        nest = next((n for n in self.nests[first:] if self.flat.get(n) == shape), None)
        if nest is None:
            nest = self.over(shape)
            self.flat[nest] = shape
        self.home[node] = nest
        self.last[node] = self.nests.index(nest)
        self.values[nest][node, own] = self.compute(nest, node, own)

    def earliest(self, node: fx.Node, shape: tuple[int, ...], mapping: Mapping) -> int:
        """Return the first nest in which all that a call reads has been computed."""
        first = 0
        for source, own in self.sources(node, mapping):
            at = self.last[source]
            nest = self.home.get(source)
            beside = nest is not None and self.flat[nest] == shape
            beside = beside and own == identity(value_of(source).shape)
            first = max(first, at if beside else at + 1)
        return first

    def sources(
        self, node: Any, mapping: Mapping
    ) -> Iterator[tuple[fx.Node, Mapping | None]]:
        """Yield what of the group a call reads that was computed before, and where."""
        for source in node.all_input_nodes:
            alone = node.target not in self.elements
            own: Mapping | None = broadcast(source, node, mapping) if alone else None
            while is_view(source):
                if own is not None:
                    own = through(source, own)
                source = source.args[0]
            if source in self.last:
                yield source, own
            elif source in self.members and uniform(source) is None:
                yield from self.sources(source, own or ())

    def add(self, nest: Nest) -> Nest:
        """Append a nest."""
        self.nests.append(nest)
        self.values[nest] = {}
        return nest

    def over(self, shape: Sequence[int]) -> Nest:
        """Append a nest over the elements of a shape."""
        return self.add(Nest(tuple(shape), len(shape)))

    # What a turn reads and makes.

    def read(self, nest: Nest, node: Any, mapping: Mapping) -> Scalar:
        """Return an element of a value, with the lines that it takes."""
        number = self.number(node)
        if number is not None:
            return number
        known = self.values[nest]
        if (node, mapping) not in known:
            known[node, mapping] = self.made(nest, node, mapping)
        return known[node, mapping]

    def number(self, node: Any) -> Scalar | None:
        """Return the number that all elements of a value are, if they are one."""
        number, type_ = uniform(node), TYPES[value_of(node).dtype]
        return None if number is None else Scalar(literal(number, type_), type_)

    def made(self, nest: Nest, node: Any, mapping: Mapping) -> Scalar:
        """Compute an element, or load it from memory."""
        root = root_of(node)
        here = root not in self.last or self.home.get(root) is nest
        if root in self.members and here:
            if node is root:
                return self.compute(nest, node, mapping)
            own = through(node, mapping)
            assert own is not None, "else it would lie in memory"
            return self.read(nest, node.args[0], own)
        name, type_ = self.fresh(), TYPES[value_of(node).dtype]
        place = self.place(nest, node, mapping)
        nest.body.append(Line(f"const {type_} {name} = @;", place))
        return Scalar(name, type_)

    def compute(self, nest: Nest, node: Any, mapping: Mapping) -> Scalar:
        """Write the lines of an elementwise call."""
        if node.target in self.elements:
            return self.elements[node.target][0](self, nest, node, mapping)
        number = self.number(node)
        if number is not None:
            return number
        given = [
            self.read(nest, source, broadcast(source, node, mapping))
            for source in tensors_in(node)
        ]
        lines, made = lines_of(node, given, self.fresh)
        nest.body += [Line(text) for text in lines]
        return made

    # Memory.

    def place(self, nest: Nest, node: Any, mapping: Mapping) -> Place:
        """Return where the elements of a value in memory are at each turn."""
        root = root_of(node)
        value, base = value_of(node), value_of(root)
        strides = [0] * len(nest.sizes)
        for d, loop in enumerate(mapping):
            if loop is not None:
                strides[loop] += value.stride(d)
        offset = value.storage_offset() - base.storage_offset()
        return Place(self.buffer(root), int(offset), tuple(strides))

    def part(self, nest: Nest, node: Any, view: Tensor, whole: Tensor) -> Place:
        """Return where a nest that loops over a view of a result writes."""
        offset = view.storage_offset() - whole.storage_offset()
        strides = tuple(view.stride()) + (0,) * (len(nest.sizes) - view.dim())
        return Place(self.buffer(node), int(offset), strides)

    def buffer(self, node: fx.Node) -> Buffer:
        """Return the memory of a value."""
        value = value_of(node)
        if node not in self.members:
            if node not in self.inputs:
                name = f"in{len(self.inputs)}"
                self.inputs[node] = Buffer(name, value.dtype, 0, given=True)
            return self.inputs[node]
        if node not in self.buffers:
            given = node in self.results
            name = f"{'out' if given else 'own'}{len(self.buffers)}"
            self.buffers[node] = Buffer(name, value.dtype, value.numel(), given)
        return self.buffers[node]

    def store_values(self) -> None:
        """Let the elements that another nest or the caller reads be written."""
        for node, nest in self.home.items():
            if node in self.buffers:
                own = identity(value_of(node).shape)
                made = self.values[nest][node, own]
                place = self.place(nest, node, own)
                nest.body.append(Line(f"@ = {made.text};", place))
