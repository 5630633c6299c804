"""Views and the calls that put tensors side by side."""

from typing import Any

import torch

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import Form, OpaqueError
from jaxtorch.staging.multilinear.operators.arguments import argument, rank_of, shape_of
from jaxtorch.staging.multilinear.reading import Reader, Reading
from jaxtorch.staging.passes.rewriting import PERMUTES, RESHAPES, order_of

aten = torch.ops.aten


def same_dtype(reader: Reader, node: Any) -> Form:
    """The same values: alias, clone, a copy to the same dtype and device."""
    source = node.args[0]
    if source.meta["val"].dtype != node.meta["val"].dtype:
        raise OpaqueError
    if source.meta["device"] != node.meta["device"]:
        raise OpaqueError
    return reader.of(source)


def reshape(reader: Reader, node: Any) -> Form:
    """Every view that keeps the row-major order."""
    return algebra.reshaped(reader.of(node.args[0]), shape_of(node))


def expand(reader: Reader, node: Any) -> Form:
    """Broadcast."""
    return algebra.expanded(reader.of(node.args[0]), shape_of(node))


def permute(reader: Reader, node: Any) -> Form:
    """Any order of the dims."""
    return algebra.permuted(reader.of(node.args[0]), order_of(node))


def select(reader: Reader, node: Any) -> Form:
    """One element of a dim."""
    source, dim, index = node.args
    shape = shape_of(source)
    dim %= len(shape)
    form = algebra.windowed(reader.of(source), dim, index % shape[dim], 1)
    return algebra.reshaped(form, shape_of(node))


def take(reader: Reader, node: Any) -> Form:
    """A slice with step one."""
    dim = argument(node, 1, 0) % rank_of(node)
    length = shape_of(node.args[0])[dim]
    if argument(node, 4, 1) != 1:
        raise OpaqueError
    start = argument(node, 2, 0) or 0
    start = min(max(start + length if start < 0 else start, 0), length)
    form = reader.of(node.args[0])
    return algebra.windowed(form, dim, start, shape_of(node)[dim])


def split(reader: Reader, node: Any) -> Form:
    """One part of a split, or one slice of an unbind."""
    call, place = node.args
    source = call.args[0]
    shape = shape_of(source)
    if call.target is aten.unbind.int:
        dim = argument(call, 1, 0) % len(shape)
        form = algebra.windowed(reader.of(source), dim, place % shape[dim], 1)
        return algebra.reshaped(form, shape_of(node))
    dim = argument(call, 2, 0) % len(shape)
    start = sum(value.shape[dim] for value in call.meta["val"][:place])
    return algebra.windowed(reader.of(source), dim, start, shape_of(node)[dim])


def concatenate(reader: Reader, node: Any) -> Form:
    """Tensors side by side: each is placed in the whole."""
    dim = argument(node, 1, 0) % rank_of(node)
    length = shape_of(node)[dim]
    start = 0
    terms: Form = ()
    for part in node.args[0]:
        if len(shape_of(part)) != rank_of(node):
            raise OpaqueError
        terms += algebra.placed(reader.of(part), dim, start, length)
        start += shape_of(part)[dim]
    return terms


def stack(reader: Reader, node: Any) -> Form:
    """Tensors along a new dim."""
    dim = argument(node, 1, 0) % rank_of(node)
    terms: Form = ()
    for place, part in enumerate(node.args[0]):
        shape = shape_of(part)
        shape.insert(dim, 1)
        form = algebra.reshaped(reader.of(part), shape)
        terms += algebra.placed(form, dim, place, len(node.args[0]))
    return terms


def pad(reader: Reader, node: Any) -> Form:
    """Zeros around; what is padded by a negative number is cut off."""
    source, pads = node.args[:2]
    if argument(node, 2, 0) != 0:
        raise OpaqueError
    shape, given = shape_of(node), shape_of(source)
    form = reader.of(source)
    for i in range(0, len(pads), 2):
        dim = len(shape) - 1 - i // 2
        before, after = pads[i : i + 2]
        cut, kept = max(-before, 0), given[dim] + min(before, 0) + min(after, 0)
        if kept <= 0:
            return ()
        if kept < given[dim]:
            form = algebra.windowed(form, dim, cut, kept)
        if kept < shape[dim]:
            form = algebra.placed(form, dim, max(before, 0), shape[dim])
    return form


def untake(reader: Reader, node: Any) -> Form:
    """The transpose of a slice with step one."""
    source, shape, dim, start, _, step = node.args
    dim %= len(shape)
    if step != 1:
        raise OpaqueError
    start = min(max(start + shape[dim] if start < 0 else start, 0), shape[dim])
    return algebra.placed(reader.of(source), dim, start, shape[dim])


def unselect(reader: Reader, node: Any) -> Form:
    """The transpose of taking one element of a dim."""
    source, shape, dim, index = node.args
    dim %= len(shape)
    one = [1 if d == dim else n for d, n in enumerate(shape)]
    form = algebra.reshaped(reader.of(source), one)
    return algebra.placed(form, dim, index % shape[dim], shape[dim])


def take_diagonal(reader: Reader, node: Any) -> Form:
    """The main diagonal of two dims of one length."""
    source = node.args[0]
    shape = shape_of(source)
    first, second = argument(node, 2, 0), argument(node, 3, 1)
    first, second = first % len(shape), second % len(shape)
    if argument(node, 1, 0) != 0 or shape[first] != shape[second]:
        raise OpaqueError
    return algebra.diagonal(reader.of(source), first, second)


def embed_diagonal(reader: Reader, node: Any) -> Form:
    """The last dim on the diagonal of two new ones."""
    rank = rank_of(node)
    if argument(node, 1, 0) != 0:
        raise OpaqueError
    first, second = argument(node, 2, -2) % rank, argument(node, 3, -1) % rank
    return algebra.diag_embedded(reader.of(node.args[0]), first, second)


READINGS: dict[Any, Reading] = {
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(PERMUTES, permute),
    **dict.fromkeys((aten.alias.default, aten.clone.default), same_dtype),
    aten.expand.default: expand,
    aten.select.int: select,
    aten.slice.Tensor: take,
    **dict.fromkeys(
        (aten.split_with_sizes.default, aten.split.Tensor, aten.unbind.int), split
    ),
    aten.cat.default: concatenate,
    aten.stack.default: stack,
    aten.constant_pad_nd.default: pad,
    aten.slice_backward.default: untake,
    aten.select_backward.default: unselect,
    aten.diagonal.default: take_diagonal,
    aten.diag_embed.default: embed_diagonal,
}
