"""Views of the same elements: view, permute, select, slice, expand, split."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.broadcast import Broadcast
from jaxtorch.linear.operator import Identity
from jaxtorch.linear.reindex import Pieces, Reindex
from jaxtorch.rules.batching import physical, physical_dims, to_front, unary_batch
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def example_size(size: Any, numel: int) -> list[int]:
    """Replace the -1 in ``size`` for an example of ``numel`` elements."""
    known = 1
    for n in size:
        if n != -1:
            known *= n
    return [numel // known if n == -1 and known else n for n in size]


def view_batch(size: int, dims: Any, x: Tensor, shape: Any) -> Any:
    """Keep the batch dim in front and view the rest."""
    x = to_front(x, dims[0])
    if -1 in shape:
        shape = example_size(shape, x.shape[1:].numel())
    return x.reshape(size, *shape), 0


def view_linearize(wanted: Any, x: Tensor, shape: Any) -> Any:
    """A view of the tangent; the transpose views back."""
    return torch.reshape(x, shape), (
        Reindex(torch.reshape, (shape,), torch.reshape, (x.shape,)),
    )


def expand_batch(
    size: int, dims: Any, x: Tensor, shape: Any, *, implicit: bool = False
) -> Any:
    """Insert the new dims behind the batch dim, then expand."""
    x = to_front(x, dims[0])
    missing = len(shape) - (x.dim() - 1)
    if missing:
        x = x.reshape(size, *[1] * missing, *x.shape[1:])
    return x.expand(size, *shape), 0


def expand_linearize(
    wanted: Any, x: Tensor, shape: Any, *, implicit: bool = False
) -> Any:
    """The transpose of expand is a sum."""
    out = x.expand(shape)
    return out, (Broadcast(x.shape, out.shape),)


def permute_batch(size: int, dims: Any, x: Tensor, order: Any) -> Any:
    """Permute the dims of the example."""
    x = to_front(x, dims[0])
    rank = x.dim() - 1
    return x.permute(0, *[physical(d, rank) for d in order]), 0


def permute_linearize(wanted: Any, x: Tensor, order: Any) -> Any:
    """The transpose is the inverse permutation."""
    out = torch.permute(x, order)
    rank = x.dim()
    forward = [d % rank for d in order]
    inverse = [0] * rank
    for place, d in enumerate(forward):
        inverse[d] = place
    return out, (Reindex(torch.permute, (forward,), torch.permute, (inverse,)),)


def transpose_batch(size: int, dims: Any, x: Tensor, dim0: int, dim1: int) -> Any:
    """Swap two dims of the example."""
    x = to_front(x, dims[0])
    rank = x.dim() - 1
    first, second = physical(dim0, rank), physical(dim1, rank)
    return torch.transpose(x, first, second) if rank else x, 0


def transpose_linearize(wanted: Any, x: Tensor, dim0: int, dim1: int) -> Any:
    """Swapping two dims is its own transpose."""
    swap = (dim0, dim1)
    return torch.transpose(x, dim0, dim1), (
        Reindex(torch.transpose, swap, torch.transpose, swap),
    )


def t_batch(size: int, dims: Any, x: Tensor) -> Any:
    """Swap the two dims of the example, if it has two."""
    if x.dim() < 3:
        return x, dims[0]
    return torch.transpose(to_front(x, dims[0]), 1, 2), 0


def t_linearize(wanted: Any, x: Tensor) -> Any:
    """Swapping two dims is its own transpose."""
    return torch.t(x), (Reindex(torch.t, (), torch.t, ()),)


def unsqueeze_batch(size: int, dims: Any, x: Tensor, dim: int) -> Any:
    """Insert a dim into the example."""
    x = to_front(x, dims[0])
    return torch.unsqueeze(x, physical(dim, x.dim())), 0


def unsqueeze_linearize(wanted: Any, x: Tensor, dim: int) -> Any:
    """The transpose removes the dim."""
    return torch.unsqueeze(x, dim), (
        Reindex(torch.unsqueeze, (dim,), torch.reshape, (x.shape,)),
    )


def squeeze_batch(size: int, dims: Any, x: Tensor, which: Any = None) -> Any:
    """Remove dims of size one from the example, never the batch dim."""
    x = to_front(x, dims[0])
    rank = x.dim() - 1
    if which is None or isinstance(which, int):
        chosen = physical_dims(which, rank)
    else:
        chosen = [physical(d, rank) for d in which]
    return torch.squeeze(x, chosen) if rank else x, 0


def squeeze_linearize(wanted: Any, x: Tensor, *which: Any) -> Any:
    """The transpose puts the dims of size one back."""
    out = torch.squeeze(x, *which)
    return out, (Reindex(torch.reshape, (out.shape,), torch.reshape, (x.shape,)),)


def select_batch(size: int, dims: Any, x: Tensor, dim: int, index: Any) -> Any:
    """Select along a dim of the example."""
    x = to_front(x, dims[0])
    return torch.select(x, physical(dim, x.dim() - 1), index), 0


def select_linearize(wanted: Any, x: Tensor, dim: int, index: Any) -> Any:
    """The transpose puts the slice into zeros."""
    return torch.select(x, dim, index), (
        Reindex(torch.select, (dim, index), select_transpose, (x.shape, dim, index)),
    )


def select_transpose(g: Tensor, shape: torch.Size, dim: int, index: Any) -> Any:
    """Put ``g`` at ``index`` of ``dim`` into zeros of ``shape``."""
    return aten.select_backward.default(g, shape, dim, index)


def slice_batch(
    size: int,
    dims: Any,
    x: Tensor,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
) -> Any:
    """Slice along a dim of the example."""
    x = to_front(x, dims[0])
    return aten.slice.Tensor(x, physical(dim, x.dim() - 1), start, end, step), 0


def slice_linearize(
    wanted: Any,
    x: Tensor,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
) -> Any:
    """The transpose puts the slice into zeros."""
    args = (dim, start, end, step)
    first = 0 if start is None else start
    last = x.shape[dim] if end is None else end
    return aten.slice.Tensor(x, *args), (
        Reindex(
            aten.slice.Tensor,
            args,
            aten.slice_backward.default,
            (x.shape, dim, first, last, step),
        ),
    )


def diagonal_batch(
    size: int, dims: Any, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Any:
    """Take the diagonal of two dims of the example."""
    x = to_front(x, dims[0])
    rank = x.dim() - 1
    return torch.diagonal(x, offset, physical(dim1, rank), physical(dim2, rank)), 0


def diagonal_linearize(
    wanted: Any, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Any:
    """The transpose puts the diagonal into zeros."""
    args = (offset, dim1, dim2)
    return torch.diagonal(x, *args), (
        Reindex(torch.diagonal, args, aten.diagonal_backward.default, (x.shape, *args)),
    )


def placing_back(overload: OpOverload, take: Callable[..., Tensor]) -> Record:
    """Make the record of ``*_backward(g, shape, *where)``, which fills zeros with g.

    It is the transpose of ``take(x, *where)``.
    """

    def batch(size: int, dims: Any, g: Tensor, shape: Any, *where: Any) -> Any:
        g = to_front(g, dims[0])
        rank = len(shape)
        shifted = shift_where(overload, where, rank)
        return overload(g, [size, *shape], *shifted), 0

    def linearize(wanted: Any, g: Tensor, shape: Any, *where: Any) -> Any:
        return overload(g, shape, *where), (
            Reindex(overload, (shape, *where), take, where),
        )

    return Record(overload, batch, linearize)


def shift_where(overload: OpOverload, where: Any, rank: int) -> list[Any]:
    """Map the dims among the arguments of a ``*_backward`` op past the batch dim."""
    if overload is aten.diagonal_backward.default:
        offset, dim1, dim2 = where
        return [offset, physical(dim1, rank), physical(dim2, rank)]
    return [physical(where[0], rank), *where[1:]]


def pieces_batch(call: Callable[..., Any]) -> Any:
    """Cut along a dim of the example; the dim is the last argument."""

    def batch(size: int, dims: Any, x: Tensor, *args: Any) -> Any:
        x = to_front(x, dims[0])
        sizes, dim = args if len(args) == 2 else (args[0], 0)
        return call(x, sizes, physical(dim, x.dim() - 1)), 0

    return batch


def unbind_batch(size: int, dims: Any, x: Tensor, dim: int = 0) -> Any:
    """Unbind a dim of the example."""
    x = to_front(x, dims[0])
    return list(torch.unbind(x, physical(dim, x.dim() - 1))), 0


def pieces_linearize(call: Callable[..., Any], stacked: bool) -> Any:
    """The transpose joins the pieces; the dim is the last argument."""

    def linearize(wanted: Any, x: Tensor, *args: Any) -> Any:
        outs = list(call(x, *args))
        dim = args[-1] if len(args) == (1 if stacked else 2) else 0
        shapes = [out.shape for out in outs]
        return outs, (Pieces(lambda t: call(t, *args), dim, shapes, stacked),)

    return linearize


def pieces(overload: OpOverload, call: Callable[..., Any]) -> Record:
    """Make the record of an op that cuts a tensor into several along a dim."""
    return Record(overload, pieces_batch(call), pieces_linearize(call, False))


def identity_linearize(wanted: Any, x: Tensor) -> Any:
    """The derivative of an alias is the identity."""
    return aten.alias.default(x), (Identity(),)


def view_record(overload: OpOverload) -> Record:
    """Make the record of one of the ways to say view."""
    return Record(overload, view_batch, view_linearize)


RECORDS = (
    view_record(aten.view.default),
    view_record(aten._unsafe_view.default),
    view_record(aten.reshape.default),
    Record(aten.expand.default, expand_batch, expand_linearize),
    Record(aten.permute.default, permute_batch, permute_linearize),
    Record(aten.transpose.int, transpose_batch, transpose_linearize),
    Record(aten.t.default, t_batch, t_linearize),
    Record(aten.unsqueeze.default, unsqueeze_batch, unsqueeze_linearize),
    Record(aten.squeeze.default, squeeze_batch, squeeze_linearize),
    Record(aten.squeeze.dim, squeeze_batch, squeeze_linearize),
    Record(aten.squeeze.dims, squeeze_batch, squeeze_linearize),
    Record(aten.select.int, select_batch, select_linearize),
    Record(aten.slice.Tensor, slice_batch, slice_linearize),
    Record(aten.diagonal.default, diagonal_batch, diagonal_linearize),
    placing_back(aten.select_backward.default, torch.select),
    placing_back(aten.slice_backward.default, aten.slice.Tensor),
    placing_back(aten.diagonal_backward.default, torch.diagonal),
    pieces(aten.split.Tensor, torch.split),
    pieces(aten.split_with_sizes.default, torch.split_with_sizes),
    Record(aten.unbind.int, unbind_batch, pieces_linearize(torch.unbind, True)),
    Record(aten.alias.default, unary_batch(aten.alias.default), identity_linearize),
    Record(
        aten.detach.default, unary_batch(torch.detach), zero_derivative(torch.detach)
    ),
)
