"""Helpers for operators on [N, C, *spatial] and [C, *spatial]: examples fold into N.

No operator by name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.operator import General, Output, Transposed, Zero
from jaxtorch.linear.selection import Selection
from jaxtorch.rules.batching import batched_at_front, rank_of
from jaxtorch.rules.record import BatchRule, Record


def fold(value: Tensor, dim: int | None, size: int, rank: int) -> Tensor:
    """Fold the batch dim into N; an example without N gets the batch dim as N."""
    leading = rank_of(value, dim) - rank
    value = batched_at_front(value, dim, size)
    if leading == 2:
        value = value.flatten(0, 1)
    # Some kernels take the strides of what they don't expect to be expanded, and of
    # their indices, for granted and read past the end.
    if dim is None or not value.is_floating_point():
        return value.contiguous()
    return value


def example(value: Tensor, dim: int | None) -> Tensor:
    """Return a tensor with the shape of one example, for what only asks for shapes."""
    if dim is None:
        return value
    shape = list(value.shape)
    del shape[dim]
    return value.new_empty(shape)


def planes_batch(call: OpOverload, rank: int, like: int | None = None) -> BatchRule:
    """Batch an op on planes of ``rank`` spatial dims.

    All tensors among the arguments have N, or none has. Of the argument at the place
    ``like`` only the shape is read.
    """

    def batch(size: int, dims: Any, *args: Any) -> tuple[Any, int | None]:
        if like is not None and all(d is None for i, d in enumerate(dims) if i != like):
            own = [example(a, d) if i == like else a for i, (a, d) in pairs(args, dims)]
            return call(*own), None
        own = list(args)
        for place, (arg, dim) in pairs(args, dims):
            if place == like and dim is None:
                arg = arg.new_empty(size, *arg.shape)
                dim = 0
            if isinstance(arg, Tensor):
                own[place] = fold(arg, dim, size, rank)
        return unfold(call(*own), args[0], dims[0], size, rank), 0

    return batch


def pairs(args: Any, dims: Any) -> Any:
    """Return place, argument and batch dim of all arguments."""
    return enumerate(zip(args, dims, strict=True))


def unfold(out: Any, like: Tensor, dim: int | None, size: int, rank: int) -> Any:
    """Undo in an output, or several, what ``fold`` did to the input ``like``."""
    if rank_of(like, dim) - rank == 1:
        return out
    sizes = (size, like.shape[1 if dim == 0 else 0])
    if isinstance(out, Tensor):
        return torch.unflatten(out, 0, sizes)
    return tuple(o if o is None else torch.unflatten(o, 0, sizes) for o in out)


def filled(args: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Append the schema's defaults of the arguments that were left out."""
    return args + defaults[len(args) :]


def selection_pair(
    forward: OpOverload,
    backward: OpOverload,
    rank: int,
    *defaults: Any,
    batch: BatchRule | None = None,
) -> tuple[Record, Record]:
    """Make the records of ``forward(x, *args) -> (out, indices)`` and of its backward.

    The backward kernel is ``backward(grad, x, *args, indices)``, with the first of the
    ``args`` that it has room for, and reads of ``x`` only the shape.
    """
    shared = len(backward._schema.arguments) - 3

    def linearize(wanted: Any, x: Tensor, *args: Any) -> Any:
        args = filled(args, defaults)
        out = forward(x, *args)
        indices = out[1]
        own = (x, *args[:shared], indices)
        operator = Selection(indices, rank, lambda grad: backward(grad, *own))
        return out, (Output(operator, 0, 2),)

    def backward_linearize(wanted: Any, grad: Tensor, *args: Any) -> Any:
        operator = Selection(args[-1], rank, lambda grad: backward(grad, *args))
        return backward(grad, *args), (Transposed(operator), Zero())

    return (
        Record(forward, batch or planes_batch(forward, rank), linearize),
        Record(backward, planes_batch(backward, rank, 1), backward_linearize),
    )


def linear_pair(
    forward: OpOverload,
    backward: OpOverload,
    rank: int,
    *defaults: Any,
    settings: Callable[..., tuple[Any, ...]] | None = None,
    kernel_settings: Callable[..., tuple[Any, ...]] | None = None,
) -> tuple[Record, Record]:
    """Make the records of a linear ``forward(x, *args)`` and its transpose.

    The transpose is ``backward(grad, x, *args)``, which reads only the shape of ``x``.
    Where the further arguments of the two differ, ``settings(grad, *backward_args)``
    gives those of ``forward`` and ``kernel_settings(*args)`` those of ``backward``.
    """

    def linearize(wanted: Any, x: Tensor, *args: Any) -> Any:
        args = filled(args, defaults)
        own = kernel_settings(*args) if kernel_settings else args
        operator = General(lambda t: forward(t, *args), lambda c: backward(c, x, *own))
        return forward(x, *args), (operator,)

    def backward_linearize(wanted: Any, grad: Tensor, x: Tensor, *args: Any) -> Any:
        own = settings(grad, *args) if settings else args
        operator = General(lambda t: backward(t, x, *args), lambda c: forward(c, *own))
        return backward(grad, x, *args), (operator, Zero())

    return (
        Record(forward, planes_batch(forward, rank), linearize),
        Record(backward, planes_batch(backward, rank, 1), backward_linearize),
    )
