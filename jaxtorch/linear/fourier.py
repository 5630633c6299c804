"""Discrete Fourier transforms; each is, up to weights, the transpose of another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator

aten = torch.ops.aten


class ComplexTransform(LinearOperator):
    """From complex to complex; the adjoint turns the other way at the same scale."""

    __slots__ = ("dims", "scale", "forward")

    def __init__(self, dims: Sequence[int], scale: int, forward: bool) -> None:
        self.dims = dims
        self.scale = scale
        self.forward = forward

    def apply(self, tangent: Tensor) -> Tensor:
        out: Tensor = aten._fft_c2c.default(
            tangent, self.dims, self.scale, self.forward
        )
        return out

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        out: Tensor = aten._fft_c2c.default(
            cotangent, self.dims, self.scale, not self.forward
        )
        return out


def half_weights(x: Tensor, dim: int, length: int) -> Tensor:
    """Return how often each frequency 0..length/2 of a real signal counts: 1 or 2."""
    weights = torch.full((x.shape[dim],), 2.0, dtype=x.real.dtype, device=x.device)
    single = torch.arange(x.shape[dim], device=x.device) * 2 % length == 0
    weights = torch.where(single, 1.0, weights)
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    return weights.reshape(shape)


class RealTransform(LinearOperator):
    """From real to complex; ``onesided`` returns the frequencies 0..length/2 only.

    The adjoint of the half is the inverse transform that counts the others in, with
    half the weight where it counts twice.
    """

    __slots__ = ("dims", "scale", "onesided", "length")

    def __init__(
        self, dims: Sequence[int], scale: int, onesided: bool, length: int
    ) -> None:
        self.dims = dims
        self.scale = scale
        self.onesided = onesided
        self.length = length

    def apply(self, tangent: Tensor) -> Tensor:
        out: Tensor = aten._fft_r2c.default(
            tangent, self.dims, self.scale, self.onesided
        )
        return out

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        if not self.onesided:
            return torch.real(
                aten._fft_c2c.default(cotangent, self.dims, self.scale, False)
            )
        cotangent = cotangent / half_weights(cotangent, self.dims[-1], self.length)
        out: Tensor = aten._fft_c2r.default(
            cotangent, self.dims, self.scale, self.length
        )
        return out


class HalfTransform(LinearOperator):
    """From the frequencies 0..length/2 to a real signal; as ``RealTransform`` back."""

    __slots__ = ("dims", "scale", "length")

    def __init__(self, dims: Sequence[int], scale: int, length: int) -> None:
        self.dims = dims
        self.scale = scale
        self.length = length

    def apply(self, tangent: Tensor) -> Tensor:
        out: Tensor = aten._fft_c2r.default(tangent, self.dims, self.scale, self.length)
        return out

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        out: Tensor = aten._fft_r2c.default(cotangent, self.dims, self.scale, True)
        return out * half_weights(out, self.dims[-1], self.length)
