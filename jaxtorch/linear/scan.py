"""Operators along one dim in which each entry depends on the ones before it."""

from collections.abc import Callable

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


def reverse(x: Tensor, dim: int) -> Tensor:
    """Reverse the order along ``dim``."""
    return torch.flip(x, [dim]) if x.dim() else x


class CumulativeSum(LinearOperator):
    """``cumsum(tangent, dim)``; the transpose sums from the end."""

    __slots__ = ("dim",)

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def apply(self, tangent: Tensor) -> Tensor:
        return torch.cumsum(tangent, self.dim)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        dim = self.dim
        return reverse(torch.cumsum(reverse(cotangent, dim), dim), dim)


def recurrence(decay: Tensor, x: Tensor, dim: int) -> Tensor:
    """Return ``h`` with ``h[k] = decay[k] h[k-1] + x[k]`` along ``dim``.

    Doubles the reach of every entry in each of log2(n) steps. ``decay[0]`` is not used.
    """
    length = x.shape[dim]
    step = 1
    while step < length:
        rest = length - step
        late = decay.narrow(dim, step, rest)
        reached = x.narrow(dim, step, rest) + late * x.narrow(dim, 0, rest)
        x = torch.cat([x.narrow(dim, 0, step), reached], dim)
        product = late * decay.narrow(dim, 0, rest)
        decay = torch.cat([decay.narrow(dim, 0, step), product], dim)
        step *= 2
    return x


def shifted(x: Tensor, dim: int, first: float) -> Tensor:
    """Move every entry one on along ``dim``; ``first`` comes to the front."""
    start = torch.full_like(x.narrow(dim, 0, 1), first)
    return torch.cat([start, x.narrow(dim, 0, x.shape[dim] - 1)], dim)


class Recurrence(LinearOperator):
    """``h[k] = decay[k] h[k-1] + gain[k] tangent[k]``; the transpose runs backwards.

    ``coefficients()`` returns decay and gain when a tangent or cotangent arrives.
    """

    __slots__ = ("coefficients", "dim")

    def __init__(
        self, coefficients: Callable[[], tuple[Tensor, Tensor]], dim: int
    ) -> None:
        self.coefficients = coefficients
        self.dim = dim

    def apply(self, tangent: Tensor) -> Tensor:
        decay, gain = self.coefficients()
        return recurrence(decay, gain * tangent, self.dim)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        decay, gain = self.coefficients()
        if gain.is_complex():
            decay, gain = decay.conj_physical(), gain.conj_physical()
        dim = self.dim
        backwards = shifted(reverse(decay, dim), dim, 0)
        total = recurrence(backwards, reverse(cotangent, dim), dim)
        return gain * reverse(total, dim)
