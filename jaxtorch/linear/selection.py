"""Elements picked from planes by one index each, and the scatter back."""

from collections.abc import Callable

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Selection(LinearOperator):
    """Each output takes the element of its plane that an index names."""

    __slots__ = ("indices", "rank", "scatter")

    def __init__(
        self, indices: Tensor, rank: int, scatter: Callable[[Tensor], Tensor]
    ) -> None:
        self.indices = indices
        self.rank = rank
        self.scatter = scatter

    def apply(self, tangent: Tensor) -> Tensor:
        return take_from_planes(tangent, self.indices, self.rank)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return self.scatter(cotangent)


def take_from_planes(value: Tensor, indices: Tensor, rank: int) -> Tensor:
    """Gather from each plane by indices that count along the flat plane."""
    flat = torch.gather(value.flatten(-rank), -1, indices.flatten(-rank))
    return flat.reshape(indices.shape)
