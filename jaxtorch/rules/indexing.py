"""Indexing: gather, scatter, index, index_put, masked_fill, take."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
