"""Functions of tensors under one more transform: batched, pushed forward, split."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.core import alias
from jaxtorch.core.batching import BatchLevel, BatchTensor
from jaxtorch.core.batching import wrap as wrap_batch
from jaxtorch.core.forward import DualTensor, ForwardLevel
from jaxtorch.core.forward import wrap as wrap_dual
from jaxtorch.core.watching import open_batch
from jaxtorch.staging.subgraph import Function, Kind, kind_of, trace


def differentiable(value: Any) -> bool:
    """Tell whether the dtype of a tensor or of a kind has derivatives."""
    return bool(value.dtype.is_floating_point or value.dtype.is_complex)


def run_batched(
    func: Function, level: BatchLevel, dims: Sequence[int | None], values: Sequence[Any]
) -> tuple[list[Any], list[int | None]]:
    """Call a function of one example on a batch; returns values and batch dims."""
    inner = open_batch(level.size, level.randomness, level.strict)
    with inner:
        outs = func(
            *[
                value if dim is None else wrap_batch(inner, value, dim)
                for value, dim in zip(values, dims, strict=True)
            ]
        )
        pairs = [batch_parts(inner, out) for out in outs]
    return [value for value, _ in pairs], [dim for _, dim in pairs]


def batch_parts(level: BatchLevel, out: Tensor) -> tuple[Tensor, int | None]:
    """Return the value and the batch dim of an output."""
    if type(out) is BatchTensor and out.level is level:
        if out.alias is not None:
            alias.refresh(out)
        return out.value, out.batch_dim
    return out, None


def batched(
    func: Function,
    level: BatchLevel,
    dims: Sequence[int | None],
    wanted: Sequence[bool],
) -> Function:
    """Return the function of a batch; the wanted outputs are batched at dim 0."""

    def run(*values: Any) -> list[Any]:
        outs, out_dims = run_batched(func, level, dims, values)
        return [
            at_front(out, dim, level.size) if want else out
            for out, dim, want in zip(outs, out_dims, wanted, strict=True)
        ]

    return run


def at_front(value: Tensor, dim: int | None, size: int) -> Tensor:
    """Return ``value`` with its batch dim in front, repeated where it has none."""
    if dim is None:
        return value.unsqueeze(0).expand(size, *value.shape)
    return value if dim == 0 else value.movedim(dim, 0)


def batched_outputs(
    func: Function, level: BatchLevel, dims: Sequence[int | None], kinds: Sequence[Kind]
) -> list[bool]:
    """Find out which outputs differ between the examples, by a trace thrown away."""
    found: list[bool] = []

    def run(*values: Any) -> list[Any]:
        outs, out_dims = run_batched(func, level, dims, values)
        found.extend(dim is not None for dim in out_dims)
        return outs

    trace("vmap", run, kinds)
    return found


def pushed(func: Function, wanted: Sequence[bool]) -> Function:
    """Return ``(*values, *tangents of the wanted) -> (*outs, *their tangents)``.

    Only outputs that have derivatives have a tangent.
    """

    def run(*leaves: Any) -> list[Any]:
        count = len(wanted)
        tangents = iter(leaves[count:])
        level = ForwardLevel()
        with level:
            outs = func(
                *[
                    wrap_dual(level, value, next(tangents)) if want else value
                    for value, want in zip(leaves[:count], wanted, strict=True)
                ]
            )
            pairs = [dual_parts(level, out) for out in outs]
        return [value for value, _ in pairs] + [
            torch.zeros_like(value) if tangent is None else tangent
            for value, tangent in pairs
            if differentiable(value)
        ]

    return run


def dual_parts(level: ForwardLevel, out: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the primal and the tangent of an output."""
    if type(out) is DualTensor and out.level is level:
        if out.alias is not None:
            alias.refresh(out)
        return out.value, out.tangent
    return out, None


def with_zeros(values: Sequence[Tensor], tangents: Sequence[Any]) -> list[Tensor]:
    """Replace the tangents (or cotangents) that are None by zeros."""
    return [
        torch.zeros_like(value) if tangent is None else tangent
        for value, tangent in zip(values, tangents, strict=True)
    ]


def zeros_of(kind: Kind) -> Tensor:
    """Return zeros of a kind that take up no memory."""
    return torch.zeros((), dtype=kind.dtype, device=kind.device).expand(kind.shape)


def kinds_of(values: Sequence[Tensor]) -> list[Kind]:
    """Return the kinds of several tensors."""
    return [kind_of(value) for value in values]
