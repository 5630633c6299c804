"""Which functions of torch are replaced while a level is open, and by what."""

import torch

from jaxtorch.core import hooks
from jaxtorch.core.level import Wrapper
from jaxtorch.transforms import checkpoint, function, inside


def install() -> None:
    """Hand the replacements to the core, which puts them in place and back."""
    hooks.replace(
        torch.autograd.Function,
        "apply",
        function.ORIGINAL,
        classmethod(function.apply_function),
    )
    hooks.replace(
        torch.utils.checkpoint,
        "checkpoint",
        checkpoint.torch_checkpoint,
        checkpoint.checkpoint_inside,
    )
    hooks.replace(
        torch.utils.checkpoint,
        checkpoint.HOOKS,
        checkpoint.TORCH_HOOKS,
        checkpoint.hooks_inside,
    )
    hooks.replace(
        torch.autograd, "_engine_run_backward", inside.ORIGINAL, inside.run_backward
    )
    hooks.replace(
        torch.autograd.functional, "_grad_preprocess", inside.PREPARE, inside.prepare
    )
    Wrapper.retain_grad = inside.refuse_retain_grad  # type: ignore[assignment, method-assign]
