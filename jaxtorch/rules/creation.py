"""Fresh tensors shaped like another one: zeros_like, ones_like, full_like, new_*."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.rules.batching import entry_point
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def like(overload: OpOverload) -> Record:
    """Make the record of an op that reads only the shape, dtype and device of a tensor.

    The result is the same for all examples, so it is made once and is not batched.
    """
    name = overload._schema.name.partition("::")[2]
    call = getattr(Tensor, name) if name.startswith("new_") else entry_point(overload)

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return call(one_example(x, dims[0]), *args, **kwargs), None

    return Record(overload, batch, zero_derivative(call))


def one_example(x: Tensor, dim: int | None) -> Tensor:
    """Return a tensor of the shape of one example; its values do not matter."""
    if dim is None:
        return x
    if x.shape[dim]:
        return x.select(dim, 0)
    return x.new_empty(x.shape[:dim] + x.shape[dim + 1 :])


RECORDS = (
    like(aten.empty_like.default),
    like(aten.zeros_like.default),
    like(aten.ones_like.default),
    like(aten.full_like.default),
    like(aten.new_empty.default),
    like(aten.new_zeros.default),
    like(aten.new_ones.default),
    like(aten.new_full.default),
    like(aten.new_empty_strided.default),
)
