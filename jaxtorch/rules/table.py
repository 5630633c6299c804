"""The table of all records, built from an explicit list of families."""

from collections.abc import Iterable

from torch._ops import OpOverload

from jaxtorch.rules import (
    activation,
    arithmetic,
    attention,
    batch_norm,
    casting,
    classification,
    comparison,
    contraction,
    convolution,
    counting,
    creation,
    ctc,
    cumulative,
    distance,
    elementary,
    embedding,
    factorization,
    grid,
    indexing,
    joining,
    loss,
    masking,
    normalization,
    padding,
    piecewise,
    placing,
    pooling,
    random,
    reading,
    rearranging,
    reduction,
    resampling,
    scattering,
    selecting,
    softmax,
    solving,
    sorting,
    special,
    spectral,
    views,
)
from jaxtorch.rules.record import Record

FAMILIES = (
    activation.RECORDS,
    arithmetic.RECORDS,
    attention.RECORDS,
    batch_norm.RECORDS,
    casting.RECORDS,
    classification.RECORDS,
    comparison.RECORDS,
    contraction.RECORDS,
    convolution.RECORDS,
    counting.RECORDS,
    creation.RECORDS,
    ctc.RECORDS,
    cumulative.RECORDS,
    distance.RECORDS,
    elementary.RECORDS,
    embedding.RECORDS,
    factorization.RECORDS,
    grid.RECORDS,
    indexing.RECORDS,
    joining.RECORDS,
    loss.RECORDS,
    masking.RECORDS,
    normalization.RECORDS,
    padding.RECORDS,
    piecewise.RECORDS,
    placing.RECORDS,
    pooling.RECORDS,
    random.RECORDS,
    reading.RECORDS,
    rearranging.RECORDS,
    reduction.RECORDS,
    resampling.RECORDS,
    scattering.RECORDS,
    selecting.RECORDS,
    softmax.RECORDS,
    solving.RECORDS,
    sorting.RECORDS,
    special.RECORDS,
    spectral.RECORDS,
    views.RECORDS,
)


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
