"""ATen calls that are not elementwise, as loops: sums, products, parts, look-ups."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels.program import REDUCTIONS as STEPS_OF_ROWS
from jaxtorch.staging.native.look_ups import (
    element_of_embedding,
    element_of_index,
    element_of_index_select,
    write_index_put,
)
from jaxtorch.staging.native.loops import Line, Nest, Place
from jaxtorch.staging.native.parts import fill, part_of, put, type_of
from jaxtorch.staging.native.scalars import literal
from jaxtorch.staging.native.views import Mapping, broadcast
from jaxtorch.staging.native.writer import Element, Fits, Whole, Writer, identity
from jaxtorch.staging.passes.rewriting import row_strides, value_of

aten = torch.ops.aten
FEW = 4
"""So few numbers in a row are not worth a loop over them in the middle of another."""
ADD = STEPS_OF_ROWS["sum"].c


# Sums and the like.


def summed_dims(node: Any) -> list[int]:
    """Return the dims that a reduction drops."""
    rank = value_of(node.args[0]).dim()
    dims = node.args[1] if len(node.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    return sorted(d % rank for d in (dims or range(rank))) if rank else []


def reduction(start: str, step: str, mean: bool = False) -> Whole:
    """Return the writer of a reduction: how it starts, and what it does with two."""
    adds = step == ADD

    def write(w: Writer, node: Any) -> None:
        source = node.args[0]
        shape = value_of(source).shape
        dims = summed_dims(node)
        count = math.prod(shape[d] for d in dims) if mean else 1
        last = [d for d in range(len(shape)) if shape[d] > 1][-1:]
        if adds and dims and last and last[0] not in dims and shape[last[0]] >= FEW:
            add_rows(w, node, dims, count)
            return
        kept = [d for d in range(len(shape)) if d not in dims]
        order = kept + dims
        nest = w.add(Nest(tuple(shape[d] for d in order), len(kept)))
        mapping = tuple(None if n == 1 else order.index(d) for d, n in enumerate(shape))
        name, type_ = w.fresh("sum"), type_of(node)
        nest.before.append(Line(f"{type_} {name} = {start};"))
        value = w.read(nest, source, mapping)
        nest.body.append(Line(f"{name} = {step.format(value.text, name)};"))
        nest.sums += [name] if adds else []
        strides = result_strides(node, dims)
        place = Place(w.buffer(node), 0, tuple(strides[d] for d in order))
        share = f" / {literal(count, type_)}" if count != 1 else ""
        nest.after.append(Line(f"@ = {name}{share};", place))

    return write


def result_strides(node: Any, dims: list[int]) -> tuple[int, ...]:
    """Return how a reduction's result steps along each dim of its argument."""
    rank = value_of(node.args[0]).dim()
    own = value_of(node).stride()
    keeps = len(own) == rank
    steps = (s for d, s in enumerate(own) if not (keeps and d in dims))
    return tuple(0 if d in dims else next(steps) for d in range(rank))


def add_rows(w: Writer, node: Any, dims: list[int], count: int) -> None:
    """Add row after row to the result, whose last dim the sum keeps."""
    source = node.args[0]
    fill(w, node, 0)
    nest = w.over(value_of(source).shape)
    value = w.read(nest, source, identity(nest.sizes))
    place = Place(w.buffer(node), 0, result_strides(node, dims))
    nest.body.append(Line(f"@ += {value.text};", place))
    if count != 1:
        nest = w.over(value_of(node).shape)
        place = w.place(nest, node, identity(nest.sizes))
        nest.body.append(Line(f"@ /= {literal(count, type_of(node))};", place))


# Parts of a result.


def into_zeros(view: Callable[..., Tensor], skipped: int = 1) -> Whole:
    """Return the writer of a call that puts its first argument into zeros."""

    def write(w: Writer, node: Any) -> None:
        fill(w, node, 0)
        part = part_of(node, view, *node.args[1 + skipped :], **node.kwargs)
        put(w, node, node.args[0], part)

    return write


def into_copy(view: Callable[..., Tensor]) -> Whole:
    """Return the writer of a call that puts its second argument into the first."""

    def write(w: Writer, node: Any) -> None:
        put(w, node, node.args[0], value_of(node))
        part = part_of(node, view, *node.args[2:], **node.kwargs)
        put(w, node, node.args[1], part)

    return write


def diagonal_of(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Return the diagonal that ``diag_embed`` fills."""
    return x.diagonal(offset, dim1, dim2)


def write_pad(w: Writer, node: Any) -> None:
    """Write a constant, and the argument inside."""
    source, pads, *rest = node.args
    fill(w, node, rest[0] if rest else 0)
    shape = value_of(source).shape
    starts = [0] * (len(shape) - len(pads) // 2) + list(pads[-2::-2])
    inside = [slice(s, s + n) for s, n in zip(starts, shape, strict=True)]
    put(w, node, source, part_of(node, Tensor.__getitem__, tuple(inside)))


def write_cat(w: Writer, node: Any) -> None:
    """Write one argument behind the other."""
    sources = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else 0
    at = 0
    for source in sources:
        size = value_of(source).shape[dim]
        put(w, node, source, part_of(node, torch.narrow, dim, at, size))
        at += size


def write_stack(w: Writer, node: Any) -> None:
    """Write each argument into its place of the new dim."""
    sources = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else 0
    for place, source in enumerate(sources):
        put(w, node, source, part_of(node, torch.select, dim, place))


def write_eye(w: Writer, node: Any) -> None:
    """Write zeros, and ones on the diagonal."""
    fill(w, node, 0)
    diagonal = part_of(node, torch.diagonal)
    nest = w.over(diagonal.shape)
    place = w.part(nest, node, diagonal, value_of(node))
    nest.body.append(Line(f"@ = {literal(1, type_of(node))};", place))


def write_reshape(w: Writer, node: Any) -> None:
    """Copy the elements in their order: a view that memory does not allow."""
    source = node.args[0]
    nest = w.over(value_of(source).shape)
    value = w.read(nest, source, identity(nest.sizes))
    place = Place(w.buffer(node), 0, row_strides(nest.sizes))
    nest.body.append(Line(f"@ = {value.text};", place))


# Products of matrices.


def product(first: int) -> Whole:
    """Return the writer of a product of two (batches of) matrices or vectors.

    Args:
        first: which argument is the first factor; one before it is added.
    """

    def write(w: Writer, node: Any) -> None:
        left, right = node.args[first : first + 2]
        kwargs = node.kwargs
        added = node.args[0] if first and kwargs.get("beta") != 0 else None
        write_product(
            w, node, left, right, added, kwargs.get("alpha", 1), kwargs.get("beta", 1)
        )

    return write


def write_product(
    w: Writer, node: Any, left: Any, right: Any, added: Any, alpha: Any, beta: Any
) -> None:
    """Write ``beta added + alpha left @ right``.

    The sums run along rows where that is how the right factor lies in memory, else row
    after row is added.
    """
    a, b, out = value_of(left), value_of(right), value_of(node)
    batch = tuple(out.shape[:-2]) if a.dim() == 3 else ()
    rows = a.shape[-2] if a.dim() > 1 else 1
    inner, columns = a.shape[-1], b.shape[-1] if b.dim() > 1 else 1
    free = tuple(range(len(batch)))
    i, j, k = (len(batch) + n for n in range(3))
    type_ = type_of(node)
    along = columns < FEW or b.stride(b.dim() - 1 - (b.dim() > 1)) == 1
    if along:
        nest = w.add(Nest((*batch, rows, columns, inner), len(batch) + 2))
    else:
        if added is None:
            fill(w, node, 0)
        else:
            nest = w.over(out.shape)
            own = identity(nest.sizes)
            value = w.read(nest, added, broadcast(added, node, own))
            text = times(value.text, beta, type_)
            nest.body.append(Line(f"@ = {text};", w.place(nest, node, own)))
        nest = w.add(Nest((*batch, rows, inner, columns), len(batch) + 3))
        j, k = k, j

    def mapped(value: Tensor, *loops: int) -> Mapping:
        own = (*free, *loops) if value.dim() == 3 else loops
        return tuple(
            None if n == 1 else m for n, m in zip(value.shape, own, strict=True)
        )

    x = w.read(nest, left, mapped(a, *((i, k) if a.dim() > 1 else (k,))))
    y = w.read(nest, right, mapped(b, *((k, j) if b.dim() > 1 else (k,))))
    loops = [i] * (a.dim() > 1) + [j] * (b.dim() > 1)
    place = w.place(nest, node, mapped(out, *loops))
    term = times(f"{x.text} * {y.text}", alpha, type_)
    if not along:
        nest.body.append(Line(f"@ += {term};", place))
        return
    name = w.fresh("sum")
    nest.before.append(Line(f"{type_} {name} = 0;"))
    nest.body.append(Line(f"{name} += {x.text} * {y.text};"))
    nest.sums.append(name)
    total = times(name, alpha, type_)
    if added is not None:
        own = broadcast(added, node, mapped(out, *loops))
        here = len(nest.body)
        value = w.read(nest, added, own)
        nest.after += nest.body[here:]
        del nest.body[here:]
        total = f"{times(value.text, beta, type_)} + {total}"
    nest.after.append(Line(f"@ = {total};", place))


def times(text: str, factor: Any, type_: str) -> str:
    """Return a multiple of a term."""
    return text if factor == 1 else f"{literal(factor, type_)} * ({text})"


# What there is, and when.


def is_number(node: Any) -> bool:
    """Tell whether a call takes and makes floating point numbers of one dtype."""
    dtypes = {value_of(n).dtype for n in [node, *node.all_input_nodes]}
    return len(dtypes) == 1 and value_of(node).is_floating_point()


def is_sum(node: Any) -> bool:
    """Tell whether a reduction has no dtype of its own and reduces something."""
    return is_number(node) and not node.kwargs and value_of(node.args[0]).numel() > 0


def is_short_product(node: Any) -> bool:
    """Tell whether a product is so small that a call of BLAS takes longer."""
    if not is_number(node):
        return False
    factors = node.args[-2:] if len(node.args) > 2 else node.args
    products = value_of(factors[0]).numel() * (
        value_of(factors[1]).shape[-1] if value_of(factors[1]).dim() > 1 else 1
    )
    return 0 < products <= MOST_PRODUCTS


def keeps_dtype(node: Any) -> bool:
    """Tell whether a call only moves numbers."""
    return all(value_of(n).dtype == value_of(node).dtype for n in node.all_input_nodes)


def is_pad(node: Any) -> bool:
    """Tell whether a call pads and cuts nothing off."""
    return keeps_dtype(node) and all(p >= 0 for p in node.args[1])


def has_indices(node: Any) -> bool:
    """Tell whether integers index dims that are neighbours."""
    source, indices = node.args[0], node.args[1]
    given = [d for d, index in enumerate(indices) if index is not None]
    if not given or given != list(range(given[0], given[-1] + 1)):
        return False
    if len(node.args) > 2 and value_of(node.args[2]).dtype != value_of(source).dtype:
        return False
    if len(node.args) > 3 and node.args[3] and value_of(source).dtype is torch.bool:
        return False
    own = [value_of(indices[d]).dtype for d in given]
    return all(dtype in (torch.int64, torch.int32) for dtype in own)


def has_integers(node: Any) -> bool:
    """Tell whether what a look-up takes for an index is one."""
    index = node.args[2] if node.target is aten.index_select.default else node.args[1]
    indexed = value_of(index).dtype in (torch.int64, torch.int32)
    return indexed and value_of(node.args[0]).dim() > 0


def always(node: Any) -> bool:
    """Ask for nothing."""
    return True


MOST_PRODUCTS = 2**14
"""More multiplications are left to BLAS."""
SUM = reduction("0", ADD)
MEAN = reduction("0", ADD, mean=True)
LARGEST = reduction("-__builtin_inf()", STEPS_OF_ROWS["max"].c)
SMALLEST = reduction("__builtin_inf()", "{0} < {1} || {0} != {0} ? {0} : {1}")
ELEMENTS: dict[Any, tuple[Element, Fits]] = {
    aten.index.Tensor: (element_of_index, has_indices),
    aten.index_select.default: (element_of_index_select, has_integers),
    aten.embedding.default: (element_of_embedding, has_integers),
}
"""Calls of which any element can be computed alone, beside the elementwise ones."""
REDUCTIONS: dict[Any, tuple[Whole, Fits]] = {
    aten.sum.default: (SUM, is_sum),
    aten.sum.dim_IntList: (SUM, is_sum),
    aten.mean.default: (MEAN, is_sum),
    aten.mean.dim: (MEAN, is_sum),
    aten.amax.default: (LARGEST, is_sum),
    aten.amin.default: (SMALLEST, is_sum),
}
"""Calls that read their argument once."""
WHOLES: dict[Any, tuple[Whole, Fits]] = {
    **REDUCTIONS,
    aten.mm.default: (product(0), is_short_product),
    aten.bmm.default: (product(0), is_short_product),
    aten.mv.default: (product(0), is_short_product),
    aten.dot.default: (product(0), is_short_product),
    aten.addmm.default: (product(1), is_short_product),
    aten.addmv.default: (product(1), is_short_product),
    aten.baddbmm.default: (product(1), is_short_product),
    aten.slice_backward.default: (into_zeros(aten.slice.Tensor), keeps_dtype),
    aten.select_backward.default: (into_zeros(aten.select.int), keeps_dtype),
    aten.diagonal_backward.default: (into_zeros(torch.diagonal), keeps_dtype),
    aten.diag_embed.default: (into_zeros(diagonal_of, skipped=0), keeps_dtype),
    aten.slice_scatter.default: (into_copy(aten.slice.Tensor), keeps_dtype),
    aten.select_scatter.default: (into_copy(aten.select.int), keeps_dtype),
    aten.diagonal_scatter.default: (into_copy(torch.diagonal), keeps_dtype),
    aten.constant_pad_nd.default: (write_pad, is_pad),
    aten.cat.default: (write_cat, always),
    aten.stack.default: (write_stack, always),
    aten.eye.default: (write_eye, always),
    aten.eye.m: (write_eye, always),
    aten.view.default: (write_reshape, always),
    aten._unsafe_view.default: (write_reshape, always),
    aten.reshape.default: (write_reshape, always),
    aten.index_put.default: (write_index_put, has_indices),
}
"""Calls that are nests of their own."""
