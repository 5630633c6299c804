"""Tests of jaxtorch. Oracles: loops, torch.autograd, torch.func, finite differences."""
