"""Joining and repeating: cat, stack, repeat."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
