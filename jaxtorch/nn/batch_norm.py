"""``replace_all_batch_norm_modules_``: batch norm without running statistics."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from jaxtorch.nn.slots import check_module


def replace_all_batch_norm_modules_(root: nn.Module) -> nn.Module:
    """Switch off the running statistics of every batch norm in ``root``, in place.

    A batch norm that updates running statistics writes what it saw of one example into
    a buffer that all examples share, which ``vmap`` refuses. Without them it always
    normalizes by the statistics of its own input.

    Args:
        root: a module; changed in place, itself too where it is a batch norm.

    Returns:
        ``root``.

    Raises:
        ArgumentTypeError: (a TypeError) where ``root`` is no module.

    Examples:
        >>> import torch, jaxtorch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
        >>> list(jaxtorch.replace_all_batch_norm_modules_(model).buffers())
        []

    Source: the behaviour of ``torch.func.replace_all_batch_norm_modules_``.
    """
    check_module("replace_all_batch_norm_modules_", root)
    for module in root.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.running_mean = None
            module.running_var = None
            module.num_batches_tracked = None
            module.track_running_stats = False
    return root
