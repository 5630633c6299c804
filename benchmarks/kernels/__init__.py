"""The sizes on which each family of kernels is measured and compiled."""

from benchmarks.kernels import (
    dot,
    per_sample,
    per_sample_convolution,
    per_sample_norm,
)

FAMILIES = {
    "dot": dot,
    "per_sample": per_sample,
    "per_sample_convolution": per_sample_convolution,
    "per_sample_norm": per_sample_norm,
}
