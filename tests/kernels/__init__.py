"""Tests of the Triton kernels, in Triton's interpreter and compiled without a GPU."""
