"""The operator of kernels/pointwise.py: a program of elementwise steps."""

from typing import Any

from torch import Tensor

from jaxtorch.rules.batching import align, rank_of
from jaxtorch.rules.fast import KERNELS, run_program
from jaxtorch.rules.record import Record

pointwise = KERNELS.pointwise.default


def pointwise_batch(
    size: int, dims: Any, operands: list[Tensor], program: str, along: list[int]
) -> Any:
    """Batch dims come to the front; the program broadcasts."""
    rank = max(rank_of(x, d) for x, d in zip(operands, dims[0], strict=True))
    aligned = align(operands, dims[0])
    outs = pointwise(aligned, program, [d % rank + 1 for d in along])
    return outs, [0] * len(outs)


RECORDS = (Record(pointwise, pointwise_batch, decompose=run_program),)
