"""The levels, the wrapper tensors and the three interpreters. No operator by name."""
