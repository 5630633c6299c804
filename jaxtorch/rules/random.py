"""Random numbers, dropout: sampled per example or once, never differentiated."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
