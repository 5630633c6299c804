"""Programs of elementwise steps and sums along rows, as text: what kernels are made of.

    v2 = cos(v1); v3 = mul(v0, v2); return v3

``v0, v1, ...`` are first the operands, which broadcast, then what the steps make; a
number may stand in the place of a value. ``sum`` and ``max`` reduce the rows (the dims
that the call names) and keep their dims; ``index()`` is the place in a row, ``count()``
its length. Nothing here launches a kernel.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, Union

import torch
from torch import Tensor

Number: TypeAlias = Union[int, float]  # noqa: UP007 - evaluated at run time


class Step(NamedTuple):
    """One step: its name in ``STEPS`` and what it takes, values by number or numbers.

    A value is a string, such as ``"v3"``.
    """

    name: str
    args: tuple[str | Number, ...]


class Program(NamedTuple):
    """A program that was read.

    Attributes:
        operands: how many values are given.
        steps: the steps, which make the values from ``operands`` on.
        results: which values are returned, and the operand whose dtype each takes.
    """

    operands: int
    steps: tuple[Step, ...]
    results: tuple[tuple[str, int], ...]


class Meaning(NamedTuple):
    """What a step does: in the language of Triton, in C and in torch.

    ``{f}`` in C ends the names of functions of the type: ``f`` for float.
    """

    triton: str
    c: str
    torch: Callable[..., Any]


def difference(x: Any, y: Any) -> Any:
    """Subtract, also from a number."""
    return torch.sub(x, y) if isinstance(x, Tensor) else torch.rsub(y, x)


def quotient(x: Any, y: Any) -> Any:
    """Divide, also a number."""
    return torch.div(x, y) if isinstance(x, Tensor) else torch.reciprocal(y) * x


STEPS = {
    "add": Meaning("{0} + {1}", "{0} + {1}", operator.add),
    "sub": Meaning("{0} - {1}", "{0} - {1}", difference),
    "mul": Meaning("{0} * {1}", "{0} * {1}", operator.mul),
    "div": Meaning("{0} / {1}", "{0} / {1}", quotient),
    "neg": Meaning("-{0}", "-{0}", torch.neg),
    "abs": Meaning("tl.abs({0})", "fabs{f}({0})", torch.abs),
    "exp": Meaning("tl.exp({0})", "exp{f}({0})", torch.exp),
    "expm1": Meaning("expm1({0})", "expm1{f}({0})", torch.expm1),
    "log": Meaning("tl.log({0})", "log{f}({0})", torch.log),
    "log1p": Meaning("log1p({0})", "log1p{f}({0})", torch.log1p),
    "sqrt": Meaning("tl.sqrt({0})", "sqrt{f}({0})", torch.sqrt),
    "rsqrt": Meaning("tl.rsqrt({0})", "1 / sqrt{f}({0})", torch.rsqrt),
    "sin": Meaning("tl.sin({0})", "sin{f}({0})", torch.sin),
    "cos": Meaning("tl.cos({0})", "cos{f}({0})", torch.cos),
    "tanh": Meaning("tanh({0})", "tanh{f}({0})", torch.tanh),
    "sigmoid": Meaning(
        "1.0 / (1.0 + tl.exp(-{0}))", "1 / (1 + exp{f}(-{0}))", torch.sigmoid
    ),
    "erf": Meaning("tl.erf({0})", "erf{f}({0})", torch.erf),
    "gt": Meaning("{0} > {1}", "{0} > {1}", torch.gt),
    "ge": Meaning("{0} >= {1}", "{0} >= {1}", torch.ge),
    "lt": Meaning("{0} < {1}", "{0} < {1}", torch.lt),
    "le": Meaning("{0} <= {1}", "{0} <= {1}", torch.le),
    "eq": Meaning("{0} == {1}", "{0} == {1}", torch.eq),
    "ne": Meaning("{0} != {1}", "{0} != {1}", torch.ne),
    "both": Meaning("{0} & {1}", "{0} && {1}", torch.logical_and),
    "either": Meaning("{0} | {1}", "{0} || {1}", torch.logical_or),
    "where": Meaning("tl.where({0}, {1}, {2})", "{0} ? {1} : {2}", torch.where),
}
REDUCTIONS = {
    "sum": Meaning("tl.sum({0}, 1)[:, None]", "{0} + {1}", torch.sum),
    "max": Meaning(
        "tl.max({0}, 1)[:, None]", "{0} > {1} || {0} != {0} ? {0} : {1}", torch.amax
    ),
}
INDEX = "index"
COUNT = "count"


def number_of(value: str) -> int:
    """Return the number of a value."""
    return int(value[1:])


@functools.lru_cache(4096)
def parse(text: str) -> Program:
    """Read a program."""
    *lines, last = text.split("; ")
    steps = []
    for line in lines:
        name, _, args = line.partition(" = ")[2].rstrip(")").partition("(")
        own = tuple(literal(a) for a in args.split(", ")) if args else ()
        steps.append(Step(name, own))
    results = []
    for result in last.removeprefix("return ").split(", "):
        value, _, like = result.partition(" like ")
        results.append((value, number_of(like)))
    first = lines[0].partition(" = ")[0] if lines else last.removeprefix("return ")
    return Program(number_of(first), tuple(steps), tuple(results))


def literal(text: str) -> str | Number:
    """Read a value or a number."""
    if text.startswith("v"):
        return text
    return float(text)


class Builder:
    """Writes a program step by step; equal steps are made once."""

    def __init__(self, operands: int) -> None:
        self.operands = operands
        self.steps: dict[Step, str] = {}

    def operand(self, place: int) -> "Value":
        return Value(self, f"v{place}")

    def step(self, name: str, *args: Any) -> "Value":
        """Add a step; its arguments are values or numbers."""
        own = Step(name, tuple(a.name if isinstance(a, Value) else a for a in args))
        if own not in self.steps:
            self.steps[own] = f"v{self.operands + len(self.steps)}"
        return Value(self, self.steps[own])

    def text(self, results: Sequence[tuple["Value", int]]) -> str:
        """Return the program that returns values in the dtypes of operands."""
        lines = [
            f"{name} = {step.name}({', '.join(map(str, step.args))})"
            for step, name in self.steps.items()
        ]
        last = ", ".join(f"{value.name} like v{place}" for value, place in results)
        return "; ".join([*lines, f"return {last}"])


class Value:
    """A value of a program that is being written; computes as a tensor does."""

    __slots__ = ("builder", "name")

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder = builder
        self.name = name

    def step(self, name: str, *args: Any) -> "Value":
        return self.builder.step(name, *args)

    def apply(self, name: str) -> "Value":
        """Apply a function of one argument."""
        return self.step(name, self)

    def where(self, yes: Any, no: Any) -> "Value":
        """Choose by this condition."""
        return self.step("where", self, yes, no)

    def __add__(self, other: Any) -> "Value":
        return self.step("add", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self.step("sub", self, other)

    def __mul__(self, other: Any) -> "Value":
        return self.step("mul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self.step("div", self, other)

    def __radd__(self, other: Any) -> "Value":
        return self.step("add", other, self)

    def __rsub__(self, other: Any) -> "Value":
        return self.step("sub", other, self)

    def __rmul__(self, other: Any) -> "Value":
        return self.step("mul", other, self)

    def __rtruediv__(self, other: Any) -> "Value":
        return self.step("div", other, self)

    def __neg__(self) -> "Value":
        return self.step("neg", self)

    def __gt__(self, other: Any) -> "Value":
        return self.step("gt", self, other)

    def __ge__(self, other: Any) -> "Value":
        return self.step("ge", self, other)

    def __lt__(self, other: Any) -> "Value":
        return self.step("lt", self, other)

    def __le__(self, other: Any) -> "Value":
        return self.step("le", self, other)


def is_finite(arg: Any) -> bool:
    """Tell whether an argument of a step can be written as text and read again."""
    return not isinstance(arg, (int, float)) or math.isfinite(arg)


def run(program: Program, operands: Sequence[Tensor], dims: Sequence[int]) -> list[Any]:
    """Run a program step by step in ATen; returns all its values."""
    shape = torch.broadcast_shapes(*[x.shape for x in operands])
    along = [d - len(shape) for d in dims]
    values: list[Any] = list(operands)
    like = next(x for x in operands if x.is_floating_point())
    for step in program.steps:
        args = [values[number_of(a)] if isinstance(a, str) else a for a in step.args]
        if step.name == INDEX:
            values.append(place_in_row(like, shape, along))
        elif step.name == COUNT:
            values.append(float(math.prod(shape[d] for d in along)))
        elif step.name in REDUCTIONS:
            values.append(reduced(step.name, args[0], along))
        else:
            values.append(STEPS[step.name].torch(*args))
    return values


def reduced(name: str, x: Any, along: list[int]) -> Any:
    """Reduce the dims that ``x`` has."""
    own = [d for d in along if -d <= x.dim()]
    return REDUCTIONS[name].torch(x, own, keepdim=True) if own else x


def place_in_row(like: Tensor, shape: torch.Size, along: list[int]) -> Tensor:
    """Number the elements of a row."""
    sizes = [s if d - len(shape) in along else 1 for d, s in enumerate(shape)]
    count = math.prod(sizes)
    return torch.arange(count, device=like.device).reshape(sizes)
