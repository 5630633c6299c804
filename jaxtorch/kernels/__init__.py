"""Triton kernels: tensors in, tensors out. No autograd, no levels.

Importing it defines the operators ``torch.ops.jaxtorch.*``; ``OPERATORS`` lists them.
"""

from jaxtorch.kernels import per_sample
from jaxtorch.kernels.operator import OPERATORS, PLAIN

FAMILIES = {"per_sample": per_sample}

__all__ = ["FAMILIES", "OPERATORS", "PLAIN"]
