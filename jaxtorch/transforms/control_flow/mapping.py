"""``map``: a function of one slice, slice after slice."""

from collections.abc import Callable
from typing import Any

import torch

from jaxtorch.core.opaque import opaque
from jaxtorch.errors import ArgumentError, explain
from jaxtorch.transforms.control_flow.forms import separate
from jaxtorch.transforms.control_flow.scanning import length_of, scan_leaves
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.vmap import vmap


@opaque
def map(f: Callable[[Any], Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """Apply ``f`` to each slice of ``xs``, one after the other, and stack the results.

    The results are those of ``vmap(f)(xs)``; memory is that of one slice at a time, and
    the function may branch on values outside of ``jit``.

    Args:
        f: a function of one slice.
        xs: a pytree of tensors that are sliced along dim 0.
        batch_size: run this many slices at a time under ``vmap``.

    Returns:
        What ``f`` returns, with each tensor stacked along a new dim 0.

    Raises:
        ArgumentError: (a ValueError) for ``xs`` that have different lengths, or none,
            and a ``batch_size`` below one.
        ArgumentTypeError: (a TypeError) for ``xs`` that are not tensors.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.map(lambda x: x.sum(), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([3., 7.])

    Source: the signature and behaviour of ``jax.lax.map``.
    """
    where = Where("map", f)
    length = length_of(where, xs, None)
    leaves, form = separate(xs)
    if batch_size is None:
        return map_leaves(where, f, (leaves, form), length)
    if batch_size < 1:
        raise ArgumentError(
            explain(
                where,
                f"batch_size should be None or greater than 0, got {batch_size}.",
                "pass a positive int, or None for one slice at a time",
            )
        )
    mapped = vmap(f, randomness="different")
    whole = length // batch_size
    full = whole * batch_size
    pieces = []
    if whole:
        chunks = [x[:full].reshape(whole, batch_size, *x.shape[1:]) for x in leaves]
        out, made = separate(map_leaves(where, mapped, (chunks, form), whole))
        pieces.append([y.reshape(full, *y.shape[2:]) for y in out])
    if full < length or not whole:
        out, made = separate(mapped(form.join([x[full:] for x in leaves])))
        pieces.append(out)
    return made.join([torch.cat(column) for column in zip(*pieces, strict=True)])


def map_leaves(where: object, f: Callable[[Any], Any], xs: Any, length: int) -> Any:
    """As ``map``, with flat xs and without batches."""
    return scan_leaves(where, lambda carry, x: ((), f(x)), separate(()), xs, length)[1]
