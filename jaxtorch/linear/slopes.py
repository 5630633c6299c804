"""Derivatives of p-norms, shared by the norms and the distances."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def norm_scale(order: float, dims: list[int]) -> Callable[..., Tensor]:
    """``d |x|_p = sum sgn(x) (|x| / |x|_p)^(p-1) dx``; zero where the norm is zero.

    Returns ``scale(t, x, out)``, which multiplies ``t`` by the derivative of the norm
    ``out`` over ``dims``, kept as dims of size one, with respect to each element.
    """

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if order == 0:
            return torch.zeros_like(x * t)
        if order == 1:
            return t * direction(x)
        if math.isinf(order):
            size = torch.abs(x)
            ties = (size == out).to(size.dtype)
            count = torch.sum(ties, dims, True) if dims else ties
            return t * (direction(x) * (ties / count))
        if order == 2:
            safe = torch.where(out == 0, 1, out)
            return conjugated(x) * torch.where(out == 0, 0, t / safe)
        size = torch.abs(x)
        nothing = (size == 0) | (out == 0)
        ratio = torch.where(nothing, 1, size) / torch.where(out == 0, 1, out)
        power = torch.where(nothing, 0, torch.pow(ratio, order - 1))
        return t * (direction(x) * power)

    return scale


def conjugated(x: Tensor) -> Tensor:
    """Return the conjugate of a complex tensor."""
    return torch.conj_physical(x) if x.is_complex() else x


def direction(x: Tensor) -> Tensor:
    """Return the derivative of ``|x|``: the conjugated sign."""
    return conjugated(torch.sgn(x))
