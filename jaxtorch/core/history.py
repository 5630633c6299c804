"""What a write leaves of the derivatives: by ``detach()``, and under ``no_grad``."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.core.level import Wrapper, tracked_by_autograd


def keep_derivatives(old: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` with the derivatives of ``old``: a write by ``detach()``."""
    if isinstance(old, Wrapper):
        return old.with_value(value)
    if not old.requires_grad:
        return value
    with tracked_by_autograd():
        out = old.clone()
        out.detach().copy_(value)
    return out


def keep_history(old: Tensor, value: Tensor) -> Any:
    """Return ``value`` with what was recorded of ``old``: a write under no_grad."""
    if isinstance(old, Wrapper):
        if not isinstance(value, Wrapper) or value.level is not old.level:
            value = old.level.lift(value)
        return value.keep_history(old)  # type: ignore[attr-defined]
    if isinstance(value, Wrapper) or not old.requires_grad:
        return value
    with torch.enable_grad(), tracked_by_autograd():
        out = old.clone()
        out.detach().copy_(value)
    return out
