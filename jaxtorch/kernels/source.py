"""Writes the source of a kernel for a program; launches nothing."""

import functools
import linecache
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxtorch.kernels.language import jit, tensor, tl
from jaxtorch.kernels.program import (
    COUNT,
    INDEX,
    REDUCTIONS,
    STEPS,
    Program,
    Step,
    number_of,
    parse,
)


@jit
def log1p(x: tensor) -> tensor:
    """``log(1 + x)``, exact for small x (Kahan)."""
    u = 1.0 + x
    inner = tl.log(u) * (x / (u - 1.0))
    return tl.where(u == 1.0, x, tl.where(u == float("inf"), u, inner))


@jit
def expm1(x: tensor) -> tensor:
    """``exp(x) - 1``, exact for small x (Kahan)."""
    u = tl.exp(x)
    inner = (u - 1.0) * (x / tl.log(u))
    edge = (u - 1.0 == -1.0) | (u == u + u)
    return tl.where(u == 1.0, x, tl.where(edge, u - 1.0, inner))


@jit
def tanh(x: tensor) -> tensor:
    """``-m / (m + 2)`` with ``m = expm1(-2 |x|)``, and the sign of x."""
    m = expm1(-2.0 * tl.abs(x))
    y = -m / (m + 2.0)
    return tl.where(x < 0, -y, y)


@jit
def widened(x: tensor) -> tensor:
    """Compute in float32; leave conditions and indices as they are."""
    if x.dtype.is_floating():
        x = x.to(tl.float32)
    return x


EMPTY = {"sum": "0.0", "max": '-float("inf")'}
"""What a reduction begins with."""


class Form(NamedTuple):
    """What the source of a kernel depends on, beside the program.

    Attributes:
        rows: how many dims number the rows.
        cols: how many dims a row has.
        steps: for each operand, then each result, which of these dims have a stride.
        constant: for each operand whether it is constant along rows.
        looped: whether rows are read in a loop.
    """

    rows: int
    cols: int
    steps: tuple[tuple[bool, ...], ...]
    constant: tuple[bool, ...]
    looped: bool


class Source:
    """Writes the kernel of a program."""

    def __init__(self, program: Program, form: Form) -> None:
        self.program = program
        self.form = form
        self.count = program.operands
        self.needs: list[set[int]] = [set() for _ in range(self.count)]
        self.depth = [0] * self.count
        self.row = list(form.constant)
        for step in program.steps:
            self.read(step)

    def read(self, step: Step) -> None:
        """Note how many reductions lie before a value, and whether it is a row's."""
        args = [number_of(a) for a in step.args if isinstance(a, str)]
        depth = max((self.depth[a] for a in args), default=0)
        reduces = step.name in REDUCTIONS
        constant = step.name != INDEX and all(self.row[a] for a in args)
        self.depth.append(depth + (reduces and not constant))
        self.row.append(reduces or constant)
        self.needs.append(set(args))

    def reductions(self) -> list[int]:
        """Return the values that are reductions."""
        return [
            self.count + i
            for i, step in enumerate(self.program.steps)
            if step.name in REDUCTIONS and not self.row[number_of(str(step.args[0]))]
        ]

    def names(self) -> list[str]:
        """Return the parameters behind the pointers."""
        strides = [
            f"s{t}_{d}"
            for t, steps in enumerate(self.form.steps)
            for d, there in enumerate(steps)
            if there
        ]
        sizes = [f"r_size{d}" for d in range(1, self.form.rows)]
        sizes += [f"c_size{d}" for d in range(1, self.form.cols)]
        return ["rows", "cols", "chunk", "splits", *sizes, *strides]

    def address(self, t: int, pointer: str) -> tuple[str, str]:
        """Return where the elements of a tensor are, and the mask."""
        terms, masks = [], []
        for d, there in enumerate(self.form.steps[t]):
            if there:
                along_row = d >= self.form.rows
                at = f"c{d - self.form.rows}" if along_row else f"r{d}"
                terms.append(f"{at} * s{t}_{d}")
                masks.append("(c < cols)" if along_row else "(r < rows)")
        return " + ".join([pointer, *terms]), " & ".join(dict.fromkeys(masks))

    def line(self, value: int) -> str:
        """Return the line that loads an operand or computes a step."""
        if value < self.count:
            place, mask = self.address(value, f"p{value}")
            load = (
                f"tl.load({place}, mask={mask}, other=0)"
                if mask
                else f"tl.load({place})"
            )
            return f"v{value} = widened({load})"
        step = self.program.steps[value - self.count]
        if step.name == INDEX:
            return f"v{value} = c"
        if step.name == COUNT:
            return f"v{value} = cols.to(tl.float32)"
        meaning = STEPS.get(step.name)
        if meaning is not None:
            return f"v{value} = {meaning.triton.format(*step.args)}"
        if self.row[number_of(str(step.args[0]))]:
            return f"v{value} = {step.args[0]}"
        return f"v{value} = {REDUCTIONS[step.name].triton.format(within(step))}"

    def closure(self, wanted: Sequence[int], known: set[int]) -> list[int]:
        """Return what must be computed for some values, in order."""
        found: set[int] = set()
        open_ = list(wanted)
        while open_:
            value = open_.pop()
            if value not in found and value not in known:
                found.add(value)
                open_ += self.needs[value]
        return sorted(found)

    def stores(self, rows: bool) -> Iterator[str]:
        """Return the lines that store the results of rows, or all others."""
        for i, (value, _) in enumerate(self.program.results):
            if self.row[number_of(value)] != rows:
                continue
            if rows:
                place, mask = f"q{i} + r * splits + k", "r < rows"
            else:
                place, mask = self.address(self.count + i, f"q{i}")
            cast = f"({value} + tl.zeros((1, 1), tl.float32)).to(q{i}.dtype.element_ty)"
            given = f", mask={mask}" if mask else ""
            if not mask:
                place += " + tl.zeros((1, 1), tl.int32)"
            yield f"tl.store({place}, {cast}{given})"

    def places(self, name: str, count: int) -> Iterator[str]:
        """Return the lines that split the place in a row, or of a row, into dims."""
        rest = name
        for d in range(count - 1, 0, -1):
            yield f"{name}{d} = {rest} % {name}_size{d}"
            yield f"{name}_rest{d} = {rest} // {name}_size{d}"
            rest = f"{name}_rest{d}"
        if count:
            yield f"{name}0 = {rest}"

    def tile(self, start: str) -> Iterator[str]:
        """Return the lines that begin a tile."""
        yield f"c = {start} + tl.arange(0, C)[None, :]"
        yield from self.places("c", self.form.cols)

    def resident(self) -> Iterator[str]:
        """Return the body for rows that are read once."""
        yield from self.tile("start")
        wanted = [number_of(value) for value, _ in self.program.results]
        yield from map(self.line, self.closure(wanted, set()))
        yield from self.stores(rows=False)
        yield from self.stores(rows=True)

    def loops(self) -> Iterator[str]:
        """Return the body for long rows: a loop for each depth, and one to store."""
        known: set[int] = set()
        reductions = self.reductions()
        for depth in sorted({self.depth[v] for v in reductions}):
            own = [v for v in reductions if self.depth[v] == depth]
            for v in own:
                name = self.program.steps[v - self.count].name
                yield f"a{v} = tl.full((R, C), {EMPTY[name]}, tl.float32)"
            yield "for place in range(start, end, C):"
            yield from ("    " + text for text in self.tile("place"))
            inputs = [n for v in own for n in self.needs[v]]
            for v in self.closure(inputs, known):
                yield "    " + self.line(v)
            for v in own:
                step = self.program.steps[v - self.count]
                join = "a{0} + {1}" if step.name == "sum" else "tl.maximum(a{0}, {1})"
                yield f"    a{v} = {join.format(v, within(step))}"
            for v in own:
                name = self.program.steps[v - self.count].name
                yield f"v{v} = {REDUCTIONS[name].triton.format(f'a{v}')}"
            known.update(own)
        results = [number_of(value) for value, _ in self.program.results]
        full = [v for v in results if not self.row[v]]
        if full:
            yield "for place in range(start, end, C):"
            yield from ("    " + text for text in self.tile("place"))
            for text in map(self.line, self.closure(full, known)):
                yield "    " + text
            for text in self.stores(rows=False):
                yield "    " + text
        yield from map(
            self.line, self.closure([v for v in results if self.row[v]], known)
        )
        yield from self.stores(rows=True)

    def text(self) -> str:
        """Return the source."""
        results = len(self.program.results)
        pointers = [f"q{i}" for i in range(results)] + [
            f"p{i}" for i in range(self.count)
        ]
        parameters = ", ".join(
            [*pointers, *self.names(), "R: constexpr", "C: constexpr"]
        )
        lines = [
            "k = (tl.program_id(0) % splits).to(tl.int64)",
            "at = (tl.program_id(0) // splits).to(tl.int64) * R",
            "r = (at + tl.arange(0, R))[:, None]",
            "start = k * chunk",
            "end = tl.minimum(start + chunk, cols)",
        ]
        lines += self.places("r", self.form.rows)
        lines += self.loops() if self.form.looped else self.resident()
        body = "\n".join("    " + line for line in lines)
        return f"def pointwise_kernel({parameters}):\n{body}\n"


def within(step: Step) -> str:
    """Return what a reduction reduces, with nothing added outside of the tensors."""
    return f"tl.where((r < rows) & (c < cols), {step.args[0]}, {EMPTY[step.name]})"


@functools.lru_cache(4096)
def kernel_of(program: str, form: Form) -> Any:
    """Generate a kernel. Triton reads the source again, from where Python keeps it."""
    text = Source(parse(program), form).text()
    file = f"<pointwise {len(linecache.cache)}: {program[:40]}>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    space: dict[str, Any] = dict(GIVEN)
    exec(compile(text, file, "exec"), space)
    return jit(space["pointwise_kernel"])


GIVEN = {
    "__name__": __name__,
    "tl": tl,
    "constexpr": tl.constexpr,
    "log1p": log1p,
    "expm1": expm1,
    "tanh": tanh,
    "widened": widened,
}
"""What the source of a kernel may name."""
