"""One group of calls as a function: its C source, and how it is called."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.native.loops import Buffer, Nest
from jaxtorch.staging.native.writer import Writer
from jaxtorch.staging.passes.rewriting import value_of
from jaxtorch.staging.region import Region

ALIGNED = 64
"""Bytes; memory of the function's own begins at multiples of it."""
MOST_ON_STACK = 1 << 14
"""Bytes; more of its own memory is a tensor's."""
NESTS_IN_A_PART = 16
"""C compilers take more than twice as long for a function of twice the length."""
make_empty: Any = getattr(torch._C._dynamo.guards, "_empty_strided_cpu", None) or (
    lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)
)


class UnfitError(RuntimeError):
    """A call of ATen made another tensor than it said it would."""


class LoopFunction(Region):
    """A group of calls; takes tensors, returns a list of tensors.

    Attributes:
        symbol: the name of the function in C.
        source: in C.
        code: the Python that calls it, once the source is compiled.
        scratch: bytes of memory of its own.
        names: the calls of ATen that it stands for.
    """

    __name__ = "loops"

    code: str
    run: Any

    def __init__(self, writer: Writer, symbol: str) -> None:
        self.symbol = symbol
        self.names = {node.name for node in writer.members}
        self.faults = writer.faults
        self.inputs = list(writer.inputs)
        self.results = writer.results
        self.source, self.scratch = source_of(writer, symbol)

    def bind(self, function: Any) -> None:
        """Write the Python function that calls the compiled one."""
        function.restype = int
        names: dict[str, Any] = {
            "function": function,
            "empty": make_empty,
            "laid": laid,
            "UnfitError": UnfitError,
            "faults": self.faults,
        }
        lines, given = [], []
        for place, node in enumerate(self.inputs):
            value = value_of(node)
            name = f"in{place}"
            if node.op == "call_function":
                lines.append(f"if {name}.nbytes != {value.nbytes}: raise UnfitError")
            if value.is_contiguous():
                lies = f"{name}.is_contiguous()"
                copy = f"{name}.resolve_neg().contiguous()"
            else:
                strides = tuple(value.stride())
                lies = f"{name}.stride() == {strides}"
                copy = f"laid({name}, {strides})"
            lines.append(f"if {name}.is_neg() or not {lies}: {name} = {copy}")
            given.append(name)
        made = []
        for place, node in enumerate(self.results):
            value = value_of(node)
            names[f"dtype{place}"] = value.dtype
            layout = f"{tuple(value.shape)}, {tuple(value.stride())}, dtype{place}"
            lines.append(f"out{place} = empty({layout})")
            made.append(f"out{place}")
        if self.scratch > MOST_ON_STACK:
            names["bytes"] = torch.uint8
            lines.append(f"own = empty(({self.scratch + ALIGNED},), (1,), bytes)")
        own = ["own"] if self.scratch > MOST_ON_STACK else []
        read = [*given, *made, *own]
        pointers = ", ".join(f"{name}.data_ptr()" for name in read)
        if self.faults:
            lines.append(f"fault = function({pointers})")
            lines.append("if fault: raise IndexError(faults[fault - 1])")
        else:
            lines.append(f"function({pointers})")
        body = "\n    ".join([*lines, f"return [{', '.join(made)}]"])
        self.code = f"def run({', '.join(given)}):\n    {body}\n"
        function.argtypes = [ctypes.c_void_p] * len(read)
        exec(compile(self.code, "<jaxtorch.native>", "exec"), names)
        self.run = names["run"]

    def __call__(self, *args: Any) -> list[Any]:
        """Run on plain tensors."""
        return self.run(*args)  # type: ignore[no-any-return]

    def graphs(self) -> Sequence[fx.Graph]:
        """Return nothing: the graph that the loops were written from is at hand."""
        return []


def laid(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Copy a tensor so that it lies with these strides."""
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


def source_of(writer: Writer, symbol: str) -> tuple[str, int]:
    """Return the C source of a group, and the bytes of its own memory."""
    own = [b for b in writer.buffers.values() if not b.given]
    outs = [writer.buffers[node] for node in writer.results]
    offsets, total = laid_out(writer, own)
    given = {b: f"const {b.type}* restrict {b.name}" for b in writer.inputs.values()}
    given |= {b: f"{b.type}* restrict {b.name}" for b in outs}
    params = list(given.values())
    begin = ["  int fault = 0;"]
    if total > MOST_ON_STACK:
        params.append("char* given")
        last = ALIGNED - 1
        up = f"((size_t)given + {last}) & ~(size_t){last}"
        begin.append(f"  char* own = (char*)({up});")
    else:
        aligned = f"__attribute__((aligned({ALIGNED})))"
        begin.append(f"  char own[{max(total, 1)}] {aligned};")
    size = NESTS_IN_A_PART
    nests = [writer.nests[i : i + size] for i in range(0, len(writer.nests), size)]
    if len(nests) == 1:
        parts, body = [], [block(nest, offsets) for nest in nests[0]]
    else:
        names = [f"{symbol}_{number}" for number in range(len(nests))]
        pairs = [part(*own, given, offsets) for own in zip(names, nests, strict=True)]
        parts, body = [p for p, _ in pairs], [call for _, call in pairs]
    head = f"int {symbol}({', '.join(params)}) {{"
    return "\n".join([*parts, head, *begin, *body, "  return fault;", "}", ""]), total


def part(
    name: str, nests: list[Nest], given: dict[Buffer, str], offsets: dict[Buffer, int]
) -> tuple[str, str]:
    """Return a C function for some nests of a group, and the line that calls it."""
    used = {buffer for nest in nests for buffer in used_by(nest)}
    params = ", ".join([*(given[b] for b in given if b in used), "char* own"])
    args = ", ".join([*(b.name for b in given if b in used), "own"])
    head = f"static __attribute__((noinline)) int {name}({params}) {{"
    blocks = [block(nest, offsets) for nest in nests]
    source = "\n".join([head, "  int fault = 0;", *blocks, "  return fault;", "}"])
    return source, f"  {{ int wrong = {name}({args}); if (wrong) fault = wrong; }}"


def block(nest: Nest, offsets: dict[Buffer, int]) -> str:
    """Return the text of a nest, with pointers into the group's own memory."""
    local = [
        f"  {b.type}* restrict {b.name} = ({b.type}*)(own + {offsets[b]});"
        for b in used_by(nest)
        if not b.given
    ]
    return "\n".join([" {", *local, nest.text(), " }"])


def used_by(nest: Nest) -> list[Buffer]:
    """Return the memory that a nest reads or writes, in the order of its lines."""
    places = [line.place for line in nest.lines()]
    return list(dict.fromkeys(p.buffer for p in places if p is not None))


def laid_out(writer: Writer, own: list[Buffer]) -> tuple[dict[Buffer, int], int]:
    """Give memory to buffers: those that are never needed at one time may share it."""
    lives: dict[Buffer, list[int]] = {}
    for number, nest in enumerate(writer.nests):
        for buffer in used_by(nest):
            lives.setdefault(buffer, [number, number])[1] = number
    offsets: dict[Buffer, int] = {}
    total = 0
    for buffer in sorted(own, key=lambda b: -b.bytes):
        first, last = lives[buffer]
        beside = sorted(
            (offsets[b], offsets[b] + b.bytes)
            for b in offsets
            if lives[b][0] <= last and first <= lives[b][1]
        )
        at = 0
        for start, end in beside:
            if at + buffer.bytes <= start:
                break
            at = max(at, -(-end // ALIGNED) * ALIGNED)
        offsets[buffer] = at
        total = max(total, at + buffer.bytes)
    return offsets, total
