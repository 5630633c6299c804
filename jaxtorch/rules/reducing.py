"""Batching of reductions and other ops along dims. No operator by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.rules.batching import entry_point, physical, physical_dims, to_front
from jaxtorch.rules.record import BatchRule


def reduction_batch(overload: OpOverload) -> BatchRule:
    """Batch an op that reduces or works along the dims in its ``dim`` argument.

    No dims given means all dims of the example. ``dim`` and ``keepdim`` are found by
    their names in the schema; all other arguments are passed on.
    """
    call = entry_point(overload)
    names = [a.name for a in overload._schema.arguments if not a.kwarg_only]
    place = names.index("dim")
    argument = overload._schema.arguments[place]
    single = str(argument.type) == "int"
    before = [a.default_value for a in overload._schema.arguments[1:place]]
    keeps = names.index("keepdim") if "keepdim" in names else None

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        x = to_front(x, dims[0])
        rank = x.dim() - 1
        own = [x, *args]
        given = len(own)
        if given <= place:
            own += [*before[given - 1 :], argument.default_value]
        if rank == 0:
            own[0] = x.unsqueeze(1)
            if keeps is not None and given > keeps:
                own[keeps] = False
            elif kwargs.get("keepdim"):
                kwargs["keepdim"] = False
        dim = own[place]
        own[place] = (
            physical(dim, rank) if single else physical_dims(dim, rank or 1)
        )
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
