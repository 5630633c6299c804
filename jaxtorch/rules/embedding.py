"""Embedding look-ups and their scatter-add backward kernels."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
