"""Softmax and log-softmax, and their fused backward kernels."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
