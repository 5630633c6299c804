"""Pooling and its backward kernels."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
