"""Pooling: the largest element or the mean of windows of a plane, and unpooling."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.operator import Transposed
from jaxtorch.linear.selection import Selection
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.planes import (
    fold,
    linear_pair,
    planes_batch,
    selection_pair,
    unfold,
)
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten


def fractional_batch(call: OpOverload, rank: int) -> BatchRule:
    """Fold examples whose random samples are [N or 1, C, rank]."""

    def batch(
        size: int, dims: Any, x: Tensor, kernel: Any, output_size: Any, samples: Tensor
    ) -> Any:
        folded = fold(x, dims[0], size, rank)
        samples = batched_at_front(samples, dims[3], size).flatten(0, 1)
        out = call(folded, kernel, output_size, samples)
        return unfold(out, x, dims[0], size, rank), 0

    return batch


def unpool_record(overload: OpOverload, rank: int) -> Record:
    """Make the record of an unpooling, the transpose of picking by its indices."""

    def linearize(wanted: Any, x: Tensor, indices: Tensor, *args: Any) -> Any:
        def scatter(value: Tensor) -> Tensor:
            return overload(value, indices, *args)  # type: ignore[no-any-return]

        return scatter(x), (Transposed(Selection(indices, rank, scatter)),)

    return Record(overload, planes_batch(overload, rank), linearize)


def adaptive_average_pair(
    forward: OpOverload, backward: OpOverload, rank: int
) -> tuple[Record, Record]:
    """Make the records of an adaptive mean: its transpose takes no output size."""
    return linear_pair(
        forward,
        backward,
        rank,
        settings=lambda grad: (grad.shape[-rank:],),
        kernel_settings=lambda output_size: (),
    )


RECORDS = (
    *selection_pair(
        aten.max_pool2d_with_indices.default,
        aten.max_pool2d_with_indices_backward.default,
        2,
        *(None, [], 0, 1, False),
    ),
    *selection_pair(
        aten.max_pool3d_with_indices.default,
        aten.max_pool3d_with_indices_backward.default,
        3,
        *(None, [], 0, 1, False),
    ),
    *selection_pair(
        aten.adaptive_max_pool2d.default, aten.adaptive_max_pool2d_backward.default, 2
    ),
    *selection_pair(
        aten.adaptive_max_pool3d.default, aten.adaptive_max_pool3d_backward.default, 3
    ),
    *selection_pair(
        aten.fractional_max_pool2d.default,
        aten.fractional_max_pool2d_backward.default,
        2,
        batch=fractional_batch(aten.fractional_max_pool2d.default, 2),
    ),
    *selection_pair(
        aten.fractional_max_pool3d.default,
        aten.fractional_max_pool3d_backward.default,
        3,
        batch=fractional_batch(aten.fractional_max_pool3d.default, 3),
    ),
    unpool_record(aten.max_unpool2d.default, 2),
    unpool_record(aten.max_unpool3d.default, 3),
    *linear_pair(
        aten.avg_pool2d.default,
        aten.avg_pool2d_backward.default,
        2,
        *(None, [], 0, False, True, None),
    ),
    *linear_pair(
        aten.avg_pool3d.default,
        aten.avg_pool3d_backward.default,
        3,
        *(None, [], 0, False, True, None),
    ),
    *adaptive_average_pair(
        aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default, 2
    ),
    *adaptive_average_pair(
        aten._adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d_backward.default, 3
    ),
)
