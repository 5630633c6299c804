"""One inner product for each row with fixed rows: derivatives of norms."""

from collections.abc import Callable

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class RowDot(LinearOperator):
    """``out[b] = <rows[b], tangent[b]>`` in ``dtype``; the transpose scales the rows.

    ``rows`` is called when it is needed.
    """

    __slots__ = ("rows", "dtype")

    def __init__(self, rows: Callable[[], Tensor], dtype: torch.dtype) -> None:
        self.rows = rows
        self.dtype = dtype

    def apply(self, tangent: Tensor) -> Tensor:
        products = self.rows().to(self.dtype) * tangent
        return torch.sum(products, list(range(1, tangent.dim())))

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        rows = self.rows()
        column = cotangent.reshape(*cotangent.shape, *[1] * (rows.dim() - 1))
        scaled = rows.to(self.dtype) * column
        return scaled.to(rows.dtype)
