"""Plain tensors inside a dispatch: lazy bits, and what torch.autograd records."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

exclude = torch._C._dispatch_tls_set_dispatch_key_excluded
CONJUGATE = torch._C.DispatchKey.Conjugate
NEGATIVE = torch._C.DispatchKey.Negative


def heed_lazy_bits() -> None:
    """Let kernels heed the lazy conjugation and negation of plain tensors.

    PyTorch turns that off inside a dispatch, also for the kernels that conjugate lazily
    themselves; it restores its own settings at the end.
    """
    exclude(CONJUGATE, False)
    exclude(NEGATIVE, False)


def settled(value: Tensor) -> Tensor:
    """Carry out a lazy conjugation or negation: within dispatch its bit is ignored."""
    if value.is_conj() or value.is_neg():
        return value.resolve_conj().resolve_neg()
    return value


def any_requires_grad(args: Sequence[Any]) -> bool:
    """Tell whether torch.autograd tracks any tensor in ``args``."""
    for arg in args:
        if isinstance(arg, Tensor):
            if arg.requires_grad:
                return True
        elif (type(arg) is list or type(arg) is tuple) and any_requires_grad(arg):
            return True
    return False


def saves_for_backward() -> bool:
    """Tell whether torch.autograd, recording a wrapper, calls ``detach`` to save it.

    The derivatives at our levels must then be kept. It calls from outside its kernels,
    a user's ``detach()`` from within one.
    """
    key = torch._C.DispatchKey.ADInplaceOrView
    return not (
        torch._C._dispatch_tls_is_dispatch_key_excluded(key)
        or torch.is_inference_mode_enabled()
    )
