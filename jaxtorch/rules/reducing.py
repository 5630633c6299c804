"""Batching of ops that reduce or work along dims. No operator by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.rules.batching import entry_point, physical, physical_dims, to_front
from jaxtorch.rules.record import BatchRule


class Places:
    """Where an overload has its arguments ``dim`` and ``keepdim``."""

    def __init__(self, overload: OpOverload) -> None:
        arguments = overload._schema.arguments
        names = [a.name for a in arguments]
        self.dim = names.index("dim")
        self.keyword = arguments[self.dim].kwarg_only
        self.single = str(arguments[self.dim].type) == "int"
        self.defaults = [a.default_value for a in arguments]
        positional = [a.name for a in arguments if not a.kwarg_only]
        self.keepdim = (
            positional.index("keepdim") if "keepdim" in positional else len(names)
        )

    def dim_of(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Return the argument ``dim`` of one example, filling in the defaults."""
        if self.keyword:
            return kwargs.get("dim", self.defaults[self.dim])
        if len(args) <= self.dim:
            args += self.defaults[len(args) : self.dim + 1]
        return args[self.dim]

    def put(self, args: list[Any], kwargs: dict[str, Any], dim: Any) -> None:
        """Replace the argument ``dim``."""
        if self.keyword:
            kwargs["dim"] = dim
        else:
            args[self.dim] = dim


def reduction_batch(overload: OpOverload) -> BatchRule:
    """Batch an op that reduces the dims in its ``dim`` argument.

    No dims given means all dims of the example. ``dim`` and ``keepdim`` are found by
    their names in the schema; all other arguments are passed on.
    """
    call = entry_point(overload)
    places = Places(overload)
    usual = places.dim == 1 and not places.keyword
    single = places.single

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if dims[0]:
            x = x.movedim(dims[0], 0)
        rank = x.dim() - 1
        if usual and rank and args:
            dim = args[0]
            if single:
                return call(x, physical(dim, rank), *args[1:], **kwargs), 0
            if dim:
                dim = [physical(d, rank) for d in dim]
            else:
                dim = list(range(1, rank + 1))
            return call(x, dim, *args[1:], **kwargs), 0
        own = [x, *args]
        dim = places.dim_of(own, kwargs)
        if rank == 0:
            own[0] = x.unsqueeze(1)
            if len(own) > places.keepdim:
                own[places.keepdim] = False
            elif kwargs.get("keepdim"):
                kwargs["keepdim"] = False
        if places.single:
            places.put(own, kwargs, physical(dim, rank))
        else:
            places.put(own, kwargs, physical_dims(dim, rank or 1))
        return call(*own, **kwargs), 0

    return batch


def full_reduction_batch(call: Callable[..., Any]) -> BatchRule:
    """Batch a reduction of the whole example by ``call(x, dims, **kwargs)``."""

    def batch(size: int, dims: Any, x: Tensor, **kwargs: Any) -> Any:
        x = to_front(x, dims[0])
        if x.dim() == 1:
            x = x.unsqueeze(1)
        return call(x, list(range(1, x.dim())), **kwargs), 0

    return batch


def along_dim_batch(overload: OpOverload) -> BatchRule:
    """Batch an op that works along one dim and keeps it, with one or more results."""
    call = entry_point(overload)
    places = Places(overload)

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        x = to_front(x, dims[0])
        rank = x.dim() - 1
        own = [x, *args]
        places.put(own, kwargs, physical(places.dim_of(own, kwargs), rank))
        if rank:
            return call(*own, **kwargs), 0
        own[0] = x.unsqueeze(1)
        out = call(*own, **kwargs)
        if isinstance(out, Tensor):
            return out.squeeze(1), 0
        return tuple(o.squeeze(1) for o in out), 0

    return batch
