"""Random cases, drawn by hypothesis; a program is run on every example while it grows.

An operation is kept only where it is legal, smooth and of moderate size for all
examples of the batch, so that nothing has to be thrown away afterwards.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.catalog import CATALOG, Kind
from tests.fuzz.program import Input, Op, Program, compiled, execute
from tests.fuzz.stack import (
    FORWARD,
    JACOBIANS,
    REVERSE,
    Case,
    Layer,
    Spec,
    argument_specs,
    draw_value,
)

MOST_OPS = 20
MOST_LAYERS = 4
MOST_WORK = 400
MOST_EXAMPLES = 12
LARGEST = 50.0
REFUSALS = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)

EFFECTS = {
    effect: [name for name, kind in CATALOG.items() if kind.effect == effect]
    for effect in ("pure", "copy", "view", "write", "setitem", "restride")
}
FRESH = ["clone", "zeros", "zeros_like", "ones_wide", "full", "new_zeros", "scale"]
WRITES = EFFECTS["write"] + EFFECTS["setitem"] * 4 + EFFECTS["restride"]
ALONE = [name for name in EFFECTS["pure"] if CATALOG[name].takes == "f"]
JOINT = [name for name in EFFECTS["pure"] if CATALOG[name].takes[:2] in ("ff", "bf")]
DISCRETE = [name for name in EFFECTS["pure"] if name not in ALONE + JOINT]
FAMILIES = [
    ALONE,
    ALONE,
    JOINT,
    JOINT,
    DISCRETE,
    EFFECTS["view"] + EFFECTS["copy"],
    FRESH,
    WRITES,
    WRITES,
]

Choose = Callable[[Sequence[Any]], Any]


@functools.cache
def below(count: int) -> st.SearchStrategy[int]:
    """Return the strategy of an index."""
    return st.integers(0, count - 1)


class Growth:
    """A program that grows; it runs on every example at each step.

    Attributes:
        envs: for each example, the present values.
        bases: for each value, the number of the value that owns its elements.
        frozen: owners whose elements may be shared in ways that depend on strides.
    """

    def __init__(
        self, choose: Choose, inputs: tuple[Input, ...], examples: list[list[Tensor]]
    ) -> None:
        self.choose = choose
        self.inputs = inputs
        self.ops: list[Op] = []
        self.envs = examples
        self.bases = list(range(len(inputs)))
        self.frozen = set(self.bases)

    @property
    def shown(self) -> list[Tensor]:
        """Return the values of the first example."""
        return self.envs[0]

    def candidates(self, letter: str) -> list[int]:
        """Return the values that an operand can be, the latest first."""
        return [
            number
            for number in reversed(range(len(self.shown)))
            if letter == "a" or letter_of(self.shown[number]) == letter
        ]

    def operands(self, kind: Kind) -> tuple[int, ...] | None:
        """Draw operands that go together; None where there are none."""
        first = self.candidates(kind.takes[0])
        if kind.writes:
            first = [n for n in first if self.writable(n)]
        others = [self.candidates(letter)[:8] for letter in kind.takes[1:]]
        if not first or not all(others):
            return None
        start = self.choose(first)
        fits = kind.fits
        options = [
            (start, *rest)
            for rest in itertools.product(*others)
            if fits is None or fits(*(self.shown[n] for n in (start, *rest)))
        ]
        return self.choose(options) if options else None

    def writable(self, number: int) -> bool:
        """Tell whether a value may be written: fresh, and no element shown twice."""
        x = self.shown[number]
        twice = any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape, strict=True))
        return self.bases[number] not in self.frozen and not twice

    def try_op(self, name: str) -> bool:
        """Append one operation if it is legal and smooth."""
        kind = CATALOG[name]
        operands = self.operands(kind)
        if operands is None:
            return False
        shown = [self.shown[n] for n in operands]
        try:
            params = tuple(
                (key, drawer(self.choose, shown)) for key, drawer in kind.params.items()
            )
        except IndexError:
            return False
        return self.append(Op(name, operands, params))

    def append(self, op: Op) -> bool:
        """Run an operation on every example and keep it if all of them accept it."""
        try:
            for env in self.envs:
                if not acceptable(op, [env[n] for n in op.operands]):
                    return False
            if op.kind.writes:
                return self.append_write(op)
            values = [execute(op, env) for env in self.envs]
        except REFUSALS:
            return False
        if not all(moderate(value) for value in values):
            return False
        self.keep(op, values)
        owner = self.bases[op.operands[0]] if op.kind.effect == "view" else None
        self.bases.append(len(self.bases) if owner is None else owner)
        if op.kind.effect == "copy":
            self.frozen |= {self.bases[-1], self.bases[op.operands[0]]}
        return True

    def append_write(self, op: Op) -> bool:
        """Run a write; whether it is legal shows at the first example."""
        target, *rest = op.operands
        if any(self.bases[n] == self.bases[target] for n in rest):
            return False
        values = [execute(op, env) for env in self.envs]
        self.keep(op, values)
        self.bases.append(self.bases[target])
        return True

    def keep(self, op: Op, values: list[Tensor]) -> None:
        """Note an operation and its values."""
        self.ops.append(op)
        for env, value in zip(self.envs, values, strict=True):
            env.append(value)

    def program(self, largest_output: int) -> Program:
        """Choose the outputs: a late one with a derivative, and up to two others."""
        numbers = self.candidates("f")[:4]
        outputs = [self.choose(numbers)]
        others = range(self.choose([0, 0, 1, 2]))
        outputs += [self.choose(self.candidates("a")) for _ in others]
        for place, number in enumerate(outputs):
            x = self.shown[number]
            if x.numel() > largest_output and x.is_floating_point():
                if not self.append(Op("sum", (number,))):
                    self.append(Op("basic_index", (number,), (("index", "..., :1"),)))
                outputs[place] = len(self.shown) - 1
        return Program(self.inputs, tuple(self.ops), tuple(outputs))


def letter_of(x: Tensor) -> str:
    """Return the letter of an operand in the catalog."""
    if x.is_floating_point():
        return "f"
    return "b" if x.dtype is torch.bool else "i"


def acceptable(op: Op, operands: list[Tensor]) -> bool:
    """Tell whether an operation is smooth here, and a write of moderate size."""
    kind = op.kind
    if kind.guard is not None:
        dims = {k: v for k, v in op.params if k == "dim"}
        if not kind.guard(*operands, **dims):
            return False
    if kind.effect == "write":
        return moderate(compiled(op, formula=True)(*operands))
    return True


def moderate(x: Tensor) -> bool:
    """Tell whether a value is finite and small, in numbers and in size."""
    if x.numel() > 48 or x.dim() > 5:
        return False
    if x.is_floating_point():
        return x.numel() == 0 or bool(x.abs().max() < LARGEST)
    return True


def examples_of(
    inputs: tuple[Input, ...], layers: Sequence[Layer]
) -> list[list[Tensor]]:
    """Return the program's arguments for every example of the batch.

    An empty batch is looked at as if it had one example.
    """
    specs = argument_specs(inputs)
    for layer in layers:
        specs = replace(layer, size=layer.size or 1).outer_arguments(specs)
    rows = [
        [draw_value(own, shape) for own, (shape, _) in zip(inputs, specs, strict=True)]
    ]
    for layer in reversed(layers):
        if layer.name == "vmap":
            rows = [
                [
                    x if dim is None else x.select(dim, index)
                    for x, dim in zip(row, layer.in_dims, strict=True)
                ]
                for row in rows
                for index in range(layer.size or 1)
            ]
    return [[x.clone() for x in row] for row in rows]


def draw_inputs(choose: Choose, small: bool) -> tuple[Input, ...]:
    """Draw the arguments of the program; the first one can be differentiated."""
    palette = [choose([2, 3]), choose([3, 2, 4, 1])]
    if not choose(range(12)):
        palette.append(0)
    dtype = choose(["float64"] * 5 + ["float32"])
    inputs = []
    for number in range(choose([1, 2, 2, 3])):
        rank = choose([1, 2, 0, 1] if small else [2, 1, 3, 0])
        shape = tuple(choose([*palette, *palette, 1]) for _ in range(rank))
        if small and torch.Size(shape).numel() > 6:
            shape = shape[:1]
        kinds = [dtype] * 5 + ["int64", "bool"] if number else [dtype]
        inputs.append(Input(shape, choose(kinds), choose(range(1000))))
    return tuple(inputs)


def draw_layers(choose: Choose, inputs: tuple[Input, ...]) -> list[Layer]:
    """Draw the layers; out_dims are filled in when the outputs are known."""
    layers: list[Layer] = []
    args = argument_specs(inputs)
    work, outs, examples = 1, 4, 1
    for _ in range(choose([1, 2, 3, 4, 2, 3, 4, 0])):
        layer = draw_layer(choose, args)
        n_in = sum(torch.Size(args[i][0]).numel() for i in layer.argnums)
        factor, made = growth(layer, n_in, outs)
        examples *= layer.size if layer.name == "vmap" and layer.size else 1
        if work * factor > MOST_WORK or examples > MOST_EXAMPLES:
            break
        work, outs = work * factor, made
        args = layer.outer_arguments(args)
        layers.append(layer)
    return layers


def growth(layer: Layer, n_in: int, outs: int) -> tuple[int, int]:
    """Return how much more work a layer makes, and how many numbers it returns."""
    if layer.name == "vmap":
        return max(layer.size, 1), outs * layer.size
    if layer.name == "hessian":
        return 3 + outs * (1 + n_in), outs * n_in * n_in
    if layer.name in JACOBIANS:
        return 2 + (n_in if layer.name == "jacfwd" else outs), outs * n_in
    if layer.name in FORWARD:
        return 3, 3 * outs
    return 2, n_in + outs


def draw_layer(choose: Choose, args: Sequence[Spec]) -> Layer:
    """Draw one layer."""
    name = choose(["vmap"] * 5 + [*REVERSE, *FORWARD, *JACOBIANS])
    if name == "vmap":
        in_dims: list[int | None] = []
        for shape, _ in args:
            rank = len(shape) + 1
            in_dims.append(choose([0, None, *range(-rank, rank)]))
        if all(dim is None for dim in in_dims):
            in_dims[0] = 0
        size = choose([2, 3, 2, 1, 3, 2, 3, 0])
        chunk = choose([None, None, None, 1, 2]) if size else None
        return Layer(name, in_dims=tuple(in_dims), size=size, chunk_size=chunk)
    floating = [i for i, (_, dtype) in enumerate(args) if dtype.is_floating_point]
    argnums = [choose(floating)]
    argnums += [i for i in floating if i not in argnums and choose([True, False])]
    chunk = choose([None, None, 1, 2]) if name in JACOBIANS else None
    return Layer(name, tuple(argnums), chunk_size=chunk, live=choose([False, True]))


def with_out_dims(
    choose: Choose, layers: Sequence[Layer], program: Program, outs: list[Spec]
) -> tuple[Layer, ...]:
    """Draw the out_dims of every vmap."""
    args = argument_specs(program.inputs)
    done = []
    for layer in layers:
        if layer.name == "vmap":
            dims = tuple(
                choose([0, *range(-len(shape) - 1, len(shape) + 1)])
                for shape, _ in outs
            )
            layer = replace(layer, out_dims=dims)
        outs = layer.specs(args, outs)
        args = layer.outer_arguments(args)
        done.append(layer)
    return tuple(done)


@st.composite
def cases(draw: Any) -> Case:
    """Draw a case."""

    def choose(items: Sequence[Any]) -> Any:
        if len(items) == 1:
            return items[0]
        # Hypothesis prefers the small numbers of a long range; a short one is even.
        if len(items) > 32:
            items = items[draw(below(16)) :: 16]
        return items[draw(below(len(items)))]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw_case(choose)


def draw_case(choose: Choose) -> Case:
    """Draw the layers and the inputs, grow a program, and choose what it returns."""
    jacobian = choose([False, True])
    inputs = draw_inputs(choose, jacobian)
    layers = draw_layers(choose, inputs)
    grown = Growth(choose, inputs, examples_of(inputs, layers))
    for _ in range(choose(range(1, MOST_OPS + 1))):
        names = choose(FAMILIES)
        for _ in range(3):
            if grown.try_op(choose(names)):
                break
    heavy = any(layer.name in JACOBIANS for layer in layers)
    program = grown.program(4 if heavy else 48)
    specs: list[Spec] = [
        (tuple(grown.shown[n].shape), grown.shown[n].dtype) for n in program.outputs
    ]
    layers = with_out_dims(choose, layers, program, specs)
    return Case(program, layers, choose([False] * 5 + [True]))
