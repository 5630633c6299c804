"""What a staged function relies on beside its signature: layouts, captured tensors."""

import enum
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from jaxtorch.rules.strides import Readings
from jaxtorch.staging.signature import Layout, kind_in_words


class Reads(enum.IntEnum):
    """What a function has read of the layout of tensors."""

    NOTHING = 0
    STRIDES = 1
    OFFSETS = 2


def readings_since(before: tuple[int, int], writes: bool) -> Reads:
    """Return what was read since the counts were ``before``.

    A function that writes into a tensor from outside depends on the strides: they
    decide whether ``reshape`` and ``contiguous`` give a view, so what a write reaches.
    """
    strides, offsets = before
    if Readings.offsets > offsets:
        return Reads.OFFSETS
    return Reads.STRIDES if writes or Readings.strides > strides else Reads.NOTHING


def layout_of(tensors: Sequence[Tensor], reads: Reads) -> Layout | None:
    """Return what matters of how tensors lie in memory."""
    if reads is Reads.NOTHING:
        return None
    starts: list[Any] = []
    if reads is Reads.OFFSETS:
        starts = [x.storage_offset() for x in tensors]
    return Layout(tuple([x.stride() for x in tensors]), tuple(starts))


class CapturedKinds:
    """Tells whether captured tensors are still as they were when they were traced.

    ``x.data = y`` can give a tensor another shape, dtype, device or layout. Python may
    have read any of them, since a captured tensor is no wrapper.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        self.kinds = [kind_of(x) for x in tensors]
        self.look()

    def look(self) -> None:
        """Prepare a quick check.

        It fails, too, where no more than ``requires_grad`` or the modes have changed.
        """
        sizes: list[Any] = [list(x.shape) for x in self.tensors]
        strides: list[Any] = [list(x.stride()) for x in self.tensors]
        self.quick: Any = TensorGuards(
            *self.tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
        )

    def hold(self) -> bool:
        """Tell whether all tensors are of the kind that they were."""
        return self.quick.check(*self.tensors) or self.hold_surely()

    def hold_surely(self) -> bool:
        """Compare each kind."""
        if self.change() is not None:
            return False
        self.look()
        return True

    def change(self) -> str | None:
        """Say in words what has changed, if anything has."""
        for old, tensor in zip(self.kinds, self.tensors, strict=True):
            new = kind_of(tensor)
            if new != old:
                was, now = kind_in_words(old), kind_in_words(new)
                return f"a captured tensor was {was} and is {now}"
        return None


def kind_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return the kind of a tensor and its strides."""
    return tensor.shape, tensor.dtype, tensor.device, tensor.stride()
