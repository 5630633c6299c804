"""Triton kernels: tensors in, tensors out. No autograd, no levels."""
