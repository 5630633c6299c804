"""Convolution: one trilinear form, its two backward maps."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
