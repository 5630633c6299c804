"""Products summed over an index: dot, mv, mm, bmm, addmm, linear."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
