"""Cases of overloads that no operator of PyTorch's database reaches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Make = Callable[[], Sequence[Tensor]]


def normal(*shapes: Sequence[int]) -> Make:
    """Draw one float64 tensor of each shape."""
    return lambda: [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


DIRECT: dict[str, tuple[Callable[..., Any], Make]] = {
    "tanh_backward": (
        lambda g, x: aten.tanh_backward.default(g, torch.tanh(x)),
        normal((3,), (3,)),
    ),
}
