"""Products with a fixed factor, summed over an index."""

from collections.abc import Callable

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Contraction(LinearOperator):
    """``product(tangent, factor)`` with its transpose ``adjoint(cotangent, factor)``.

    ``adjoint`` is given the conjugate of the factor.
    """

    __slots__ = ("product", "adjoint", "factor")

    def __init__(
        self,
        product: Callable[[Tensor, Tensor], Tensor],
        adjoint: Callable[[Tensor, Tensor], Tensor],
        factor: Tensor,
    ) -> None:
        self.product = product
        self.adjoint = adjoint
        self.factor = factor

    def apply(self, tangent: Tensor) -> Tensor:
        return self.product(tangent, self.factor)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        factor = self.factor
        return self.adjoint(
            cotangent, factor.conj_physical() if factor.is_complex() else factor
        )


def transposed(matrix: Tensor) -> Tensor:
    """Swap the last two dims."""
    return torch.transpose(matrix, -2, -1)
