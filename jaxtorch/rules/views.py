"""Views and rearrangements: view, permute, select, slice, expand, split, flip."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
