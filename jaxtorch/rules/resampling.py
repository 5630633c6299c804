"""Upsampling, interpolation, grid_sample, pixel shuffle."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
