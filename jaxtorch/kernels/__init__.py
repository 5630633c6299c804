"""Triton kernels: tensors in, tensors out. No autograd, no levels.

Importing it defines the operators ``torch.ops.jaxtorch.*``; ``OPERATORS`` lists them.
"""

from jaxtorch.kernels import (
    attention,
    attention_backward,
    attention_hessian,
    dot,
    jacobian,
    linalg,
    matmul,
    per_sample,
    per_sample_convolution,
    per_sample_norm,
    pointwise,
)
from jaxtorch.kernels.operator import OPERATORS, PLAIN

FAMILIES = {
    "attention": attention,
    "attention_backward": attention_backward,
    "attention_hessian": attention_hessian,
    "dot": dot,
    "jacobian": jacobian,
    "linalg": linalg,
    "matmul": matmul,
    "per_sample": per_sample,
    "per_sample_convolution": per_sample_convolution,
    "per_sample_norm": per_sample_norm,
    "pointwise": pointwise,
}

__all__ = ["FAMILIES", "OPERATORS", "PLAIN"]
