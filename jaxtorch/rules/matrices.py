"""Helpers for stacks of matrices: batch dims go in front. No operator by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.rules.batching import to_front
from jaxtorch.rules.record import BatchRule


def stack_batch(call: Callable[..., Any]) -> BatchRule:
    """Batch an op of one stack of matrices."""

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return call(to_front(x, dims[0]), *args, **kwargs), 0

    return batch


def partial_batch(call: Callable[..., Any], is_whole: Callable[..., bool]) -> BatchRule:
    """As ``stack_batch`` for an op with outputs that are empty by its settings.

    ``is_whole(*args)`` says that none is; otherwise those that are [0] are not batched.
    """

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = tuple(call(to_front(x, dims[0]), *args, **kwargs))
        if is_whole(*args):
            return out, 0
        return out, tuple(None if o.shape == (0,) else 0 for o in out)

    return batch


def stacks_batch(call: Callable[..., Any], *cores: int) -> BatchRule:
    """Batch an op of several stacks, all brought to the same leading dims.

    ``cores`` are for the first arguments the number of dims that are not leading.
    """

    def batch(size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        count = len(cores)
        stacks = same_leading(size, args[:count], dims, cores)
        return call(*stacks, *args[count:], **kwargs), 0

    return batch


def same_leading(size: int, args: Any, dims: Any, cores: Any) -> list[Tensor]:
    """Expand stacks to a leading batch dim and the same leading dims behind it."""
    rank = max(
        a.dim() - (d is not None) - core
        for a, d, core in zip(args, dims, cores, strict=False)
    )
    aligned = [
        with_leading(a, d, core, rank)
        for a, d, core in zip(args, dims, cores, strict=False)
    ]
    leading = torch.broadcast_shapes(
        (size, *[1] * rank), *[a.shape[: rank + 1] for a in aligned]
    )
    return [
        a.expand(*leading, *a.shape[rank + 1 :])
        if a.shape[: rank + 1] != leading
        else a
        for a in aligned
    ]


def with_leading(x: Tensor, dim: int | None, core: int, rank: int) -> Tensor:
    """Bring a stack to a batch dim, of size one if it has none, and ``rank`` dims."""
    x = x.unsqueeze(0) if dim is None else to_front(x, dim)
    missing = rank + 1 + core - x.dim()
    if missing:
        x = x.reshape(x.shape[0], *[1] * missing, *x.shape[1:])
    return x


def fold_columns(x: Tensor, dim: int, left: bool) -> Tensor:
    """Fold a batch of matrices into the columns, or without ``left`` into the rows."""
    if left:
        return x.movedim(dim, -1).flatten(-2)
    return x.movedim(dim, -3).flatten(-3, -2)


def unfold_columns(x: Tensor, size: int, left: bool) -> tuple[Tensor, int]:
    """Undo ``fold_columns``; returns the value and its batch dim."""
    if left:
        x = torch.unflatten(x, -1, (x.shape[-1] // max(size, 1), size))
        return x, x.dim() - 1
    x = torch.unflatten(x, -2, (size, x.shape[-2] // max(size, 1)))
    return x, x.dim() - 3
