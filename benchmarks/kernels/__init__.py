"""The sizes on which each family of kernels is measured and compiled."""

from benchmarks.kernels import (
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
