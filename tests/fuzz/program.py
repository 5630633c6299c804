"""Programs as data: what they are, how they print, how they run on plain tensors.

``function`` runs the printed Python text itself. ``run_out_of_place`` runs the same
program with no view and no write: a tensor is an index into a flat store, and a write
makes a new store. It is the oracle's way to read a program.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.fuzz.catalog import CATALOG, Kind

NAMES = {"torch": torch, "F": F}
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "int64": torch.int64,
    "bool": torch.bool,
}


@dataclass(frozen=True)
class Input:
    """One argument of the innermost function: the shape of one example."""

    shape: tuple[int, ...]
    dtype: str = "float64"
    seed: int = 0

    @property
    def floating(self) -> bool:
        """Tell whether it can be differentiated."""
        return self.dtype.startswith("float")


@dataclass(frozen=True)
class Op:
    """One operation: its name in the catalog, the values it reads, its parameters."""

    name: str
    operands: tuple[int, ...] = ()
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> Kind:
        """Return the entry of the catalog."""
        return CATALOG[self.name]

    def text(self, names: Sequence[str]) -> str:
        """Return the Python expression or statement."""
        return self.kind.code.format(*names, **dict(self.params))


@dataclass(frozen=True)
class Program:
    """Inputs are values 0, 1, ...; each operation makes the next value."""

    inputs: tuple[Input, ...]
    ops: tuple[Op, ...]
    outputs: tuple[int, ...]

    @property
    def writes(self) -> bool:
        """Tell whether any operation writes in place."""
        return any(op.kind.writes for op in self.ops)

    @property
    def plain(self) -> bool:
        """Tell whether torch.autograd can take the program as it is."""
        return not self.writes and not any(op.kind.formula for op in self.ops)

    def lines(self) -> list[str]:
        """Return the program as lines of a Python function ``f0``."""
        out = [f"def f0({arguments(len(self.inputs))}):"]
        for number, op in enumerate(self.ops, len(self.inputs)):
            text = op.text([f"v{i}" for i in op.operands])
            if op.kind.effect == "setitem":
                out += [f"    {text}", f"    v{number} = v{op.operands[0]}"]
            else:
                out.append(f"    v{number} = {text}")
        outputs = ", ".join(f"v{i}" for i in self.outputs)
        return [*out, f"    return ({outputs},)"]

    def function(self) -> Callable[..., tuple[Tensor, ...]]:
        """Return the program as a Python function, made of its text."""
        space: dict[str, Any] = dict(NAMES)
        exec("\n".join(self.lines()), space)
        found: Callable[..., tuple[Tensor, ...]] = space["f0"]
        return found


def arguments(count: int) -> str:
    """Return the names of the arguments."""
    return ", ".join(f"v{i}" for i in range(count))


@functools.lru_cache(maxsize=100_000)
def expression(code: str, count: int, params: tuple[tuple[str, str], ...]) -> Any:
    """Compile a template into a function of its operands."""
    names = [f"a{i}" for i in range(count)]
    text = code.format(*names, **dict(params))
    return eval(f"lambda {', '.join(names)}: {text}", dict(NAMES))


def compiled(op: Op, formula: bool = False) -> Callable[..., Tensor]:
    """Return one operation as a function of its operands."""
    kind = op.kind
    code = kind.formula if formula and kind.formula else kind.code
    params = tuple((name, str(value)) for name, value in op.params)
    found: Callable[..., Tensor] = expression(code, len(op.operands), params)
    return found


def execute(op: Op, env: list[Tensor]) -> Tensor:
    """Run one operation on plain tensors and return its value."""
    operands = [env[i] for i in op.operands]
    if op.kind.effect == "setitem":
        place = op.kind.place.format(**dict(op.params))
        exec(f"a[{place}] = b", {**NAMES, "a": operands[0], "b": operands[1]})
        return operands[0]
    return compiled(op)(*operands)


class Store:
    """The elements that some values share."""

    def __init__(self, value: Tensor) -> None:
        self.flat = value.reshape(-1)


class Handle:
    """A value: which elements of a store it shows. None stands for all, in order."""

    def __init__(self, store: Store, shape: torch.Size, index: Tensor | None) -> None:
        self.store = store
        self.shape = shape
        self.index = index

    @classmethod
    def of(cls, value: Tensor) -> "Handle":
        """Make the handle of a fresh value."""
        return cls(Store(value), value.shape, None)

    def places(self) -> Tensor:
        """Return the index of each element in the store."""
        if self.index is None:
            return torch.arange(self.store.flat.numel()).reshape(self.shape)
        return self.index

    def read(self) -> Tensor:
        """Return the present value."""
        if self.index is None:
            return self.store.flat.reshape(self.shape)
        return self.store.flat[self.index]

    def write(self, value: Tensor, places: Tensor) -> None:
        """Put ``value`` at ``places`` of a new store that all sharers see."""
        flat = self.store.flat
        while value.dim() > places.dim():
            value = value.squeeze(0)
        value = value.to(flat.dtype).expand(places.shape).reshape(-1)
        self.store.flat = flat.index_put((places.reshape(-1),), value)


def run_out_of_place(program: Program, args: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run a program without views and writes."""
    env = [Handle.of(arg) for arg in args]
    for op in program.ops:
        env.append(STEPS[op.kind.effect](op, env))
    return tuple(env[i].read() for i in program.outputs)


def step_pure(op: Op, env: list[Handle]) -> Handle:
    """Read the operands, keep the result in a store of its own."""
    return Handle.of(compiled(op, formula=True)(*(env[i].read() for i in op.operands)))


def step_view(op: Op, env: list[Handle]) -> Handle:
    """Take the same view of the index."""
    base = env[op.operands[0]]
    index = compiled(op)(base.places())
    return Handle(base.store, index.shape, index)


def step_restride(op: Op, env: list[Handle]) -> Handle:
    """Let the handle itself show a view of what it showed."""
    handle = env[op.operands[0]]
    handle.index = compiled(op, formula=True)(handle.places())
    handle.shape = handle.index.shape
    return handle


def step_write(op: Op, env: list[Handle]) -> Handle:
    """Write what the out-of-place form of the operation returns."""
    handle = env[op.operands[0]]
    value = compiled(op, formula=True)(*(env[i].read() for i in op.operands))
    handle.write(value, handle.places())
    return handle


def step_setitem(op: Op, env: list[Handle]) -> Handle:
    """Write a value into a part of the handle."""
    handle = env[op.operands[0]]
    place = op.kind.place.format(**dict(op.params))
    places = eval(f"a[{place}]", {**NAMES, "a": handle.places()})
    handle.write(env[op.operands[1]].read(), places)
    return handle


STEPS: dict[str, Callable[[Op, list[Handle]], Handle]] = {
    "pure": step_pure,
    "copy": step_pure,
    "view": step_view,
    "restride": step_restride,
    "write": step_write,
    "setitem": step_setitem,
}
