"""The batching interpreter: runs a primitive on all examples at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from jaxtorch.core import fallback
from jaxtorch.core.history import keep_derivatives, keep_history
from jaxtorch.core.level import (
    DEAD,
    UNCHANGED,
    Level,
    Wrapper,
    is_index,
    make_index,
    make_wrapper,
    offset_of,
    stride_of,
    tracked_by_autograd,
)
from jaxtorch.core.plain import any_requires_grad
from jaxtorch.core.primitive import Kind, Primitive
from jaxtorch.errors import (
    DataDependentError,
    EscapedTensorError,
    RandomnessError,
    explain,
)


class BatchTensor(Wrapper):
    """All examples of one value; ``batch_dim`` is None where they are the same."""

    __slots__ = ("batch_dim",)

    batch_dim: int | None

    def rebind(self, other: Self) -> None:
        self.value = other.value
        self.batch_dim = other.batch_dim

    def is_constant(self) -> bool:
        return self.batch_dim is None

    def keep_history(self, old: Any) -> Any:
        if self.batch_dim == old.batch_dim:
            value = keep_history(old.value, self.value)
            return wrap(self.level, value, self.batch_dim)
        size = self.level.size
        with torch.enable_grad(), tracked_by_autograd():
            past = at_front(old, size)
        return wrap(self.level, keep_history(past, at_front(self, size)), 0)

    def with_value(self, value: Tensor) -> Tensor:
        if not isinstance(value, BatchTensor) or value.level is not self.level:
            value = wrap(self.level, value, None)
        if value.batch_dim == self.batch_dim:
            value = keep_derivatives(self.value, value.value)
            return wrap(self.level, value, self.batch_dim)
        size = self.level.size
        with tracked_by_autograd():
            past = at_front(self, size)
        return wrap(self.level, keep_derivatives(past, at_front(value, size)), 0)

    def tolist(self) -> Any:
        """Refuse values that differ between the examples, as ``item()`` does."""
        if self.level.depth >= DEAD:
            return self.level.unwrap_dead(self).tolist()
        if self.batch_dim is None:
            return super().tolist()
        raise DataDependentError(
            explain(
                "vmap",
                "calling .tolist() on a batched tensor: its values differ between the "
                "examples.",
                "compute with tensors, or call it on the result",
            )
        )

    def describe(self) -> str:
        size = getattr(self.level, "size", "?")
        where = f"B={size} at dim {self.batch_dim}"
        if self.batch_dim is None:
            where = "not batched"
        return (
            f"BatchTensor({where}, per-example shape {list(self.shape)},\n{self.value})"
        )


def at_front(x: BatchTensor, size: int) -> Tensor:
    """Return the value with its batch dim in front, repeated where it has none."""
    if x.batch_dim is None:
        return x.value.expand(size, *x.value.shape)
    return x.value.movedim(x.batch_dim, 0) if x.batch_dim else x.value


def wrap(level: "BatchLevel", value: Tensor, batch_dim: int | None) -> BatchTensor:
    """Make the per-example view of ``value``."""
    shape = value.shape
    stride = stride_of(value)
    if batch_dim == 0:
        shape = shape[1:]
        stride = stride[1:]
    elif batch_dim is not None:
        shape = shape[:batch_dim] + shape[batch_dim + 1 :]
        stride = stride[:batch_dim] + stride[batch_dim + 1 :]
    out: BatchTensor
    if (
        shape
        or value.dtype.is_floating_point
        or (batch_dim is None and not is_index(value))
    ):
        out = make_wrapper(
            BatchTensor,
            shape,
            stride,
            offset_of(value),
            None,
            value.dtype,
            value.layout,
            value.device,
        )
    else:
        out = make_index(BatchTensor, value)
    out.level = level
    out.value = value
    out.batch_dim = batch_dim
    out.alias = None
    return out


def constant_rule(primitive: Primitive) -> Any:
    """Return the rule for arguments of which none is batched: the overload itself."""
    return lambda size, dims, *args, **kwargs: (
        primitive.overload(*args, **kwargs),
        None,
    )


class BatchLevel(Level):
    """One open ``vmap``: the batch size and how random numbers are drawn."""

    transform = "vmap"

    def __init__(
        self, size: int, randomness: str = "error", strict: bool = False
    ) -> None:
        self.size = size
        self.randomness = randomness
        self.strict = strict
        self.lifts_random = randomness != "same"

    def lift(self, out: Any) -> Any:
        return self.wrap_output(out, None)

    def unwrap_dead(self, wrapper: Wrapper) -> Tensor:
        if isinstance(wrapper, BatchTensor) and wrapper.batch_dim is None:
            return wrapper.value
        raise EscapedTensorError(
            explain(
                "vmap",
                f"a batched tensor of shape {list(wrapper.shape)} is used after its "
                "vmap has returned.",
                "return the tensor from the function instead of storing it",
            )
        )

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        values: list[Any] = []
        dims: list[Any] = []
        batched = tracked = False
        for arg in args:
            dim = None
            if isinstance(arg, Tensor):
                if type(arg) is BatchTensor and arg.level is self:
                    dim = arg.batch_dim
                    if dim is not None:
                        batched = True
                    arg = arg.value
                if arg.requires_grad:
                    tracked = True
            elif type(arg) is list or type(arg) is tuple:
                arg, dim, any_batched = self.unwrap_list(arg)
                if any_batched:
                    batched = True
                if any_requires_grad(arg):
                    tracked = True
            values.append(arg)
            dims.append(dim)
        if kwargs:
            own, named = self.unwrap_kwargs(kwargs)
            if named:
                out = self.run_named(primitive, dims, named, values, own)
                unknown = out is NotImplemented
                return self.without_rule(primitive, args, kwargs) if unknown else out
            kwargs = own
        if primitive.kind is Kind.RANDOM:
            rule = self.random_rule(primitive, batched)
        else:
            rule = primitive.batch if batched else constant_rule(primitive)
        if rule is None:
            return self.without_rule(primitive, args, kwargs)
        if tracked and torch.is_grad_enabled():
            with tracked_by_autograd():
                out, out_dims = rule(self.size, dims, *values, **kwargs)
        else:
            out, out_dims = rule(self.size, dims, *values, **kwargs)
        if isinstance(out, Tensor):
            return wrap(self, out, out_dims)
        return self.wrap_output(out, out_dims)

    def run_named(
        self, primitive: Primitive, dims: Any, named: Any, values: Any, kwargs: Any
    ) -> Any:
        """Run the rule for batched keyword arguments; NotImplemented without one."""
        rule = primitive.record and primitive.record.named_batch
        if not rule:
            return NotImplemented
        with tracked_by_autograd() if torch.is_grad_enabled() else UNCHANGED:
            out, out_dims = rule(self.size, dims, named, *values, **kwargs)
        return self.wrap_output(out, out_dims)

    def without_rule(
        self, primitive: Primitive, args: Sequence[Any], kwargs: Any
    ) -> Any:
        """Decompose, or run once per example."""
        out = fallback.decompose(self, primitive, args, kwargs)
        if out is not NotImplemented:
            return out
        return self.loop(primitive, args, kwargs)

    def loop(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        """Run once per example."""
        return self.wrap_output(*fallback.loop(self, primitive, args, kwargs))

    def random_rule(self, primitive: Primitive, batched: bool) -> Any:
        """Return the rule that draws as randomness= asks; refuse what it forbids.

        A primitive with our own decomposition draws nothing itself.
        """
        record = primitive.record
        if self.randomness == "different" or (record and record.decompose):
            return primitive.batch
        remedy = "pass randomness='different' (a draw for each example)"
        if self.randomness == "error":
            remedy += " or randomness='same' (one draw for all)"
            what = (
                f"vmap: called random operation {primitive.overload} while in "
                "randomness error mode."
            )
        elif not batched:
            return constant_rule(primitive)
        elif record is not None and record.share is not None:
            return record.share
        else:
            what = (
                f"{primitive.overload} does not currently support same randomness with "
                "a batched tensor input."
            )
        raise RandomnessError(
            explain(
                "vmap",
                what,
                remedy,
            )
        )

    def unwrap_list(self, items: Sequence[Any]) -> tuple[Any, Any, bool]:
        """Unwrap a list argument: its values, their batch dims, any batched."""
        values = []
        dims: list[int | None] = []
        batched = False
        for item in items:
            dim = None
            if type(item) is BatchTensor and item.level is self:
                dim = item.batch_dim
                item = item.value
                batched = batched or dim is not None
            values.append(item)
            dims.append(dim)
        return values, dims, batched

    def unwrap_kwargs(self, kwargs: Any) -> tuple[Any, dict[str, int]]:
        """Unwrap keyword arguments: their values, and the batch dims that there are."""
        mine = {
            k: v
            for k, v in kwargs.items()
            if type(v) is BatchTensor and v.level is self
        }
        if not mine:
            return kwargs, {}
        named = {k: v.batch_dim for k, v in mine.items() if v.batch_dim is not None}
        return {**kwargs, **{k: v.value for k, v in mine.items()}}, named

    def wrap_output(self, out: Any, dims: Any) -> Any:
        """Wrap the tensors of an output whose batch dims are ``dims``."""
        if isinstance(out, Tensor):
            return wrap(self, out, dims)
        if isinstance(out, (list, tuple)):
            if not isinstance(dims, (list, tuple)):
                dims = [dims] * len(out)
            wrapped = [self.wrap_output(o, d) for o, d in zip(out, dims, strict=True)]
            return wrapped if isinstance(out, list) else tuple(wrapped)
        return out
