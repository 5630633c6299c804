"""Counting and membership: bincount, isin, repeat_interleave."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import DataDependentError, explain
from jaxtorch.linear.cast import promoted
from jaxtorch.linear.gather import Gather
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def refuse(what: str, fix: str) -> DataDependentError:
    """Return the error for a result whose shape the values decide."""
    return DataDependentError(
        explain(
            "vmap",
            f"the shape of {what} of a batched tensor is data-dependent (dynamic "
            "shape).",
            fix,
        )
    )


def bincount_batch(
    size: int, dims: Any, x: Tensor, weights: Tensor | None = None, minlength: int = 0
) -> Any:
    """Count into ``minlength`` bins; a value beyond them is out of bounds."""
    if not minlength:
        raise refuse("bincount", "pass minlength= greater than every value")
    x = batched_at_front(x, dims[0], size).long()
    if weights is None:
        weights = x.new_ones(()).expand(x.shape)
    else:
        weights = batched_at_front(weights, dims[1], size)
        if weights.dtype != torch.float32:
            weights = weights.double()
    zeros = weights.new_zeros((size, minlength))
    return torch.scatter_add(zeros, 1, x, weights), 0


def bincount_linearize(
    wanted: Any, x: Tensor, weights: Tensor | None = None, minlength: int = 0
) -> Any:
    """Linear in the weights."""
    out = torch.bincount(x, weights, minlength)
    added = Gather(0, x.long(), out.shape).transpose()
    return out, (None, weights is not None and promoted(added, weights, out))


def isin_decompose(
    elements: Any, test: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Compare every element with every test element."""
    if not isinstance(elements, Tensor):
        found = (test == elements).any()
    elif not isinstance(test, Tensor):
        found = elements == test
    else:
        found = (elements.unsqueeze(-1) == test.reshape(-1)).any(-1)
    return torch.logical_not(found) if invert else found


def repeat_interleave_decompose(
    repeats: Tensor, *, output_size: int | None = None
) -> Tensor:
    """Number each place by how many elements' copies have ended before it."""
    if output_size is None:
        raise refuse("repeat_interleave", "pass output_size=")
    ends = torch.cumsum(repeats, 0).long()
    marks = ends.new_zeros(output_size + 1)
    marks = torch.scatter_add(marks, 0, ends, torch.ones_like(ends))
    return torch.cumsum(marks, 0).narrow(0, 0, output_size).to(repeats.dtype)


def undifferentiable(overload: Any, decompose: Any) -> Record:
    """Make the record of an op whose derivative is zero."""
    return Record(overload, linearize=zero_derivative(overload), decompose=decompose)


RECORDS = (
    Record(aten.bincount.default, bincount_batch, bincount_linearize),
    undifferentiable(aten.isin.Tensor_Tensor, isin_decompose),
    undifferentiable(aten.isin.Tensor_Scalar, isin_decompose),
    undifferentiable(aten.isin.Scalar_Tensor, isin_decompose),
    Record(aten.repeat_interleave.Tensor, decompose=repeat_interleave_decompose),
)
