"""One entry picked along a dim, as max, median and mode do, and its transpose."""

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Pick(LinearOperator):
    """The entry at ``index`` of ``dim``, which is dropped unless ``keepdim``."""

    __slots__ = ("dim", "index", "shape", "keepdim")

    def __init__(
        self, dim: int, index: Tensor, shape: torch.Size, keepdim: bool
    ) -> None:
        self.dim = dim
        self.index = index
        self.shape = shape
        self.keepdim = keepdim or not shape

    def apply(self, tangent: Tensor) -> Tensor:
        if self.keepdim:
            return torch.gather(tangent, self.dim, self.index)
        index = self.index.unsqueeze(self.dim)
        return torch.gather(tangent, self.dim, index).squeeze(self.dim)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        index = self.index
        if not self.keepdim:
            index = index.unsqueeze(self.dim)
            cotangent = cotangent.unsqueeze(self.dim)
        zeros = cotangent.new_zeros(self.shape)
        return torch.scatter(zeros, self.dim, index, cotangent)
