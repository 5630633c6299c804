"""The sizes on which each family of kernels is measured and compiled."""

from benchmarks.kernels import (
    dot,
    matmul,
    per_sample,
    per_sample_convolution,
    per_sample_norm,
    pointwise,
)

FAMILIES = {
    "dot": dot,
    "matmul": matmul,
    "per_sample": per_sample,
    "per_sample_convolution": per_sample_convolution,
    "per_sample_norm": per_sample_norm,
    "pointwise": pointwise,
}
