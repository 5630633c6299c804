"""Reductions: sum, mean, amax, var, norms, prod, logsumexp, any, all."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
