"""The one way from rules to kernels: torch's functions, or a kernel in their place.

A kernel is chosen for plain tensors only, so that wrappers never reach Triton: in a
nest of transforms the rule that meets plain tensors chooses.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels import OPERATORS

KERNELS: Any = torch.ops.jaxtorch
"""The kernels' operators, for records: ``KERNELS.<name>.default``."""
SHORT = 8
"""cuBLAS is made for long sums; a product of fewer columns only waits for memory."""
PER_SAMPLE_WEIGHT = OPERATORS["per_sample_weight"]


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices [B, M, K] and [B, K, N]; few columns make an outer product."""
    if a.shape[2] <= SHORT and PER_SAMPLE_WEIGHT.chosen(b, a.mT):
        return PER_SAMPLE_WEIGHT.overload(b, a.mT)  # type: ignore[no-any-return]
    return torch.bmm(a, b)
