"""Padding: constant, reflection, replication."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
