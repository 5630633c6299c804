"""Fourier transforms."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
