"""Laws that do not hold: operator, law, reason. Strict: a row that passes fails."""

from collections.abc import Iterable, Iterator

Row = tuple[str, str, str]


def rows(ops: Iterable[str], laws: Iterable[str], reason: str) -> Iterator[Row]:
    """Make the rows of several operators and laws that fail for one reason."""
    kinds = list(laws)
    for op in ops:
        for law in kinds:
            yield op, law, reason


TABLE: tuple[Row, ...] = ()


def index(table: Iterable[Row]) -> dict[tuple[str, str], str]:
    """Index the rows; the same row twice is an error."""
    found: dict[tuple[str, str], str] = {}
    for op, law, reason in table:
        if (op, law) in found:
            raise ValueError(f"two rows for {op}, {law}")
        found[op, law] = reason
    return found


EXPECTED = index(TABLE)
