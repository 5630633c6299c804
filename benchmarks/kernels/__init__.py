"""The sizes on which each family of kernels is measured and compiled."""

from benchmarks.kernels import (
    dot,
    jacobian,
    matmul,
    per_sample,
    per_sample_convolution,
    per_sample_norm,
    pointwise,
)

FAMILIES = {
    "dot": dot,
    "jacobian": jacobian,
    "matmul": matmul,
    "per_sample": per_sample,
    "per_sample_convolution": per_sample_convolution,
    "per_sample_norm": per_sample_norm,
    "pointwise": pointwise,
}
