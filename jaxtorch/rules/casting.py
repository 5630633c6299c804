"""Copies and casts: clone, dtype, device, filling, and complex numbers as pairs."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import Broadcast
from jaxtorch.linear.cast import Cast, cast_to, promoted
from jaxtorch.linear.operator import General, Identity
from jaxtorch.rules.batching import (
    batched_at_front,
    pad_rank,
    to_front,
    unary_batch,
)
from jaxtorch.rules.makers import ZERO, binary, zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten

IDENTITY = (Identity(),)
CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)


def clone_batch(size: int, dims: Any, x: Tensor, *, memory_format: Any = None) -> Any:
    """A channels-last layout has no meaning with a batch dim; the layout is kept."""
    if memory_format is torch.contiguous_format:
        return to_front(x, dims[0]).clone(memory_format=memory_format), 0
    return torch.clone(x), dims[0]


def clone_linearize(wanted: Any, x: Tensor, **kwargs: Any) -> Any:
    """The identity."""
    return torch.clone(x, **kwargs), IDENTITY


def to_copy_batch(size: int, dims: Any, x: Tensor, **kwargs: Any) -> Any:
    """A channels-last layout has no meaning with a batch dim; the layout is kept."""
    dim = dims[0]
    if "memory_format" not in kwargs:
        return cast_copy(x, **kwargs), dim
    memory_format = kwargs["memory_format"]
    if memory_format is torch.contiguous_format:
        x = to_front(x, dim)
        dim = 0
    elif memory_format in CHANNELS_LAST:
        kwargs = {k: v for k, v in kwargs.items() if k != "memory_format"}
    return aten._to_copy.default(x, **kwargs), dim


def cast_copy(x: Tensor, **kwargs: Any) -> Any:
    """Call ``_to_copy``, by the cheaper ``Tensor.to`` for a change of dtype."""
    if len(kwargs) == 1 and "dtype" in kwargs:
        dtype = kwargs["dtype"]
        if dtype is not None and dtype is not x.dtype:
            return x.to(dtype)
    return aten._to_copy.default(x, **kwargs)


def to_copy_linearize(wanted: Any, x: Tensor, **kwargs: Any) -> Any:
    """The same cast, back for the transpose."""
    out = cast_copy(x, **kwargs)
    if "device" not in kwargs or out.device == x.device:
        if out.dtype is x.dtype:
            return out, IDENTITY
        return out, (Cast(x.dtype, out.dtype),)
    own, other = x.device, out.device
    moved = General(lambda t: t.to(other), lambda ct: ct.to(own))
    return out, (promoted(moved, x, out),)


def copied(x: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
    """``aten.copy`` in operators that torch.autograd differentiates."""
    out = cast_to(source, x.dtype)
    if out.device != x.device:
        out = out.to(x.device, non_blocking=non_blocking)
    return out.expand(x.shape).clone()


def copy_batch(
    size: int, dims: Any, x: Tensor, source: Tensor, non_blocking: bool = False
) -> Any:
    """``source`` in the shape, dtype and device of ``x``, whose values are lost."""
    dx, dim = dims[:2]
    if dx is not None:
        x = x.select(dx, 0) if x.shape[dx] else x.sum(dx)
    shape = x.shape
    if dim is None:
        return copied(x, source, non_blocking), None
    source = pad_rank(to_front(source, dim), len(shape))
    return copied(x.expand(size, *shape), source, non_blocking), 0


def copy_linearize(
    wanted: Any, x: Tensor, source: Tensor, non_blocking: bool = False
) -> Any:
    """The tangent of ``source``, cast and broadcast as it is."""
    out = copied(x, source, non_blocking)
    if not wanted[1]:
        return out, ()
    operator: Any = IDENTITY[0]
    if source.shape != out.shape:
        operator = Broadcast(source.shape, out.shape)
    if source.device != out.device:
        own, other = source.device, out.device
        operator = General(lambda t: t.to(other), lambda ct: ct.to(own))
    return out, (ZERO, promoted(operator, source, out))


def fill_tensor_batch(size: int, dims: Any, x: Tensor, value: Tensor) -> Any:
    """``value``, one number for each example, in the shape and dtype of ``x``."""
    dx, dim = dims
    if dx is not None:
        x = to_front(x, dx)
    shape = x.shape if dx is None else x.shape[1:]
    value = batched_at_front(value, dim, size).to(x)
    value = value.reshape(size, *[1] * len(shape))
    return value.expand(size, *shape).clone(memory_format=torch.contiguous_format), 0


def fill_tensor_linearize(wanted: Any, x: Tensor, value: Tensor) -> Any:
    """The tangent of ``value``, broadcast."""
    out = torch.fill(x, value)
    if not wanted[1]:
        return out, ()
    return out, (ZERO, promoted(Broadcast(value.shape, out.shape), value, out))


def identity_batch(size: int, dims: Any, x: Tensor) -> Any:
    """The same examples."""
    return x, dims[0]


def identity_linearize(wanted: Any, x: Tensor) -> Any:
    """The identity."""
    return x, IDENTITY


# Inside of dispatch PyTorch ignores the bit of a lazily conjugated tensor.
CONJUGATE = (General(torch.conj_physical, torch.conj_physical),)


def conj_linearize(wanted: Any, x: Tensor) -> Any:
    """Conjugation is linear over the reals and its own adjoint."""
    return torch.conj_physical(x), CONJUGATE


NEGATE = (General(torch.neg, torch.neg),)


def neg_view_linearize(wanted: Any, x: Tensor) -> Any:
    """The negative."""
    return torch.neg(x), NEGATE


def pairs_to_complex(x: Tensor) -> Tensor:
    """Read the last dim, of two elements, as real and imaginary part."""
    x = x.contiguous()
    if x.stride(-1) != 1:  # An empty tensor counts as contiguous with any strides.
        x = x.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(x)


def view_as_complex_batch(size: int, dims: Any, x: Tensor) -> Any:
    """The last dim must stay the last."""
    return pairs_to_complex(to_front(x, dims[0])), 0


AS_COMPLEX = (General(pairs_to_complex, torch.view_as_real),)
AS_REAL = (General(torch.view_as_real, pairs_to_complex),)


def view_as_complex_linearize(wanted: Any, x: Tensor) -> Any:
    """The same reinterpretation; back for the adjoint."""
    return torch.view_as_complex(x), AS_COMPLEX


def view_as_real_linearize(wanted: Any, x: Tensor) -> Any:
    """The same reinterpretation; back for the adjoint."""
    return torch.view_as_real(x), AS_REAL


def view_as_real_batch(size: int, dims: Any, x: Tensor) -> Any:
    """The new dim is the last one."""
    return torch.view_as_real(x), dims[0]


def fill_scalar_batch(size: int, dims: Any, x: Tensor, value: Any) -> Any:
    """The result does not depend on the examples."""
    return torch.fill(x, value), dims[0]


RECORDS = (
    Record(aten.clone.default, clone_batch, clone_linearize),
    Record(aten._to_copy.default, to_copy_batch, to_copy_linearize),
    Record(aten.copy.default, copy_batch, copy_linearize),
    Record(aten.fill.Scalar, fill_scalar_batch, zero_derivative(torch.fill)),
    Record(aten.fill.Tensor, fill_tensor_batch, fill_tensor_linearize),
    Record(
        aten.zero.default,
        unary_batch(torch.zeros_like),
        zero_derivative(torch.zeros_like),
    ),
    Record(aten.lift.default, identity_batch, identity_linearize),
    Record(aten.lift_fresh.default, identity_batch, identity_linearize),
    Record(aten.lift_fresh_copy.default, clone_batch, clone_linearize),
    *(
        Record(overload, unary_batch(torch.conj_physical), conj_linearize)
        for overload in (
            aten._conj.default,
            aten._conj_physical.default,
            aten.conj_physical.default,
        )
    ),
    Record(aten._neg_view.default, unary_batch(torch.neg), neg_view_linearize),
    Record(aten.view_as_real.default, view_as_real_batch, view_as_real_linearize),
    Record(
        aten.view_as_complex.default, view_as_complex_batch, view_as_complex_linearize
    ),
    binary(aten.complex.default, lambda t, x, y: t, lambda t, x, y: t * 1j),
    binary(
        aten.polar.default,
        lambda t, r, angle: t * torch.polar(torch.ones_like(r), angle),
        lambda t, r, angle: t * torch.polar(r, angle) * 1j,
    ),
)
