"""Look-ups as loops: what indices choose is read, or written, where they point."""

from typing import Any

import torch

from jaxtorch.staging.native.loops import Line, Nest, Place, Scalar
from jaxtorch.staging.native.parts import put, type_of
from jaxtorch.staging.native.views import Mapping, broadcast
from jaxtorch.staging.native.writer import Writer, identity
from jaxtorch.staging.passes.rewriting import value_of

aten = torch.ops.aten


def looked_up(
    w: Writer,
    nest: Nest,
    index: Any,
    mapping: Mapping,
    size: int,
    dim: int,
    wraps: bool,
) -> str:
    """Write an index with its check; returns its name."""
    given = w.read(nest, index, mapping)
    name = w.fresh("at")
    w.faults.append(f"an index is out of bounds for dimension {dim} with size {size}")
    nest.body.append(Line(f"long long {name} = {given.text};"))
    if wraps:
        nest.body.append(Line(f"if ({name} < 0) {name} += {size};"))
    refuse = f"{{ fault = {len(w.faults)}; {name} = 0; }}"
    nest.body.append(Line(f"if ((unsigned long long){name} >= {size}) {refuse}"))
    return name


def chosen(
    w: Writer,
    nest: Nest,
    source: Any,
    indices: Any,
    mapping: Mapping,
    wraps: bool = True,
) -> Place:
    """Return the place of ``source[indices]``; the dims that have an index are one run.

    ``mapping`` is that of the result.
    """
    value = value_of(source)
    start = w.place(nest, source, (None,) * value.dim())
    first = next(d for d, index in enumerate(indices) if index is not None)
    given = indices[first:]
    rank = max(value_of(index).dim() for index in given)
    middle = mapping[first : first + rank]
    moves = []
    for d, index in enumerate(given, first):
        shape = value_of(index).shape
        loops = zip(shape, middle[rank - len(shape) :], strict=True)
        own = tuple(None if n == 1 else m for n, m in loops)
        name = looked_up(w, nest, index, own, int(value.shape[d]), d, wraps)
        moves.append(f"{name} * {int(value.stride(d))}")
    strides = [0] * len(nest.sizes)
    left = list(enumerate(mapping[:first]))
    left += list(enumerate(mapping[first + rank :], first + len(given)))
    for d, loop in left:
        if loop is not None:
            strides[loop] += int(value.stride(d))
    return Place(start.buffer, start.offset, tuple(strides), " + ".join(moves))


def load(w: Writer, nest: Nest, node: Any, place: Place) -> Scalar:
    """Load an element of a result from a place."""
    name, type_ = w.fresh(), type_of(node)
    nest.body.append(Line(f"const {type_} {name} = @;", place))
    return Scalar(name, type_)


def element_of_index(w: Writer, nest: Nest, node: Any, mapping: Mapping) -> Scalar:
    """Load an element of ``x[indices]``."""
    indices = without_rest(node.args[1])
    return load(w, nest, node, chosen(w, nest, node.args[0], indices, mapping))


def element_of_index_select(
    w: Writer, nest: Nest, node: Any, mapping: Mapping
) -> Scalar:
    """Load an element of what ``index_select`` chooses."""
    source, dim, index = node.args
    indices = [None] * (dim % value_of(source).dim()) + [index]
    return load(w, nest, node, chosen(w, nest, source, indices, mapping, wraps=False))


def element_of_embedding(w: Writer, nest: Nest, node: Any, mapping: Mapping) -> Scalar:
    """Load an element of a row of the table."""
    source, index = node.args[:2]
    return load(w, nest, node, chosen(w, nest, source, [index], mapping, wraps=False))


def without_rest(indices: Any) -> list[Any]:
    """Drop what stands behind the last index."""
    given = [d for d, index in enumerate(indices) if index is not None]
    return list(indices[: given[-1] + 1]) if given else []


def write_index_put(w: Writer, node: Any) -> None:
    """Copy the first argument, and write, or add, values where the indices say."""
    base, indices, values, *rest = node.args
    put(w, node, base, value_of(node))
    indices = without_rest(indices)
    with torch._C._DisableTorchDispatch():
        own = [None if i is None else value_of(i) for i in indices]
        shape = tuple(aten.index.Tensor(value_of(node), own).shape)
    nest = w.over(shape)
    value = w.read(nest, values, broadcast(values, node, identity(shape)))
    place = chosen(w, nest, node, indices, identity(shape))
    sign = "+=" if rest and rest[0] else "="
    nest.body.append(Line(f"@ {sign} {value.text};", place))
