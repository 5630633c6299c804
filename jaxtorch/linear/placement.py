"""Placing a block into a larger tensor of zeros, and its transpose, cutting it out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Pad(LinearOperator):
    """Padding with zeros, or cropping where an entry is negative.

    ``pad`` is as ``torch.nn.functional.pad`` takes it, from the last dim to the first;
    the transpose crops what was padded and pads what was cropped.
    """

    __slots__ = ("pad",)

    def __init__(self, pad: Sequence[int]) -> None:
        self.pad = list(pad)

    def apply(self, tangent: Tensor) -> Tensor:
        return torch.constant_pad_nd(tangent, self.pad, 0)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return torch.constant_pad_nd(cotangent, [-p for p in self.pad], 0)


class Segment(LinearOperator):
    """The tangent as entries ``start`` to ``start + length`` of ``total`` in a dim.

    The transpose is ``narrow``.
    """

    __slots__ = ("dim", "start", "length", "total")

    def __init__(self, dim: int, start: int, length: int, total: int) -> None:
        self.dim = dim
        self.start = start
        self.length = length
        self.total = total

    def apply(self, tangent: Tensor) -> Tensor:
        after = self.total - self.start - self.length
        if after == 0 == self.start:
            return tangent
        behind = tangent.dim() - 1 - self.dim
        return torch.constant_pad_nd(tangent, [0, 0] * behind + [self.start, after], 0)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return cotangent.narrow(self.dim, self.start, self.length)


class Slot(LinearOperator):
    """The tangent as entry ``index`` of a new dim of size ``total``.

    The transpose is ``select``.
    """

    __slots__ = ("dim", "index", "total")

    def __init__(self, dim: int, index: int, total: int) -> None:
        self.dim = dim
        self.index = index
        self.total = total

    def apply(self, tangent: Tensor) -> Tensor:
        row = tangent.unsqueeze(self.dim)
        return Segment(self.dim, self.index, 1, self.total).apply(row)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return cotangent.select(self.dim, self.index)


class Tile(LinearOperator):
    """``tangent.repeat(repeats)``; the transpose sums over the copies."""

    __slots__ = ("repeats", "shape")

    def __init__(self, repeats: Sequence[int], shape: torch.Size) -> None:
        self.repeats = list(repeats)
        self.shape = shape

    def apply(self, tangent: Tensor) -> Tensor:
        return tangent.repeat(self.repeats)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        extra = len(self.repeats) - len(self.shape)
        sizes: list[int] = []
        summed: list[int] = []
        for place, count in enumerate(self.repeats):
            if count != 1 or place < extra:
                summed.append(len(sizes))
                sizes.append(count)
            if place >= extra:
                sizes.append(self.shape[place - extra])
        if not summed:
            return cotangent
        return torch.sum(cotangent.reshape(sizes), summed)


class EdgePad(LinearOperator):
    """Padding with what is inside, by reflection or replication."""

    __slots__ = ("forward", "backward", "shape", "padding")

    def __init__(
        self,
        forward: Callable[..., Tensor],
        backward: Callable[..., Tensor],
        shape: torch.Size,
        padding: Sequence[int],
    ) -> None:
        self.forward = forward
        self.backward = backward
        self.shape = shape
        self.padding = padding

    def apply(self, tangent: Tensor) -> Tensor:
        return self.forward(tangent, self.padding)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        like = cotangent.new_empty(self.shape)
        return self.backward(cotangent, like, self.padding)


class Inserted(LinearOperator):
    """The tangent written over a view of a tensor of zeros.

    ``write(zeros, tangent, *args)`` writes what ``view(tensor, *args)`` reads; that
    view is the transpose.
    """

    __slots__ = ("write", "view", "shape", "args")

    def __init__(
        self,
        write: Callable[..., Tensor],
        view: Callable[..., Tensor],
        shape: torch.Size,
        args: Sequence[Any],
    ) -> None:
        self.write = write
        self.view = view
        self.shape = shape
        self.args = args

    def apply(self, tangent: Tensor) -> Tensor:
        return self.write(tangent.new_zeros(self.shape), tangent, *self.args)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return self.view(cotangent, *self.args)
