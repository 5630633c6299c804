"""Formulas of flops that torch.utils.flop_counter lacks or has wrong."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch


def convolution_backward(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: Sequence[bool],
    **kwargs: Any,
) -> int:
    """Count the products for the input's and for the weight's gradient, from shapes.

    PyTorch's formula for the weight is that of one group, too large by their number.
    """
    positions = x[0] * prod(x[2:] if transposed else grad[2:])
    return 2 * positions * prod(weight) * (bool(mask[0]) + bool(mask[1]))


FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.convolution_backward: convolution_backward
}
"""By overload packet; they take shapes."""
