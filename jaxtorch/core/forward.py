"""The forward interpreter: carries a tangent beside every primal."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from jaxtorch.core import fallback
from jaxtorch.core.history import keep_derivatives, keep_history
from jaxtorch.core.level import (
    Level,
    Wrapper,
    is_index,
    make_index,
    make_wrapper,
    offset_of,
    stride_of,
    tracked_by_autograd,
)
from jaxtorch.core.primitive import Primitive
from jaxtorch.core.tracking import add_tangents, has_derivative, run_primals, unwrap
from jaxtorch.linear.operator import Joined


class DualTensor(Wrapper):
    """A primal and its tangent; the tangent None is a zero."""

    __slots__ = ("tangent",)

    tangent: Tensor | None

    def rebind(self, other: Self) -> None:
        self.value = other.value
        self.tangent = other.tangent

    def is_constant(self) -> bool:
        return self.tangent is None

    def keep_history(self, old: Any) -> Any:
        value = keep_history(old.value, self.value)
        tangent = self.tangent
        if tangent is not None and old.tangent is not None:
            tangent = keep_history(old.tangent, tangent)
        return wrap(self.level, value, tangent)

    def with_value(self, value: Tensor) -> Tensor:
        if isinstance(value, DualTensor) and value.level is self.level:
            value = value.value
        return wrap(self.level, keep_derivatives(self.value, value), self.tangent)

    def describe(self) -> str:
        return f"DualTensor(\nprimal={self.value},\ntangent={self.tangent})"


def wrap(level: "ForwardLevel", value: Tensor, tangent: Tensor | None) -> DualTensor:
    """Pair ``value`` with ``tangent``."""
    shape = value.shape
    out: DualTensor
    if shape or not is_index(value):
        out = make_wrapper(
            DualTensor,
            shape,
            stride_of(value),
            offset_of(value),
            None,
            value.dtype,
            value.layout,
            value.device,
        )
    else:
        out = make_index(DualTensor, value)
    out.level = level
    out.value = value
    out.tangent = tangent
    out.alias = None
    return out


def push(record: Any, sources: list[Any], values: list[Any], kwargs: Any) -> Any:
    """Run a rule and push the tangents in ``sources`` through its operators."""
    if record.push is not None:
        tangents = [None if source is None else source[0] for source in sources]
        return record.push(tangents, *values, **kwargs)
    result = record.linearize(sources, *values, **kwargs)
    if result is NotImplemented:
        return result, None
    out, operators = result
    total = None
    for operator, source in zip(operators, sources, strict=False):
        if source is None:
            continue
        if isinstance(operator, Joined):
            tangents = [None if own is None else own[0] for own in source]
            total = add_tangents(total, operator.apply_all(tangents))
        elif type(source) is list:
            for each, own in zip(operator, source, strict=True):
                if own is not None:
                    total = add_tangents(total, each.apply(own[0]))
        else:
            tangent = operator.apply(source[0])
            total = tangent if total is None else add_tangents(total, tangent)
    return out, total


def any_tracked(sources: list[Any]) -> bool:
    """Tell whether torch.autograd tracks any tangent in ``sources``."""
    for source in sources:
        if type(source) is list:
            if any_tracked(source):
                return True
        elif source is not None and source[0].requires_grad:
            return True
    return False


class ForwardLevel(Level):
    """One open ``jvp``."""

    transform = "jvp"

    def lift(self, out: Any) -> Any:
        return self.wrap_output(out, None)

    def source_of(self, arg: Any) -> Any:
        """Return the tangent of an argument in a tuple of one, None for a zero."""
        tangent = arg.tangent
        return None if tangent is None else (tangent,)

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        values, sources, wanted, tracked = unwrap(self, args, self.source_of)
        if kwargs:
            if any(self.depends(v) for v in kwargs.values()):
                return fallback.decompose_or_raise(self, primitive, args, kwargs)
            kwargs = {k: self.constant(v) for k, v in kwargs.items()}
        if not wanted:
            out = run_primals(tracked, primitive.overload, values, kwargs)
            return self.wrap_output(out, None)
        if primitive.linearize is None:
            return self.without_rule(tracked, primitive, values, args, kwargs)
        if torch.is_grad_enabled() and (tracked or any_tracked(sources)):
            with tracked_by_autograd():
                out, tangents = push(primitive.record, sources, values, kwargs)
        else:
            out, tangents = push(primitive.record, sources, values, kwargs)
        if isinstance(out, Tensor):
            return wrap(self, out, tangents if has_derivative(out) else None)
        if out is NotImplemented:
            return self.without_rule(tracked, primitive, values, args, kwargs)
        return self.wrap_output(out, tangents)

    def without_rule(
        self,
        tracked: bool,
        primitive: Primitive,
        values: list[Any],
        args: Sequence[Any],
        kwargs: Any,
    ) -> Any:
        """Decompose; without a decomposition only what has no derivative may run."""
        out = fallback.decompose(self, primitive, args, kwargs)
        if out is not NotImplemented:
            return out
        out = run_primals(tracked, primitive.overload, values, kwargs)
        if has_derivative(out):
            raise fallback.missing_derivative(primitive, self)
        return self.wrap_output(out, None)

    def depends(self, arg: Any) -> bool:
        """Tell whether an argument has a tangent."""
        return type(arg) is DualTensor and arg.level is self and arg.tangent is not None

    def constant(self, arg: Any) -> Any:
        """Unwrap a keyword argument, which no rule differentiates."""
        return arg.value if type(arg) is DualTensor and arg.level is self else arg

    def wrap_output(self, out: Any, tangents: Any) -> Any:
        """Pair the tensors of an output with their tangents."""
        if isinstance(out, Tensor):
            if tangents is not None and not has_derivative(out):
                tangents = None
            return wrap(self, out, tangents)
        if isinstance(out, (list, tuple)):
            if tangents is None:
                tangents = [None] * len(out)
            wrapped = [
                self.wrap_output(o, t) for o, t in zip(out, tangents, strict=True)
            ]
            return wrapped if isinstance(out, list) else tuple(wrapped)
        return out
