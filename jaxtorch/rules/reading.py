"""Reading a Python number out of a tensor: item(), bool(), float(), int()."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import DataDependentError, explain
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


RECORDS = (Record(aten._local_scalar_dense.default, local_scalar_batch),)
