"""Batch, layer, group and instance norm."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
