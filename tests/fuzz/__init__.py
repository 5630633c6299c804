"""Differential fuzzing: random programs under random stacks of transforms.

``python -m tests.fuzz --programs 5000 --seed 1`` compares jaxtorch with oracles that
share no code with it: Python loops, out-of-place writes, and torch.autograd.
"""
