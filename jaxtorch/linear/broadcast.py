"""Broadcasting and its transpose, the sum over the broadcast dims."""

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


def expand_to(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Broadcast ``tensor`` to ``shape``; the same tensor where it has it already."""
    return tensor if tensor.shape == shape else tensor.expand(shape)


def sum_to(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Sum ``tensor`` over the dims along which ``shape`` was broadcast to it."""
    own = tensor.shape
    if own == shape:
        return tensor
    extra = len(own) - len(shape)
    dims = [
        d for d in range(len(own)) if d < extra or (shape[d - extra] == 1 != own[d])
    ]
    if dims:
        tensor = torch.sum(tensor, dims, keepdim=True)
    return tensor.reshape(shape) if extra else tensor


class Broadcast(LinearOperator):
    """``tangent.expand(out_shape)``; the transpose sums."""

    __slots__ = ("in_shape", "out_shape")

    def __init__(self, in_shape: torch.Size, out_shape: torch.Size) -> None:
        self.in_shape = in_shape
        self.out_shape = out_shape

    def apply(self, tangent: Tensor) -> Tensor:
        return expand_to(tangent, self.out_shape)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return sum_to(cotangent, self.in_shape)
