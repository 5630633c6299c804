"""Makers of whole records for families of alike operators. No operator by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from jaxtorch.linear.diagonal import Elementwise, elementwise
from jaxtorch.linear.operator import Zero
from jaxtorch.rules.batching import (
    binary_batch,
    broadcasting_batch,
    entry_point,
    equal_shapes_batch,
    unary_batch,
)
from jaxtorch.rules.fast import fused
from jaxtorch.rules.record import BatchRule, LinearizeRule, Record

ScaleFunction = Callable[..., Tensor]
ZERO = Zero()


def unary(overload: OpOverload, scale: ScaleFunction, saves: str = "input") -> Record:
    """Make the record of an elementwise op of one tensor.

    ``scale(t, x, *args)`` multiplies ``t`` by the derivative at ``x``; with
    ``saves="output"`` it is given the output in the place of ``x``, with
    ``saves="both"`` it is called as ``scale(t, x, out, *args)``. Keyword arguments of
    the call are handed on to ``scale``.
    """
    call = entry_point(overload)
    scale = fused(scale)

    def from_input(wanted: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            own = _with_keywords(scale, kwargs)
            return call(x, *args, **kwargs), (Elementwise(own, x, *args),)
        return call(x, *args), (Elementwise(scale, x, *args),)

    def from_output(wanted: Any, x: Tensor, *args: Any) -> Any:
        out = call(x, *args)
        return out, (Elementwise(scale, out, *args),)

    def from_both(wanted: Any, x: Tensor, *args: Any) -> Any:
        out = call(x, *args)
        return out, (Elementwise(scale, x, out, *args),)

    rules: dict[str, LinearizeRule] = {
        "input": from_input,
        "output": from_output,
        "both": from_both,
    }
    return Record(overload, unary_batch(call), rules[saves])


def _with_keywords(scale: ScaleFunction, kwargs: dict[str, Any]) -> ScaleFunction:
    return lambda *args: scale(*args, **kwargs)


def binary(
    overload: OpOverload,
    left: ScaleFunction | None,
    right: ScaleFunction | None,
    saves_output: bool = False,
) -> Record:
    """Make the record of an elementwise op of two operands that broadcast.

    ``left(t, x, y)`` and ``right(t, x, y)`` multiply ``t`` by the derivative with
    respect to the operand; None where it is zero. With ``saves_output`` they are
    called as ``left(t, x, y, out)``. Either operand may be a number.
    """
    call = entry_point(overload)
    left, right = left and fused(left), right and fused(right)

    def linearize(wanted: Any, x: Any, y: Any) -> Any:
        out = call(x, y)
        residuals = (x, y, out) if saves_output else (x, y)
        first: Any = ZERO
        second: Any = ZERO
        if wanted[0] and left is not None:
            first = elementwise(left, x, out, *residuals)
        if wanted[1] and right is not None:
            second = elementwise(right, y, out, *residuals)
        return out, (first, second)

    return Record(overload, binary_batch(call), linearize)


def gradient_kernel(
    overload: OpOverload,
    *seconds: ScaleFunction | None,
    batch: BatchRule | None = None,
    call: Callable[..., Any] | None = None,
) -> Record:
    """Make the record of a fused elementwise ``*_backward`` kernel.

    The first argument is the cotangent, in which the kernel is linear and its own
    transpose; the second is the only other tensor, unless ``batch`` is given.
    ``seconds`` are, for the arguments after the first, the functions
    ``second(t, *args)`` that multiply ``t`` by the derivative with respect to that
    argument; None where it is zero. ``call`` stands in for the overload.
    """
    kernel = call or overload
    seconds = tuple(second and fused(second) for second in seconds)

    def linearize(wanted: Any, *args: Any, **kwargs: Any) -> Any:
        out = kernel(*args, **kwargs)
        operators: list[Any] = [ZERO] * len(args)
        if wanted[0]:
            own = _with_keywords(kernel, kwargs) if kwargs else kernel
            operators[0] = elementwise(own, args[0], out, *args[1:])
        for place, second in enumerate(seconds, 1):
            if wanted[place] and second is not None:
                own = _with_keywords(second, kwargs) if kwargs else second
                operators[place] = elementwise(own, args[place], out, *args)
        return out, operators

    return Record(overload, batch or equal_shapes_batch(kernel), linearize)


def with_autograd(
    kernel: Callable[..., Any], formula: Callable[..., Tensor]
) -> Callable[..., Any]:
    """Return ``kernel``, or ``formula`` in its place where torch.autograd records.

    For the fused kernels that torch.autograd can't differentiate.
    """

    def call(g: Tensor, x: Tensor, *args: Any) -> Any:
        if (g.requires_grad or x.requires_grad) and torch.is_grad_enabled():
            return formula(g, x, *args)
        return kernel(g, x, *args)

    return call


def no_derivative(overload: OpOverload, batch: BatchRule | None = None) -> Record:
    """Make the record of an op whose derivative is zero or not defined."""
    call = entry_point(overload)
    return Record(overload, batch or broadcasting_batch(call), zero_derivative(call))


def no_derivatives(
    packet: OpOverloadPacket,
    names: str,
    batch: Callable[[Callable[..., Any]], BatchRule] = broadcasting_batch,
) -> list[Record]:
    """Make the records of several overloads of an op whose derivative is zero.

    ``names`` is separated by spaces; ``batch(call)`` makes their batching rule.
    """
    overloads = [getattr(packet, name) for name in names.split()]
    return [no_derivative(o, batch(entry_point(o))) for o in overloads]


def zero_derivative(call: Callable[..., Any]) -> LinearizeRule:
    """Return a linearize rule that says the output does not depend on its inputs."""

    def linearize(wanted: Any, *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs), ()

    return linearize
