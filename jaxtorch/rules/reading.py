"""Reading a Python number or truth value out of a tensor: item(), bool(), equal()."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import DataDependentError, explain
from jaxtorch.rules.batching import batched_at_front
from jaxtorch.rules.makers import no_derivative, zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def local_scalar_batch(size: int, dims: Any, x: Tensor) -> Any:
    """Refuse: there is one number per example."""
    raise DataDependentError(
        explain(
            "vmap",
            "calling .item() on a Tensor, or using it in data-dependent control flow "
            "(if, while, bool(), float(), int()), asks for one number, but a batched "
            "tensor holds one per example.",
            "compute all branches and choose with torch.where(condition, x, y)",
        )
    )


def equal_batch(size: int, dims: Any, x: Tensor, y: Tensor) -> Any:
    """One answer for all examples; refused where theirs differ."""
    x, y = batched_at_front(x, dims[0], size), batched_at_front(y, dims[1], size)
    if x.shape != y.shape:
        return False, None
    same = torch.all((x == y).reshape(size, x.shape[1:].numel()), 1)
    everywhere = torch.equal(same, torch.ones_like(same))
    if everywhere or torch.equal(same, torch.zeros_like(same)):
        return everywhere, None
    raise DataDependentError(
        explain(
            "vmap",
            "torch.equal gives another answer for each example.",
            "compute all branches and choose with torch.where, by (x == y).all()",
        )
    )


def for_all_examples(call: Callable[[Tensor], Tensor]) -> Any:
    """Batch a check by one answer for all examples together.

    ``torch.distributions`` asks so whether its arguments are valid. As in torch.func.
    """

    def batch(size: int, dims: Any, x: Tensor) -> Any:
        return call(x), None

    return batch


RECORDS = (
    Record(aten._local_scalar_dense.default, local_scalar_batch),
    Record(aten.equal.default, equal_batch, zero_derivative(torch.equal)),
    no_derivative(aten._is_all_true.default, for_all_examples(torch._is_all_true)),
    no_derivative(aten._is_any_true.default, for_all_examples(torch._is_any_true)),
)
