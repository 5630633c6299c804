"""Scaled dot-product attention by its mathematical form."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
