"""Gathers and scatters: products with one-hots."""

from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import (
    Factor,
    Form,
    Label,
    OneHot,
    OpaqueError,
    Term,
    fresh,
    labels_in,
)
from jaxtorch.staging.multilinear.operators.arguments import (
    argument,
    mapped,
    rank_of,
    shape_of,
)
from jaxtorch.staging.multilinear.operators.creation import count_from, shifted
from jaxtorch.staging.multilinear.reading import Reader, Reading, is_atom

aten = torch.ops.aten


INTEGERS = {torch.int64, torch.int32}


def embedding(reader: Reader, node: Any) -> Form:
    """Rows of a table: ``sum_v [v == index] table[v, d]``."""
    table, index = node.args[:2]
    return gather(reader, node, table, 0, index)


def index_select(reader: Reader, node: Any) -> Form:
    """Elements along one dim."""
    source, dim, index = node.args
    return gather(reader, node, source, dim % rank_of(source), index)


def index(reader: Reader, node: Any) -> Form:
    """Indexing by one integer tensor."""
    source, indices = node.args
    given = [d for d, i in enumerate(indices) if i is not None]
    if len(given) != 1:
        raise OpaqueError
    return gather(reader, node, source, given[0], indices[given[0]])


def gather(reader: Reader, node: Any, source: Any, dim: int, index: Any) -> Form:
    """``source[..., index, ...]`` for a structured source."""
    form = reader.of(source)
    if is_atom(form):
        raise OpaqueError
    value = index.meta["val"]
    length = shape_of(source)[dim]
    one_hot = one_hot_term(reader, index, length, node.meta["val"].dtype)
    names: list[Any] = [f"s{d}" for d in range(rank_of(source))]
    others: list[Any] = [f"i{d}" for d in range(value.dim())] + [f"s{dim}"]
    out = names[:dim] + others[:-1] + names[dim + 1 :]
    return algebra.contract(form, names, (one_hot,), others, out)


def one_hot_term(reader: Reader, index: Any, length: int, dtype: Any) -> Term:
    """Return ``[label == index]`` with the dims of the index, then the label."""
    value = index.meta["val"]
    if length == 1 or value.numel() == 0 or value.dtype not in INTEGERS:
        raise OpaqueError
    seen = fresh(mapped(reader, index, lambda x: x)[0])
    label = Label(length)
    atom = seen.atoms[0]
    start = count_from(atom.source)
    indicator: Factor = OneHot(atom, label, dtype)
    if start is not None and start >= 0 and len(labels_in(atom)) == 1:
        indicator = shifted(label, 0, labels_in(atom)[0], start)
    return Term(1, (indicator,), (*seen.axes, (label,)))


def scatter_rows(reader: Reader, node: Any) -> Form:
    """The gradient of a table: ``sum_t [v == index[t]] g[t, d]``."""
    g, index, length, padding, scaled = node.args
    if scaled or padding >= 0:
        raise OpaqueError
    dtype = node.meta["val"].dtype
    places: list[Any] = [f"i{d}" for d in range(rank_of(index))]
    batched = offset_by_batch(reader, index, length)
    if batched is None:
        one_hot = one_hot_term(reader, index, length, dtype)
        return algebra.contract(
            reader.of(g), [*places, "d"], (one_hot,), [*places, "v"], ["v", "d"]
        )
    index, dim, rows = batched
    one_hot = one_hot_term(reader, index, rows, dtype)
    start = len(places) - rank_of(index)
    form = algebra.contract(
        reader.of(g),
        [*places, "d"],
        (one_hot,),
        [*places[start:], "v"],
        [*places, "v", "d"],
    )
    form = algebra.diag_embedded(
        algebra.permuted(form, [d for d in range(len(places) + 2) if d != dim] + [dim]),
        0,
        1,
    )
    gone = list(range(1, len(places) + 1))
    return algebra.reshaped(algebra.summed(form, gone, False), shape_of(node))


def offset_by_batch(
    reader: Reader, index: Any, length: int
) -> tuple[Any, int, int] | None:
    """Tell whether an index is ``x + rows * arange(batch)`` along one of its dims.

    That is how a batch of tables is laid out as one. Returns ``x``, the dim, and how
    many rows each table has.
    """
    if index.target is not aten.add.Tensor:
        return None
    for x, shift in (index.args, index.args[::-1]):
        if not isinstance(x, fx.Node) or not isinstance(shift, fx.Node):
            continue
        term = mapped(reader, shift, lambda x: x)[0]
        source = term.atoms[0].source
        rank = rank_of(index) - rank_of(shift)
        dims = [rank + d for d, axis in enumerate(term.axes) if axis]
        if getattr(source, "target", None) is aten.mul.Tensor and len(dims) == 1:
            counts, rows = source.args
            whole = isinstance(rows, int) and rows * shape_of(index)[dims[0]] == length
            if whole and count_from(counts) == 0:
                return x, dims[0], rows
    return None


def put(reader: Reader, node: Any) -> Form:
    """Values added to zeros at indices."""
    base, indices, values = node.args[:3]
    given = [d for d, i in enumerate(indices) if i is not None]
    if reader.of(base) != () or not argument(node, 3, False) or not given:
        raise OpaqueError
    if given != list(range(given[0], given[-1] + 1)):
        raise OpaqueError
    shape = shape_of(base)
    places = [indices[d].meta["val"] for d in given]
    if any(p.dtype not in INTEGERS for p in places):
        raise OpaqueError
    depth = max(p.dim() for p in places)
    before, after = given[0], len(shape) - given[-1] - 1
    names: list[Any] = [f"s{d}" for d in range(before)]
    names += [f"i{d}" for d in range(depth)]
    names += [f"s{d}" for d in range(given[-1] + 1, len(shape))]
    common = torch.broadcast_shapes(*[p.shape for p in places])
    whole = [*shape[:before], *common, *shape[len(shape) - after :]]
    form = algebra.expanded(reader.of(values), whole)
    for dim, place in zip(given, places, strict=True):
        one_hot = one_hot_term(reader, indices[dim], shape[dim], node.meta["val"].dtype)
        others = [f"i{d}" for d in range(depth - place.dim(), depth)] + [f"v{dim}"]
        out = [*names, f"v{dim}"]
        form = algebra.contract(form, names, (one_hot,), others, out)
        names = out
    wanted = [f"v{d}" if d in given else f"s{d}" for d in range(len(shape))]
    return algebra.contract(form, names, (Term(1, (), ()),), [], wanted)


READINGS: dict[Any, Reading] = {
    aten.embedding.default: embedding,
    aten.index_select.default: index_select,
    aten.index.Tensor: index,
    aten.embedding_dense_backward.default: scatter_rows,
    aten.index_put.default: put,
}
