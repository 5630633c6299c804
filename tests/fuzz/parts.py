"""What the layers of a stack are made of; the oracles use the same few functions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]


def floats(outs: Sequence[Tensor]) -> Outputs:
    """Return the outputs that have a derivative."""
    return tuple(o for o in outs if o.is_floating_point())


def direction(x: Tensor, live: bool = False, tilt: float = 1.0) -> Tensor:
    """Return a tangent or cotangent for ``x``; a live one depends on its value."""
    ramp = torch.linspace(0.5, 0.5 + tilt, x.numel(), dtype=x.dtype).reshape(x.shape)
    return ramp + 0.3 * x.sin() if live else ramp


def total(outs: Sequence[Tensor]) -> Tensor:
    """Return a scalar that depends on every output with a derivative."""
    return sum((o * direction(o)).sum() for o in floats(outs))  # type: ignore[return-value]


def with_aux(outs: Sequence[Tensor]) -> tuple[Tensor, Outputs]:
    """Return the scalar, and all outputs as the auxiliary result."""
    return total(outs), tuple(outs)


def flat(tree: Any) -> Outputs:
    """Return the tensors of nested tuples."""
    if isinstance(tree, Tensor):
        return (tree,)
    return tuple(leaf for part in tree for leaf in flat(part))
