"""Padding: constant, reflection, replication, and the backward of the latter two."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.operator import Zero
from jaxtorch.linear.placement import EdgePad, Pad
from jaxtorch.rules.batching import batched_at_front, to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def constant_pad_nd_batch(
    size: int, dims: Any, x: Tensor, pad: Sequence[int], value: Any = 0
) -> Any:
    """Pad the last dims, which never are the batch dim once it is in front."""
    return torch.constant_pad_nd(to_front(x, dims[0]), pad, value), 0


def constant_pad_nd_linearize(
    wanted: Any, x: Tensor, pad: Sequence[int], value: Any = 0
) -> Any:
    """Linear: the tangent is padded with zeros."""
    return torch.constant_pad_nd(x, pad, value), (Pad(pad),)


def fold(value: Tensor, spatial: int) -> Tensor:
    """Merge all dims in front of the channels into one batch of images."""
    images = value.shape[: value.dim() - spatial - 1].numel()
    return value.reshape(images, *value.shape[value.dim() - spatial - 1 :])


def edge_pad(name: str, spatial: int) -> tuple[Record, Record]:
    """Make the records of a reflection or replication pad and of its backward."""
    forward: OpOverload = getattr(aten, name).default
    backward: OpOverload = getattr(aten, f"{name}_backward").default

    def batch(size: int, dims: Any, x: Tensor, padding: Sequence[int]) -> Any:
        x = to_front(x, dims[0])
        out = forward(fold(x, spatial), padding)
        return out.reshape(*x.shape[:-spatial], *out.shape[-spatial:]), 0

    def linearize(wanted: Any, x: Tensor, padding: Sequence[int]) -> Any:
        return forward(x, padding), (EdgePad(forward, backward, x.shape, padding),)

    def backward_batch(
        size: int, dims: Any, grad: Tensor, x: Tensor, padding: Sequence[int]
    ) -> Any:
        grad = batched_at_front(grad, dims[0], size)
        x = batched_at_front(x, dims[1], size)
        out = backward(fold(grad, spatial), fold(x, spatial), padding)
        return out.reshape(x.shape), 0

    def backward_linearize(
        wanted: Any, grad: Tensor, x: Tensor, padding: Sequence[int]
    ) -> Any:
        pad = EdgePad(forward, backward, x.shape, padding)
        return backward(grad, x, padding), (pad.transpose(), Zero())

    return (
        Record(forward, batch, linearize),
        Record(backward, backward_batch, backward_linearize),
    )


RECORDS = (
    Record(
        aten.constant_pad_nd.default, constant_pad_nd_batch, constant_pad_nd_linearize
    ),
    *edge_pad("reflection_pad1d", 1),
    *edge_pad("reflection_pad2d", 2),
    *edge_pad("reflection_pad3d", 3),
    *edge_pad("replication_pad1d", 1),
    *edge_pad("replication_pad2d", 2),
    *edge_pad("replication_pad3d", 3),
)
