"""Cumulative operations along a dim: cumsum, cumprod, logcumsumexp, cummax."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
