"""Makers of whole records for families of alike operators. No operator by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.cast import promoted
from jaxtorch.linear.diagonal import BroadcastElementwise, Elementwise
from jaxtorch.rules.batching import broadcasting_batch, entry_point, unary_batch
from jaxtorch.rules.record import LinearizeRule, Record


def unary(
    overload: OpOverload, scale: Callable[..., Tensor], saves: str = "input"
) -> Record:
    """Make the record of an elementwise op of one tensor.

    ``scale(t, x, *args)`` multiplies ``t`` by the derivative at ``x``; with
    ``saves="output"`` it is given the output in the place of ``x``, with
    ``saves="both"`` it is called as ``scale(t, x, out, *args)``.
    """
    call = entry_point(overload)

    def from_input(wanted: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = call(x, *args, **kwargs)
        return out, (promoted(Elementwise(scale, x, *args), x, out),)

    def from_output(wanted: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = call(x, *args, **kwargs)
        return out, (promoted(Elementwise(scale, out, *args), x, out),)

    def from_both(wanted: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = call(x, *args, **kwargs)
        return out, (promoted(Elementwise(scale, x, out, *args), x, out),)

    rules = {"input": from_input, "output": from_output, "both": from_both}
    return Record(overload, unary_batch(call), rules[saves])


def binary(
    overload: OpOverload,
    left: Callable[..., Tensor] | None,
    right: Callable[..., Tensor] | None,
) -> Record:
    """Make the record of an elementwise op of two operands that broadcast.

    ``left(t, x, y)`` and ``right(t, x, y)`` multiply ``t`` by the derivative with
    respect to the operand; None where there is no derivative. The saved residuals are
    both operands.
    """
    call = entry_point(overload)

    def linearize(wanted: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        out = call(x, y, *args, **kwargs)
        operators: list[Any] = [None, None]
        for place, (operand, scale) in enumerate(((x, left), (y, right))):
            if wanted[place] and scale is not None:
                operator = BroadcastElementwise(
                    scale, operand.shape, out.shape, x, y, *args
                )
                operators[place] = promoted(operator, operand, out)
        return out, operators

    return Record(overload, broadcasting_batch(call), linearize)


def no_derivative(overload: OpOverload, batch: Any = None) -> Record:
    """Make the record of an op whose derivative is zero or not defined."""
    call = entry_point(overload)
    return Record(overload, batch or broadcasting_batch(call), zero_derivative(call))


def zero_derivative(call: Callable[..., Any]) -> LinearizeRule:
    """Return a linearize rule that says the output does not depend on its inputs."""

    def linearize(wanted: Any, *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs), ()

    return linearize
