"""Change of dtype, device or memory format, and its transpose."""

import torch
from torch import Tensor

from jaxtorch.linear.operator import Composition, LinearOperator


def cast_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to ``dtype``; from complex to real the real part is taken."""
    if tensor.dtype == dtype:
        return tensor
    if tensor.is_complex() and not dtype.is_complex:
        tensor = torch.real(tensor)
    return tensor.to(dtype)


class Cast(LinearOperator):
    """``tangent.to(out_dtype)``; the transpose casts back."""

    __slots__ = ("in_dtype", "out_dtype")

    def __init__(self, in_dtype: torch.dtype, out_dtype: torch.dtype) -> None:
        self.in_dtype = in_dtype
        self.out_dtype = out_dtype

    def apply(self, tangent: Tensor) -> Tensor:
        return cast_to(tangent, self.out_dtype)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return cast_to(cotangent, self.in_dtype)


def promoted(operator: LinearOperator, source: Tensor, out: Tensor) -> LinearOperator:
    """Put the cast that type promotion made from ``source`` to ``out`` before it."""
    if source.dtype == out.dtype:
        return operator
    return Composition(operator, Cast(source.dtype, out.dtype))
