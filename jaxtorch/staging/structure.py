"""``jit(f, structure=True)``: results of which only diagonals are not zero."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx

from jaxtorch import pytree
from jaxtorch.core.level import STATE
from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.banded import Banded, extent
from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import (
    Axis,
    Form,
    Label,
    OpaqueError,
    Term,
    Window,
    size_of,
)
from jaxtorch.staging.multilinear.operators.table import TABLES
from jaxtorch.staging.multilinear.reading import PATHS, Reader
from jaxtorch.staging.passes.pipeline import Work, clean_up
from jaxtorch.staging.tracer import TraceLevel

Place = tuple[dict[Label, int], int]
"""A row or column as a sum of labels times strides, and a number."""


def with_structure(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function to be staged that returns ``Banded`` where that is smaller."""

    @functools.wraps(func)
    def structured(*args: Any, **kwargs: Any) -> Any:
        level = STATE.levels[-1]
        if not isinstance(level, TraceLevel):
            raise UsageError(
                explain(
                    f"jit({getattr(func, '__name__', 'f')}, structure=True)",
                    "it was called inside of a transform, where no graph is at hand.",
                    "put jit outside: jit(vmap(f), structure=True)",
                )
            )
        leaves, spec = pytree.flatten(func(*args, **kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        handles = [level.handle(tensor) for tensor in tensors]
        forms = iter(forms_of(level.graph, [handle.node for handle in handles]))
        return pytree.unflatten(
            [
                as_banded(leaf, next(forms)) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ],
            spec,
        )

    return structured


def forms_of(graph: fx.Graph, nodes: list[fx.Node]) -> list[Form | None]:
    """Return the normal forms of nodes, read off a copy that was cleaned up."""
    copy, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    copy.graph_copy(graph, copies)
    copy.output([copies[node] for node in nodes])
    clean_up(copy, Work(copy, "full", False, False))
    reader = Reader(copy, PATHS, TABLES)
    (results,) = next(node for node in copy.nodes if node.op == "output").args
    return [reader.meanings.get(n) or reader.forms.get(n) for n in results]


def as_banded(value: Tensor, form: Form | None) -> Any:
    """Return the bands of a matrix, if its form has bands that are smaller than it."""
    if not form or value.dim() < 2:
        return value
    try:
        offsets = sorted({offset_of(term) for term in form})
        for offset in offsets:
            band_of(form, value.shape, offset)
    except OpaqueError:
        return value
    bands = [diagonal(value, offset) for offset in offsets]
    if 2 * sum(band.shape[-1] for band in bands) > value.shape[-2] * value.shape[-1]:
        return value
    return Banded(offsets, bands, value.shape)


def diagonal(value: Tensor, offset: int) -> Tensor:
    """Return one diagonal, as the main one of a part."""
    row, column, length = extent(value.shape, offset)
    part = value.narrow(-2, row, length).narrow(-1, column, length)
    return part.diagonal(0, -2, -1)


def band_of(form: Form, shape: Any, offset: int) -> Form:
    """Return the form of a diagonal."""
    row, column, length = extent(shape, offset)
    rank = len(shape)
    form = algebra.windowed(form, rank - 2, row, length)
    form = algebra.windowed(form, rank - 1, column, length)
    return algebra.diagonal(form, rank - 2, rank - 1)


def offset_of(term: Term) -> int:
    """Return the diagonal that a term lies on."""
    windows = {f.big: f for f in term.factors if isinstance(f, Window)}
    rows, row = place_of(term.axes[-2], windows)
    columns, column = place_of(term.axes[-1], windows)
    if rows != columns:
        raise OpaqueError
    return column - row


def place_of(axis: Iterable[Label], windows: dict[Label, Window]) -> Place:
    """Return what an axis counts in labels that no window determines."""
    labels: Axis = tuple(axis)
    strides: dict[Label, int] = {}
    start = 0
    for i, label in enumerate(labels):
        stride = size_of(labels[i + 1 :])
        window = windows.get(label)
        if window is None:
            strides[label] = strides.get(label, 0) + stride
            continue
        inner, first = place_of(window.small, windows)
        start += stride * (first + window.offset)
        for other, count in inner.items():
            strides[other] = strides.get(other, 0) + stride * count
    return strides, start
