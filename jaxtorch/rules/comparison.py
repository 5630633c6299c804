"""Comparison, selection and rounding: eq, where, clamp, maximum, sign, floor."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
