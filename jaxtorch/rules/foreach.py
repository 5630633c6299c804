"""The operators on lists of tensors, ``_foreach_*``: one ordinary call for each item.

Their records are made when they are first met: there are about two hundred overloads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.rules.record import Record

aten = torch.ops.aten
PREFIX = "aten::_foreach_"


def scaled(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let addcmul or addcdiv take its factor in the last place, also as a tensor."""

    def own(x: Tensor, a: Tensor, b: Tensor, value: Any = 1) -> Tensor:
        if isinstance(value, Tensor):
            return x + call(torch.zeros_like(x), a, b) * value
        return call(x, a, b, value=value)

    return own


def powsum(x: Tensor, order: Any = 2, dtype: Any = None) -> Tensor:
    """The sum of the powers of the absolute values."""
    return torch.sum(torch.pow(torch.abs(x), order), dtype=dtype)


def norm(x: Tensor, order: Any = 2, dtype: Any = None) -> Any:
    """The vector norm of all elements."""
    return aten.linalg_vector_norm.default(x, order, dtype=dtype)


# What an item is given to, where it is not the operator of the same name.
CALLS: dict[str, Callable[..., Any]] = {
    "addcdiv": scaled(torch.addcdiv),
    "addcmul": scaled(torch.addcmul),
    "maximum": torch.clamp_min,
    "minimum": torch.clamp_max,
    "norm": norm,
    "powsum": powsum,
}


def record_of(overload: OpOverload) -> Record | None:
    """Make the record of an operator on lists; None for every other overload."""
    name = overload._schema.name
    if not name.startswith(PREFIX):
        return None
    base = name.removeprefix(PREFIX)
    writes = base.endswith("_")
    base = base.removesuffix("_")
    call = CALLS.get(base) or getattr(aten, base)
    listed = [
        str(argument.type).startswith("List[") or argument.name == "scalars"
        for argument in overload._schema.arguments
    ]

    def decompose(*args: Any, **kwargs: Any) -> Any:
        count = next(len(a) for a in args if isinstance(a, (list, tuple)))
        outs = []
        for index in range(count):
            own = [
                arg[index] if each else arg
                for arg, each in zip(args, listed, strict=False)
            ]
            out = call(*own, **kwargs)
            outs.append(own[0].copy_(out) if writes else out)
        return None if writes else outs

    return Record(overload, decompose=decompose)
