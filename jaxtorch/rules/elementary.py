"""Elementary functions of one tensor: exp, log, sqrt, trigonometric, special."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
