"""Operators that only move elements: views, permutations, slices; their transposes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Reindex(LinearOperator):
    """``forward(tangent, *forward_args)``; the transpose is the other call."""

    __slots__ = ("forward", "forward_args", "backward", "backward_args")

    def __init__(
        self,
        forward: Callable[..., Any],
        forward_args: tuple[Any, ...],
        backward: Callable[..., Tensor],
        backward_args: tuple[Any, ...],
    ) -> None:
        self.forward = forward
        self.forward_args = forward_args
        self.backward = backward
        self.backward_args = backward_args

    def apply(self, tangent: Tensor) -> Any:
        return self.forward(tangent, *self.forward_args)

    def apply_transpose(self, cotangent: Any) -> Tensor:
        return self.backward(cotangent, *self.backward_args)


class Pieces(LinearOperator):
    """Cutting a tensor along ``dim``; the transpose puts the pieces back together.

    ``shapes`` are those of the pieces, so that a piece without a cotangent counts as
    zeros; with ``stacked`` the pieces have lost the dim.
    """

    __slots__ = ("cut", "dim", "shapes", "stacked")

    def __init__(
        self,
        cut: Callable[[Tensor], Any],
        dim: int,
        shapes: list[torch.Size],
        stacked: bool,
    ) -> None:
        self.cut = cut
        self.dim = dim
        self.shapes = shapes
        self.stacked = stacked

    def apply(self, tangent: Tensor) -> Any:
        return self.cut(tangent)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        known = next((c for c in cotangent if c is not None), None)
        if known is None:
            return None
        filled = [
            known.new_zeros(shape) if c is None else c
            for c, shape in zip(cotangent, self.shapes, strict=True)
        ]
        if self.stacked:
            return torch.stack(filled, self.dim)
        return torch.cat(filled, self.dim)
