"""The table of all records, built from an explicit list of families."""

from collections.abc import Iterable

from torch._ops import OpOverload

from jaxtorch.rules import creation, pointwise
from jaxtorch.rules.record import Record

FAMILIES = (creation.RECORDS, pointwise.RECORDS)


def build_table(families: Iterable[Iterable[Record]]) -> dict[OpOverload, Record]:
    """Index the records by overload; the same overload twice is an error."""
    table: dict[OpOverload, Record] = {}
    for family in families:
        for record in family:
            if record.overload in table:
                raise ValueError(f"two records for {record.overload}")
            table[record.overload] = record
    return table


TABLE = build_table(FAMILIES)
