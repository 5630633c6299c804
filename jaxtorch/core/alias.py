"""In-place writes and views: a wrapper is a handle, and a write rebinds its value.

A view remembers its parent and the call that took it. A write into a view computes the
parent's new value and goes on upwards; a view whose parent was written since it was
last read is taken anew when it is next used. A tensor that is never written costs one
look at an empty slot.
"""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


class Alias:
    """The ties of one wrapper: its version, and for a view how it was taken."""

    __slots__ = (
        "version",
        "parent",
        "tie",
        "seen",
        "grad_mode",
        "overload",
        "args",
        "kwargs",
        "index",
    )

    tie: "Alias"
    seen: int
    grad_mode: bool
    overload: OpOverload
    args: Any
    kwargs: Any
    index: Any

    def __init__(self) -> None:
        self.version = 0
        self.parent: Any = None


def link(
    view: Any, parent: Any, overload: OpOverload, call: tuple[Any, Any, Any]
) -> None:
    """Note that ``view`` is ``overload(parent, *args, **kwargs)[index]``."""
    if parent.alias is None:
        parent.alias = Alias()
    alias = view.alias = Alias()
    alias.parent = parent
    alias.tie = parent.alias
    alias.seen = parent.alias.version
    alias.grad_mode = torch.is_grad_enabled()
    alias.overload = overload
    alias.args, alias.kwargs, alias.index = call


def refresh(wrapper: Any) -> None:
    """Take a view anew if its parent was written since it was last read."""
    alias = wrapper.alias
    parent = alias.parent
    if parent is None:
        return
    while parent.alias is not alias.tie:
        parent = alias.parent = parent.alias.parent
    refresh(parent)
    if alias.seen != parent.alias.version:
        alias.seen = parent.alias.version
        alias.version += 1
        with torch.set_grad_enabled(alias.grad_mode):
            out = alias.overload(parent, *alias.args, **alias.kwargs)
        if alias.index is not None:
            out = out[alias.index]
        if type(out) is type(wrapper):
            wrapper.rebind(out)
        else:  # The level is closed: what is left of the view is its primal.
            wrapper.value = out


def write(wrapper: Any, value: Any) -> None:
    """Make ``value``, a wrapper of the same level, the new value of ``wrapper``."""
    alias = wrapper.alias
    if value.stride() != wrapper.stride() and value.shape == wrapper.shape:
        value = laid_out_like(value, wrapper)
    if not torch.is_grad_enabled() and value.shape == wrapper.shape:
        value = value.keep_history(wrapper)
    wrapper.rebind(value)
    if alias is None:
        wrapper.alias = alias = Alias()
    alias.version += 1
    if alias.parent is not None:
        write(alias.parent, scatter(alias, value))
        alias.seen = alias.parent.alias.version


def laid_out_like(value: Tensor, wrapper: Tensor) -> Tensor:
    """Return ``value`` dense and with its dims in the order of the wrapper's strides.

    A write never changes the strides of a tensor, so that it can be viewed as before.
    """
    order = sorted(range(wrapper.dim()), key=wrapper.stride, reverse=True)
    back = [order.index(d) for d in range(len(order))]
    return value.permute(order).contiguous().permute(back)


def restride(wrapper: Any, hidden: Any, view: Any) -> None:
    """Let a wrapper show ``view``, a view of what it showed until now: ``t_``.

    ``hidden`` takes its place and its ties, so that the views taken before are still
    views of what they were taken from; they find it when they are next refreshed.
    """
    own = view.alias
    hidden.alias = own.tie
    own.parent = hidden
    own.version = own.tie.version
    wrapper.alias = own
    wrapper.rebind(view)


def scatter(alias: Alias, value: Tensor) -> Any:
    """Return the parent's new value after its view became ``value``."""
    inverse = INVERSES.get(alias.overload, scatter_by_index)
    return inverse(alias, value)


def scatter_by_index(alias: Alias, value: Tensor) -> Tensor:
    """Write through any view: ask the view where the elements of its parent went."""
    parent = alias.parent
    index = torch.arange(parent.numel(), device=parent.device).reshape(parent.shape)
    taken = alias.overload(index, *alias.args, **alias.kwargs)
    taken = taken if alias.index is None else taken[alias.index]
    flat = torch.index_put(
        parent.reshape(-1), (taken.reshape(-1),), value.reshape(-1), False
    )
    return flat.reshape(parent.shape)


def _scatter_same_args(name: str) -> Any:
    overload = getattr(torch.ops.aten, name).default
    return lambda alias, value: overload(
        alias.parent, value, *alias.args, **alias.kwargs
    )


def _reshape_back(alias: Alias, value: Tensor) -> Tensor:
    return value.reshape(alias.parent.shape)


def _same(alias: Alias, value: Tensor) -> Tensor:
    return value


def _transpose_back(alias: Alias, value: Tensor) -> Tensor:
    return value.transpose(*alias.args)


def _permute_back(alias: Alias, value: Tensor) -> Tensor:
    order = [d % value.dim() for d in alias.args[0]]
    return value.permute([order.index(d) for d in range(len(order))])


def _unbind_back(alias: Alias, value: Tensor) -> Tensor:
    dim = alias.args[0] if alias.args else 0
    return torch.select_scatter(alias.parent, value, dim, alias.index)


INVERSES = {
    aten.select.int: _scatter_same_args("select_scatter"),
    aten.slice.Tensor: _scatter_same_args("slice_scatter"),
    aten.diagonal.default: _scatter_same_args("diagonal_scatter"),
    aten.as_strided.default: _scatter_same_args("as_strided_scatter"),
    aten.view.default: _reshape_back,
    aten.unsqueeze.default: _reshape_back,
    aten.squeeze.default: _reshape_back,
    aten.squeeze.dim: _reshape_back,
    aten.squeeze.dims: _reshape_back,
    aten.alias.default: _same,
    aten.detach.default: lambda alias, value: alias.parent.with_value(value),
    aten.t.default: lambda alias, value: value.t(),
    aten.transpose.int: _transpose_back,
    aten.permute.default: _permute_back,
    aten.unbind.int: _unbind_back,
    aten._conj.default: lambda alias, value: torch.conj_physical(value),
    aten._neg_view.default: lambda alias, value: torch.neg(value),
    aten.view_as_real.default: (
        lambda alias, value: torch.view_as_complex(value.contiguous())
    ),
    aten.view_as_complex.default: lambda alias, value: torch.view_as_real(value),
}
