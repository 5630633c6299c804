"""The standard basis that the Jacobian transforms push through a linear map."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.level import paused
from jaxtorch.transforms.taping import filled
from jaxtorch.transforms.vmap import vmap


def map_basis(
    linear: Callable[..., list[Any]],
    like: Sequence[Tensor],
    chunk_size: int | None,
    randomness: str,
    pure: bool = False,
) -> list[Any]:
    """Map ``linear`` over the standard basis of the space of the tensors ``like``.

    ``linear`` takes one tensor per entry of ``like``, of its shape. It is called
    without ``vmap`` with ``chunk_size`` one, and for a single basis vector where it is
    ``pure``: where it runs no code of the user.
    """
    total = sum(leaf.numel() for leaf in like)
    if total == 1 and pure:
        if len(like) == 1:
            return [out.unsqueeze(0) for out in linear(filled(like[0], 1))]
    if chunk_size == 1 and total > 0:
        rows = [
            linear(*(b[0] for b in basis_rows(like, index, 1, total)))
            for index in range(total)
        ]
        return [joined(torch.stack, column) for column in zip(*rows, strict=True)]
    mapped = vmap(linear, randomness=randomness)
    size = total if chunk_size is None or chunk_size > total else chunk_size
    if size == total:
        return list(mapped(*basis_rows(like, 0, total, total)))
    pieces = [
        mapped(*basis_rows(like, start, min(size, total - start), total))
        for start in range(0, total, size)
    ]
    return [joined(torch.cat, column) for column in zip(*pieces, strict=True)]


def joined(join: Callable[[list[Tensor]], Tensor], column: Sequence[Any]) -> Any:
    """Join one output's pieces; one that is no tensor is the same in all."""
    return join(list(column)) if isinstance(column[0], Tensor) else column[0]


def map_directions(
    derive: Callable[[tuple[Tensor, ...]], Any],
    like: Sequence[Tensor],
    chunk_size: int | None,
    randomness: str,
) -> tuple[list[Tensor], Any, Any]:
    """Map the derivative along one direction over the standard basis.

    ``derive`` takes a direction and returns ``(tangent, aux)``, two trees, or
    ``(tangent,)``. The result is the tangents' leaves, each with a leading dim of one
    entry per direction; the structure of the tangent; and the aux of one direction, on
    which it does not depend.
    """
    seen: dict[str, Any] = {}

    def push(*basis: Tensor) -> list[Any]:
        tangent, *rest = derive(basis)
        outs, seen["spec"] = pytree.flatten(tangent)
        aux, seen["aux"] = pytree.flatten(rest)
        return [*outs, *aux]

    mapped = map_basis(push, like, chunk_size, randomness)
    count = seen["spec"].num_leaves
    aux = [a[0] if isinstance(a, Tensor) else a for a in mapped[count:]]
    rest = pytree.unflatten(aux, seen["aux"])
    return mapped[:count], seen["spec"], rest[0] if rest else None


def basis_rows(
    like: Sequence[Tensor], start: int, length: int, total: int
) -> list[Tensor]:
    """As ``make_rows``, plain also under an open transform."""
    with paused():
        return make_rows(like, start, length, total)


def make_rows(
    like: Sequence[Tensor], start: int, length: int, total: int
) -> list[Tensor]:
    """Return basis vectors ``start`` to ``start + length``, cut and shaped by tensor.

    Each result has shape ``[length, *leaf.shape]``.
    """
    if len(like) == 1 and length == total:
        leaf = like[0]
        eye = torch.eye(total, dtype=leaf.dtype, device=leaf.device)
        return [eye if leaf.dim() == 1 else eye.reshape(total, *leaf.shape)]
    out = []
    offset = 0
    for leaf in like:
        size = leaf.numel()
        row = torch.arange(start - offset, start - offset + length, device=leaf.device)
        column = torch.arange(size, device=leaf.device)
        ones = (row.unsqueeze(1) == column).to(leaf.dtype)
        out.append(ones.reshape(length, *leaf.shape))
        offset += size
    return out
