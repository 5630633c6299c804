"""Benchmarks: jaxtorch beside its peers, interleaved in one run."""
