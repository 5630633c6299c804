"""Change of dtype, copies, and the parts of complex numbers."""

from jaxtorch.rules.record import Record

RECORDS: tuple[Record, ...] = ()
