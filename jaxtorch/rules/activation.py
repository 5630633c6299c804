"""Activations of neural networks and their fused backward kernels."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
