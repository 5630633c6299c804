"""Losses: nll, mse, huber, binary cross entropy and their backward kernels."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
