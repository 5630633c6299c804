"""Stacks of transforms as data: how they print, what they return, how they run.

A layer turns a function of tensors that returns a tuple of tensors into another one
with the same arguments; only ``vmap`` adds a dim to them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import jaxtorch
from tests.fuzz import parts
from tests.fuzz.program import DTYPES, NAMES, Input, Program, arguments

Shape = tuple[int, ...]
Spec = tuple[Shape, torch.dtype]

FORWARD = ("jvp", "linearize")
JACOBIANS = ("jacrev", "jacfwd", "hessian")
REVERSE = ("grad", "grad_and_value", "vjp")


@dataclass(frozen=True)
class Layer:
    """One transform.

    Attributes:
        name: its name in jaxtorch.
        argnums: which arguments are differentiated.
        in_dims: of vmap.
        out_dims: of vmap.
        size: of the batch of vmap.
        chunk_size: of vmap, jacrev and jacfwd.
        live: whether tangents and cotangents depend on values; whether grad has aux.
    """

    name: str
    argnums: tuple[int, ...] = ()
    in_dims: tuple[int | None, ...] = ()
    out_dims: tuple[int, ...] = ()
    size: int = 0
    chunk_size: int | None = None
    live: bool = False

    def lines(self, number: int, count: int) -> list[str]:
        """Return the layer as lines of the Python function ``f<number>``."""
        names = arguments(count)
        inner = f"f{number - 1}"
        head = f"def f{number}({names}):"
        return [head, *(f"    {line}" for line in self.body(inner, names))]

    def body(self, inner: str, names: str) -> list[str]:
        """Return the lines of the function's body."""
        some = f"lambda *v: floats({inner}(*v))"
        chunk = f", chunk_size={self.chunk_size}" if self.chunk_size else ""
        argnums = f"argnums={self.argnums}"
        if self.name == "vmap":
            dims = f"in_dims={self.in_dims}, out_dims={self.out_dims}"
            return [f"return jaxtorch.vmap({inner}, {dims}{chunk})({names})"]
        if self.name in JACOBIANS:
            call = f"jaxtorch.{self.name}({some}, {argnums}{chunk})({names})"
            return [f"return flat({call})"]
        if self.name == "grad" and not self.live:
            scalar = f"lambda *v: total({inner}(*v))"
            return [f"return jaxtorch.grad({scalar}, {argnums})({names})"]
        if self.name in ("grad", "grad_and_value"):
            scalar = f"lambda *v: with_aux({inner}(*v))"
            call = f"jaxtorch.{self.name}({scalar}, {argnums}, has_aux=True)({names})"
            if self.name == "grad":
                return [f"grads, aux = {call}", "return (*grads, *aux)"]
            return [f"grads, (value, aux) = {call}", "return (*grads, value, *aux)"]
        return self.directional(inner, names)

    def directional(self, inner: str, names: str) -> list[str]:
        """Return the body of vjp, jvp and linearize."""
        own = ", ".join(f"v{i}" for i in self.argnums)
        func = f"lambda {own}: floats({inner}({names}))"
        tangents = ", ".join(f"direction(v{i}, {self.live})" for i in self.argnums)
        others = ", ".join(f"direction(v{i}, tilt=-0.7)" for i in self.argnums)
        if self.name == "vjp":
            cotangents = f"tuple(direction(o, {self.live}) for o in outs)"
            return [
                f"outs, pull = jaxtorch.vjp({func}, {own})",
                f"return (*outs, *pull({cotangents}))",
            ]
        if self.name == "jvp":
            return [
                f"outs, pushed = jaxtorch.jvp({func}, ({own},), ({tangents},))",
                "return (*outs, *pushed)",
            ]
        return [
            f"outs, push = jaxtorch.linearize({func}, {own})",
            f"return (*outs, *push({tangents}), *push({others}))",
        ]

    def specs(self, args: list[Spec], outs: list[Spec]) -> list[Spec]:
        """Return the shapes and dtypes of the layer's outputs."""
        if self.name == "vmap":
            return [
                (insert(shape, dim, self.size), dtype)
                for (shape, dtype), dim in zip(outs, self.out_dims, strict=True)
            ]
        some = [spec for spec in outs if spec[1].is_floating_point]
        own = [args[i] for i in self.argnums]
        if self.name == "grad":
            return own + outs if self.live else own
        if self.name == "grad_and_value":
            dtypes = [dtype for _, dtype in some]
            return [*own, ((), functools.reduce(torch.promote_types, dtypes)), *outs]
        if self.name == "vjp":
            return some + own
        if self.name == "jvp":
            return some + some
        if self.name == "linearize":
            return some + some + some
        twice = self.name == "hessian"
        again: list[Shape] = [shape for shape, _ in own] if twice else [()]
        tails = [shape + tail for shape, _ in own for tail in again]
        return [(shape + tail, dtype) for shape, dtype in some for tail in tails]

    def outer_arguments(self, args: list[Spec]) -> list[Spec]:
        """Return the shapes of the arguments outside of the layer."""
        if self.name != "vmap":
            return args
        return [
            (shape if dim is None else insert(shape, dim, self.size), dtype)
            for (shape, dtype), dim in zip(args, self.in_dims, strict=True)
        ]


def insert(shape: Shape, dim: int, size: int) -> Shape:
    """Return ``shape`` with a dim of ``size`` at ``dim`` of the result."""
    place = dim % (len(shape) + 1)
    return (*shape[:place], size, *shape[place:])


@dataclass(frozen=True)
class Case:
    """A program under a stack of layers, innermost first, perhaps staged by jit."""

    program: Program
    layers: tuple[Layer, ...] = ()
    jit: bool = False

    def arguments(self) -> list[Tensor]:
        """Return the arguments of the outermost function."""
        specs = argument_specs(self.program.inputs)
        for layer in self.layers:
            specs = layer.outer_arguments(specs)
        pairs = zip(self.program.inputs, specs, strict=True)
        return [draw_value(own, shape) for own, (shape, _) in pairs]

    def body(self) -> list[str]:
        """Return the lines of all functions."""
        lines = self.program.lines()
        for number, layer in enumerate(self.layers, 1):
            lines += layer.lines(number, len(self.program.inputs))
        return lines

    def source(self) -> str:
        """Return the case as a Python program that prints jaxtorch's result."""
        specs = argument_specs(self.program.inputs)
        for layer in self.layers:
            specs = layer.outer_arguments(specs)
        last = f"f{len(self.layers)}"
        called = f"jaxtorch.jit({last})" if self.jit else last
        values = [
            f"    draw_value({own!r}, {shape}),"
            for own, (shape, _) in zip(self.program.inputs, specs, strict=True)
        ]
        head = [
            "import torch",
            "from torch.nn import functional as F",
            "import jaxtorch",
            "from tests.fuzz.parts import direction, flat, floats, total, with_aux",
            "from tests.fuzz.program import Input",
            "from tests.fuzz.stack import draw_value",
        ]
        tail = ["args = [", *values, "]", f"print({called}(*args))"]
        return "\n".join([*head, *self.body(), *tail])

    def function(self) -> Callable[..., parts.Outputs]:
        """Return the outermost function as jaxtorch runs it."""
        space: dict[str, Any] = {**NAMES, **vars(parts), "jaxtorch": jaxtorch}
        exec("\n".join(self.body()), space)
        func = space[f"f{len(self.layers)}"]
        return jaxtorch.jit(func) if self.jit else func


def argument_specs(inputs: tuple[Input, ...]) -> list[Spec]:
    """Return the shapes and dtypes of the program's own arguments."""
    return [(own.shape, DTYPES[own.dtype]) for own in inputs]


def output_specs(program: Program) -> list[Spec]:
    """Return the shapes and dtypes of the program's own outputs."""
    args = [draw_value(own, own.shape) for own in program.inputs]
    return [(tuple(out.shape), out.dtype) for out in program.function()(*args)]


def draw_value(own: Input, shape: Shape) -> Tensor:
    """Return the value of an input with all its batch dims."""
    generator = torch.Generator().manual_seed(own.seed)
    if own.dtype == "int64":
        return torch.randint(0, 5, shape, generator=generator)
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
    if own.dtype == "bool":
        return numbers > 0.4
    return (3 * numbers - 1.5).to(DTYPES[own.dtype])
