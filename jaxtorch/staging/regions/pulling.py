"""The linear operator of a region: its pullback, and the transpose of that."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.core.reverse import LEAF, Node, ReverseLevel, pull_back, wrap
from jaxtorch.staging.lifting import differentiable
from jaxtorch.staging.splitting import tape_parts
from jaxtorch.staging.subgraph import Kind

Pull = Callable[[list[Tensor]], list[Tensor]]


class Pullback:
    """Takes and returns one tangent for each output and each wanted input."""

    __slots__ = ("pull", "outs", "inputs")

    def __init__(self, pull: Pull, outs: Sequence[Any], inputs: Sequence[Any]) -> None:
        self.pull = pull
        self.outs = [shape_of(out) for out in outs]
        self.inputs = [shape_of(value) for value in inputs]

    def apply_transpose(self, cotangent: Sequence[Any]) -> tuple[Tensor, ...]:
        """Pull the outputs' cotangents back to the wanted inputs."""
        return tuple(self.pull(filled(self.outs, cotangent)))

    def apply(self, tangent: Sequence[Any]) -> tuple[Tensor | None, ...]:
        """Push the inputs' tangents forward: the transpose of the pullback."""
        tangents = filled(self.inputs, tangent)
        level = ReverseLevel()
        zeros = [make_zeros(out) for out in self.outs if differentiable(out)]
        leaves = [Node(LEAF) for _ in zeros]
        with level:
            pulled = self.pull(
                [wrap(level, z, n, None) for z, n in zip(zeros, leaves, strict=True)]
            )
            roots = [tape_parts(level, value)[1] for value in pulled]
        pairs = [
            (root, own)
            for root, own in zip(roots, tangents, strict=True)
            if root is not None
        ]
        pushed = pull_back([r for r, _ in pairs], [t for _, t in pairs], leaves, True)
        found = iter(pushed)
        return tuple(next(found) if differentiable(out) else None for out in self.outs)


def shape_of(value: Tensor) -> Kind:
    """Return the kind of a value, so that the value itself can be released."""
    return Kind(value.shape, value.dtype, value.device)


def make_zeros(kind: Kind) -> Tensor:
    """Return zeros of a kind."""
    return torch.zeros(kind.shape, dtype=kind.dtype, device=kind.device)


def filled(kinds: Sequence[Kind], tangents: Sequence[Any]) -> list[Tensor]:
    """Fill in zeros for None, and leave out what has no derivative."""
    return [
        make_zeros(kind) if tangent is None else tangent
        for kind, tangent in zip(kinds, tangents, strict=True)
        if differentiable(kind)
    ]
