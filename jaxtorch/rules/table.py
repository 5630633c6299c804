"""The table of all records, built from an explicit list of families."""

from collections.abc import Iterable

from torch._ops import OpOverload

from jaxtorch.rules import (
    activation,
    airy,
    arithmetic,
    attention,
    attention_kernels,
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
    dot,
    elementary,
    embedding,
    factorization,
    foreach,
    grid,
    histogram,
    indexing,
    jacobian,
    joining,
    linalg,
    loss,
    masking,
    matmul,
    normalization,
    padding,
    per_sample,
    per_sample_convolution,
    per_sample_norm,
    piecewise,
    placing,
    pointwise,
    polynomials,
    pooling,
    random,
    reading,
    rearranging,
    recurrent,
    reduction,
    resampling,
    scattering,
    selecting,
    softmax,
    solving,
    sorting,
    sparse,
    special,
    spectral,
    views,
)
from jaxtorch.rules.record import Record

FAMILIES = {
    "activation": activation.RECORDS,
    "airy": airy.RECORDS,
    "arithmetic": arithmetic.RECORDS,
    "attention": attention.RECORDS,
    "attention_kernels": attention_kernels.RECORDS,
    "batch_norm": batch_norm.RECORDS,
    "casting": casting.RECORDS,
    "classification": classification.RECORDS,
    "comparison": comparison.RECORDS,
    "contraction": contraction.RECORDS,
    "convolution": convolution.RECORDS,
    "counting": counting.RECORDS,
    "creation": creation.RECORDS,
    "ctc": ctc.RECORDS,
    "cumulative": cumulative.RECORDS,
    "distance": distance.RECORDS,
    "dot": dot.RECORDS,
    "elementary": elementary.RECORDS,
    "embedding": embedding.RECORDS,
    "factorization": factorization.RECORDS,
    "grid": grid.RECORDS,
    "histogram": histogram.RECORDS,
    "indexing": indexing.RECORDS,
    "jacobian": jacobian.RECORDS,
    "joining": joining.RECORDS,
    "linalg": linalg.RECORDS,
    "loss": loss.RECORDS,
    "masking": masking.RECORDS,
    "matmul": matmul.RECORDS,
    "normalization": normalization.RECORDS,
    "padding": padding.RECORDS,
    "per_sample": per_sample.RECORDS,
    "per_sample_convolution": per_sample_convolution.RECORDS,
    "per_sample_norm": per_sample_norm.RECORDS,
    "piecewise": piecewise.RECORDS,
    "placing": placing.RECORDS,
    "pointwise": pointwise.RECORDS,
    "polynomials": polynomials.RECORDS,
    "pooling": pooling.RECORDS,
    "random": random.RECORDS,
    "reading": reading.RECORDS,
    "rearranging": rearranging.RECORDS,
    "recurrent": recurrent.RECORDS,
    "reduction": reduction.RECORDS,
    "resampling": resampling.RECORDS,
    "scattering": scattering.RECORDS,
    "selecting": selecting.RECORDS,
    "softmax": softmax.RECORDS,
    "solving": solving.RECORDS,
    "sorting": sorting.RECORDS,
    "sparse": sparse.RECORDS,
    "special": special.RECORDS,
    "spectral": spectral.RECORDS,
    "views": views.RECORDS,
}


def build_table(families: Iterable[Iterable[Record]]) -> dict[OpOverload, Record]:
    """Index the records by overload; the same overload twice is an error."""
    table: dict[OpOverload, Record] = {}
    for family in families:
        for record in family:
            if record.overload in table:
                raise ValueError(f"two records for {record.overload}")
            table[record.overload] = record
    return table


TABLE = build_table(FAMILIES.values())


def record_of(overload: OpOverload) -> Record | None:
    """Return the record of an overload, None if it has none."""
    return TABLE.get(overload) or foreach.record_of(overload)
