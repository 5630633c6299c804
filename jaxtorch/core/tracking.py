"""What the forward and the reverse interpreter share: unwrapping, running primals."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.core.level import Level, Wrapper, tracked_by_autograd


def unwrap(
    level: Level, args: Sequence[Any], source_of: Callable[[Any], Any]
) -> tuple[list[Any], list[Any], bool, bool]:
    """Unwrap the arguments of ``level`` and collect what their derivatives flow from.

    Returns the values, the sources (None where nothing flows, a list for a list), and
    whether there is any source, and any value that torch.autograd tracks.
    """
    values: list[Any] = []
    sources: list[Any] = []
    wanted = tracked = False
    for arg in args:
        source = None
        if isinstance(arg, Tensor):
            if isinstance(arg, Wrapper) and arg.level is level:
                source = source_of(arg)
                arg = arg.value
                if source is not None:
                    wanted = True
            if arg.requires_grad:
                tracked = True
        elif type(arg) is list or type(arg) is tuple:
            arg, inner, any_wanted, any_tracked = unwrap(level, arg, source_of)
            tracked = tracked or any_tracked
            if any_wanted:
                wanted = True
                source = inner
        values.append(arg)
        sources.append(source)
    return values, sources, wanted, tracked


def run_primals(
    tracked: bool, func: Callable[..., Any], args: Sequence[Any], kwargs: Any
) -> Any:
    """Call ``func`` on unwrapped values, recorded by torch.autograd where it tracks."""
    if tracked and torch.is_grad_enabled():
        with tracked_by_autograd():
            return func(*args, **kwargs)
    return func(*args, **kwargs)


def has_derivative(out: Any) -> bool:
    """Tell whether any tensor in ``out`` is of a dtype that has derivatives."""
    if isinstance(out, Tensor):
        return out.is_floating_point() or out.is_complex()
    return isinstance(out, (list, tuple)) and any(has_derivative(o) for o in out)


def add_tangents(total: Any, other: Any) -> Any:
    """Add two tangents, or two tuples of them; None is a zero."""
    if total is None:
        return other
    if other is None:
        return total
    if isinstance(total, Tensor):
        return total + other
    return tuple(add_tangents(a, b) for a, b in zip(total, other, strict=True))
