"""What a staged function writes into: inputs and captured tensors, after each call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.tracer import TraceLevel, TraceTensor


class Written(NamedTuple):
    """A tensor that a function wrote: its place among the inputs, then the captured."""

    place: int
    handle: TraceTensor


def written_by(level: TraceLevel) -> list[Written]:
    """Return what the function wrote."""
    handles = [*level.inputs, *(handle for _, handle in level.captured.values())]
    return [
        Written(place, handle)
        for place, handle in enumerate(handles)
        if handle.alias is not None and handle.alias.version
    ]


def refuse_overlaps(places: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Refuse tensors of a call that share memory with one that is written.

    The graph reads each of them as it was before the call.
    """
    for place in places:
        target = tensors[place]
        for other, tensor in enumerate(tensors):
            if other != place and overlap(target, tensor):
                raise UsageError(
                    explain(
                        "jit",
                        f"the function writes into a tensor of shape "
                        f"{list(target.shape)} that shares memory with another one, of "
                        f"shape {list(tensor.shape)}, which it takes or captures as "
                        "well: what the other one shows of the write can't be staged.",
                        "pass a clone of one of them, or write into views that are "
                        "taken inside the function from one tensor",
                    )
                )


def overlap(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors reach over the same bytes."""
    (a, b), (c, d) = reach(first), reach(second)
    return a < d and c < b


def reach(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor in memory, and the one after its last."""
    if not tensor.numel():
        return 0, 0
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.data_ptr()
    return first, first + (last + 1) * tensor.itemsize


def originals(places: Sequence[int], tensors: Sequence[Any]) -> list[Any]:
    """Return the tensors with copies of those that will be written."""
    return [t.clone() if i in places else t for i, t in enumerate(tensors)]
