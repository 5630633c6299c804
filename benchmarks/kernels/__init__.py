"""The sizes on which each family of kernels is measured and compiled."""

from benchmarks.kernels import per_sample

FAMILIES = {"per_sample": per_sample}
