"""Linear systems, inverses and determinants."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
