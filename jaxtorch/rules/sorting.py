"""Sorting and order statistics: sort, topk, max with index, median, argmax."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
