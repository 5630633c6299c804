"""Elementwise programs, with reductions of rows, as one kernel each.

The kernel is generated from the program and from how its operands broadcast. Rows that
fit into registers are read once, however many reductions a program has; longer ones are
read once for each reduction that waits for another.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch.kernels.language import (
    DTYPES,
    LARGEST_GRID,
    Config,
    cdiv,
    launch,
)
from jaxtorch.kernels.operator import define
from jaxtorch.kernels.program import number_of, parse, run
from jaxtorch.kernels.source import Form, Source, kernel_of

# pointwise: all results of a program


def pointwise_reference(
    operands: Sequence[Tensor], program: str, dims: Sequence[int]
) -> list[Tensor]:
    """Run the program in ATen; the results are contiguous."""
    # Traffic: each operand is read once, each result written once.
    shape = torch.broadcast_shapes(*[x.shape for x in operands])
    own = parse(program)
    values = run(own, operands, dims)
    results = []
    for value, like in own.results:
        x = values[number_of(value)]
        to = row_shape(shape, dims) if is_row(x.shape, shape, dims) else shape
        x = x.to(operands[like].dtype).expand(to)
        results.append(torch.clone(x, memory_format=torch.contiguous_format))
    return results


def is_row(own: Sequence[int], shape: Sequence[int], dims: Sequence[int]) -> bool:
    """Tell whether a tensor is constant along each row."""
    missing = len(shape) - len(own)
    return bool(dims) and all(d < missing or own[d - missing] == 1 for d in dims)


def row_shape(shape: Sequence[int], dims: Sequence[int]) -> list[int]:
    """Return the shape of what there is one of for each row."""
    return [1 if d in dims else s for d, s in enumerate(shape)]


POINTWISE_CONFIGS = {
    "stream": Config(
        "no reduction: two 16 byte loads of each operand in flight in a thread",
        {"TILE": 2048},
    ),
    "short rows": Config("rows of at most 2048, several in a program", {"TILE": 2048}),
    "wide rows": Config(
        "rows of at most 8192 in the registers of 16 warps",
        {"TILE": 8192},
        num_warps=16,
    ),
    "long rows": Config(
        "rows in a loop; where there are few of them each is split",
        {"TILE": 4096},
        num_warps=8,
    ),
}
PROGRAMS = 264
"""How many programs keep an H100 busy: two for each multiprocessor."""


class Layout(NamedTuple):
    """How the tensors of a call lie along rows.

    Attributes:
        rows: sizes of the dims that number the rows, after merging.
        cols: sizes of the dims that a row has, after merging.
        strides: for each tensor, along ``rows`` and then along ``cols``.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


Dim = tuple[int, tuple[int, ...]]
MOST_DIMS = 3


def merged(shape: Sequence[int], strides: list[tuple[int, ...]]) -> list[Dim]:
    """Merge neighboring dims that all tensors step through evenly."""
    found: list[Dim] = []
    for d, size in enumerate(shape):
        own = tuple(s[d] for s in strides)
        if size == 1:
            continue
        if found and found[-1][1] == tuple(s * size for s in own):
            found[-1] = (found[-1][0] * size, own)
        else:
            found.append((size, own))
    return found


def layout_of(
    shape: Sequence[int], strides: list[tuple[int, ...]], dims: Sequence[int]
) -> Layout | None:
    """Lay out the tensors in rows; None where there are too many dims."""

    def part(own: list[int]) -> list[Dim]:
        return merged(
            [shape[d] for d in own], [tuple(s[d] for d in own) for s in strides]
        )

    rows = part([d for d in range(len(shape)) if d not in dims])
    if dims:
        row = part(sorted(dims))
    else:
        row, rows = rows[-1:], rows[:-1]
    if max(len(row), len(rows)) > MOST_DIMS:
        return None
    both = [*rows, *row]
    by_tensor = [tuple(own[t] for _, own in both) for t in range(len(strides))]
    return Layout(
        tuple(size for size, _ in rows),
        tuple(size for size, _ in row),
        tuple(by_tensor),
    )


def power_above(size: int) -> int:
    """Return the least power of two that is not less."""
    return 1 << max(size - 1, 0).bit_length()


@functools.lru_cache(4096)
def facts(program: str, rows: tuple[bool, ...]) -> tuple[tuple[bool, ...], bool]:
    """Tell which results there are one of for each row, and whether rows may be split.

    They may where every reduction is a sum that only the caller reads.
    """
    own = parse(program)
    source = Source(own, Form(0, 0, (), rows, False))
    results = [number_of(value) for value, _ in own.results]
    sums = source.reductions()
    splits = (
        all(v in sums for v in results if source.row[v])
        and all(own.steps[v - own.operands].name == "sum" for v in sums)
        and not any(source.needs[v] & set(sums) for v in range(len(source.needs)))
    )
    return tuple(source.row[v] for v in results), splits


def pointwise(
    operands: Sequence[Tensor],
    program: str,
    dims: Sequence[int],
    config: Config | None = None,
) -> list[Tensor]:
    """Launch a program for each tile of whole rows, or for each tile of elements."""
    shape = torch.broadcast_shapes(*[x.shape for x in operands])
    if 0 in shape:
        return pointwise_reference(operands, program, dims)
    rows = tuple(is_row(x.shape, shape, dims) for x in operands)
    of_rows, splittable = facts(program, rows)
    own = parse(program)
    by_row = row_shape(shape, dims)
    outs = [
        operands[like].new_empty(by_row if of_row else shape)
        for (_, like), of_row in zip(own.results, of_rows, strict=True)
    ]
    none = (0,) * len(shape)
    strides = [x.expand(shape).stride() for x in operands]
    strides += [
        none if of_row else out.stride()
        for out, of_row in zip(outs, of_rows, strict=True)
    ]
    layout = layout_of(shape, strides, dims)
    if layout is None:
        return rearranged(operands, program, dims, config)
    config = config or config_for(layout, bool(dims))
    splits = splits_of(layout, config, bool(dims), splittable)
    buffers = outs
    if splits > 1 and dims:
        count = math.prod(layout.rows)
        buffers = [
            out.new_empty(count, splits, dtype=torch.float32) if of_row else out
            for out, of_row in zip(outs, of_rows, strict=True)
        ]
    run_kernel(program, rows, layout, config, splits, operands, buffers)
    return [
        out if out is buffer else buffer.sum(1).to(out.dtype).reshape(by_row)
        for out, buffer in zip(outs, buffers, strict=True)
    ]


def rearranged(
    operands: Sequence[Tensor], program: str, dims: Sequence[int], config: Config | None
) -> list[Tensor]:
    """Copy the operands into an order of dims in which all of them merge, and back."""
    shape = torch.broadcast_shapes(*[x.shape for x in operands])
    order = [d for d in range(len(shape)) if d not in dims] + sorted(dims)
    back = sorted(range(len(order)), key=order.__getitem__)
    dense = []
    for x in operands:
        to = row_shape(shape, dims) if is_row(x.shape, shape, dims) else shape
        dense.append(x.expand(to).permute(order).contiguous())
    own = list(range(len(order) - len(dims), len(order)))
    return [
        out.permute(back).contiguous() for out in pointwise(dense, program, own, config)
    ]


def config_for(layout: Layout, in_rows: bool) -> Config:
    """Choose by the length of the rows."""
    if not in_rows:
        return POINTWISE_CONFIGS["stream"]
    for name in ("short rows", "wide rows"):
        if math.prod(layout.cols) <= POINTWISE_CONFIGS[name].blocks["TILE"]:
            return POINTWISE_CONFIGS[name]
    return POINTWISE_CONFIGS["long rows"]


def splits_of(layout: Layout, config: Config, in_rows: bool, splittable: bool) -> int:
    """Return how many programs share a row."""
    tile, cols = config.blocks["TILE"], math.prod(layout.cols)
    if not in_rows:
        return cdiv(cols, tile)
    if config is not POINTWISE_CONFIGS["long rows"] or not splittable:
        return 1
    return min(cdiv(cols, tile), cdiv(PROGRAMS, math.prod(layout.rows)))


def run_kernel(
    program: str,
    rows: tuple[bool, ...],
    layout: Layout,
    config: Config,
    splits: int,
    operands: Sequence[Tensor],
    outs: Sequence[Tensor],
) -> None:
    """Generate the kernel and launch it."""
    looped = config is POINTWISE_CONFIGS["long rows"]
    steps = tuple(tuple(s != 0 for s in strides) for strides in layout.strides)
    form = Form(len(layout.rows), len(layout.cols), steps, rows, looped)
    tile, count, cols = config.blocks["TILE"], *map(math.prod, layout[:2])
    width = min(power_above(cols), tile)
    height = 1 if looped else min(max(tile // width, 1), power_above(count))
    chunk = cdiv(cdiv(cols, splits), width) * width
    strides = [s for own in layout.strides for s in own if s != 0]
    launch(
        kernel_of(program, form),
        (cdiv(count, height) * splits,),
        replace(config, blocks={"R": height, "C": width}),
        *outs,
        *operands,
        *(count, cols, chunk, splits),
        *(*layout.rows[1:], *layout.cols[1:], *strides),
    )


OTHER_DTYPES = (torch.bool, torch.int64)
MOST_OPERANDS = 16


def pointwise_supports(
    operands: Sequence[Tensor], program: str, dims: Sequence[int]
) -> bool:
    """Tell whether the operands are few, on one device, and of dtypes of kernels."""
    device = operands[0].device
    own = parse(program)
    return (
        len(operands) <= MOST_OPERANDS
        and all(
            (x.dtype in DTYPES or x.dtype in OTHER_DTYPES) and x.device == device
            for x in operands
        )
        and all(operands[like].dtype in DTYPES for _, like in own.results)
        and math.prod(torch.broadcast_shapes(*[x.shape for x in operands]))
        < LARGEST_GRID * 64
    )


def pointwise_flops(
    operands: Any, program: str, dims: Any, *args: Any, **unused: Any
) -> int:
    """Count one operation for each step and element."""
    size: int = math.prod(torch.broadcast_shapes(*operands))
    return size * len(parse(program).steps)


POINTWISE = define(
    "pointwise(Tensor[] operands, str program, int[] dims) -> Tensor[]",
    reference=pointwise_reference,
    launcher=pointwise,
    supports=pointwise_supports,
    flops=pointwise_flops,
)
