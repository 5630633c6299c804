"""What ``x[mask]`` means where the examples select different numbers of elements.

Which calls read by a mask, which operators act on each element, and how a reduction of
the selected elements is one of all elements. The core holds the elements and the mask.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.gather import is_mask

aten = torch.ops.aten


class Read(NamedTuple):
    """The arguments of a read: the mask stands for dims of ``x`` from ``place`` on."""

    x: Tensor
    mask: Tensor
    place: int


def index_read(x: Tensor, indices: Any) -> Read | None:
    """Read ``x[:, mask]``; None where the index is no single mask."""
    places = [p for p, index in enumerate(indices) if index is not None]
    if len(places) != 1 or not is_mask(indices[places[0]]):
        return None
    return Read(x, indices[places[0]], places[0])


def masked_select_read(x: Tensor, mask: Tensor) -> Read:
    """Read the elements of both operands, broadcast."""
    x, mask = torch.broadcast_tensors(x, mask)
    return Read(x, mask, 0)


READS: dict[OpOverload, Callable[..., Read | None]] = {
    aten.index.Tensor: index_read,
    aten.masked_select.default: masked_select_read,
}

# Operators on each element by itself that have no tag which says so.
ELEMENTWISE = frozenset(
    {
        aten._to_copy.default,
        aten.alias.default,
        aten.complex.default,
        aten.detach.default,
        aten.fill.Scalar,
        aten.floor_divide.default,
        aten.full_like.default,
        aten.hardswish.default,
        aten.hardswish_backward.default,
        aten.log_sigmoid_forward.default,
        aten.ones_like.default,
        aten.rsub.Tensor,
        aten.zeros_like.default,
    }
)

NOT_ELEMENTWISE = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.nondeterministic_seeded,
)


def is_elementwise(overload: OpOverload) -> bool:
    """Tell whether an operator makes of each element one that depends on it alone."""
    if overload in ELEMENTWISE:
        return True
    tags = overload.tags
    if torch.Tag.pointwise not in tags or overload._schema.is_mutable:
        return False
    return all(other not in tags for other in NOT_ELEMENTWISE)


Reduction = Callable[..., Any]
"""``reduce(x, hidden, *args)``: the reduction ``overload(x, *args)`` without the
elements where ``hidden`` is set; it reduces the dim of the mask."""


def extreme(dtype: torch.dtype, sign: int) -> Any:
    """Return the least (-1) or greatest (1) value of a dtype."""
    if dtype == torch.bool:
        return sign > 0
    if dtype.is_floating_point or dtype.is_complex:
        return sign * math.inf
    return torch.iinfo(dtype).max if sign > 0 else torch.iinfo(dtype).min


def filled_reduction(overload: OpOverload, neutral: Callable[..., Any]) -> Reduction:
    """Reduce with a value in the hidden places that leaves the result as it is."""

    def reduce(x: Tensor, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        fill = neutral(x.dtype, *args)
        return overload(torch.masked_fill(x, hidden, fill), *args, **kwargs)

    return reduce


def norm_neutral(dtype: torch.dtype, order: Any = 2, *unused: Any) -> float:
    """Zero leaves a norm as it is, infinity one of negative order."""
    return math.inf if order < 0 else 0.0


def counted(x: Tensor, hidden: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """Return how many elements are reduced to each result."""
    seen = torch.logical_not(hidden).expand(x.shape)
    return torch.sum(seen, dim, keepdim)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to sum in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def mean_reduction(
    x: Tensor,
    hidden: Tensor,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """Sum and count; NaN where nothing is selected, as ``torch.mean``."""
    dtype = dtype or x.dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.mean(x)  # Refuses the dtype.
    kept = torch.masked_fill(x, hidden, 0)
    total = torch.sum(kept, dim, keepdim, dtype=wide(dtype))
    return (total / counted(x, hidden, dim, keepdim)).to(dtype)


def var_mean_reduction(
    x: Tensor,
    hidden: Tensor,
    dim: Any = None,
    *,
    correction: Any = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    """``sum |x - mean|^2 / max(0, n - correction)`` with the mean of what is seen."""
    dtype = x.dtype
    x = x.to(wide(dtype))
    mean = mean_reduction(x, hidden, dim, True)
    away = torch.masked_fill(x - mean, hidden, 0)
    square = away.abs().square() if dtype.is_complex else away.square()
    count = counted(x, hidden, dim, keepdim)
    free = torch.clamp(count - (1 if correction is None else correction), min=0)
    var = torch.sum(square, dim, keepdim) / free
    shape = var.shape
    if not dtype.is_complex:
        var = var.to(dtype)
    return var, mean.to(dtype).reshape(shape)


def var_reduction(x: Tensor, hidden: Tensor, dim: Any = None, **kwargs: Any) -> Tensor:
    """The variance alone."""
    return var_mean_reduction(x, hidden, dim, **kwargs)[0]


def root(var: Tensor) -> Tensor:
    """Return the square root, with a derivative of zero at zero as ``torch.std``."""
    flat = var == 0
    return torch.masked_fill(torch.sqrt(torch.masked_fill(var, flat, 1)), flat, 0)


def std_reduction(x: Tensor, hidden: Tensor, dim: Any = None, **kwargs: Any) -> Tensor:
    """The root of the variance."""
    return root(var_reduction(x, hidden, dim, **kwargs))


def std_mean_reduction(
    x: Tensor, hidden: Tensor, dim: Any = None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The root of the variance, and the mean."""
    var, mean = var_mean_reduction(x, hidden, dim, **kwargs)
    return root(var), mean


def logsumexp_reduction(
    x: Tensor, hidden: Tensor, dim: Any, keepdim: bool = False
) -> Tensor:
    """What is hidden adds ``exp(-inf)``; integers become floats first."""
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.get_default_dtype())
    return torch.logsumexp(torch.masked_fill(x, hidden, -math.inf), dim, keepdim)


def constant(value: Any) -> Callable[..., Any]:
    """Return the neutral value of every dtype."""
    return lambda dtype, *args: value


def lowest(dtype: torch.dtype, *args: Any) -> Any:
    """The neutral value of a maximum."""
    return extreme(dtype, -1)


def highest(dtype: torch.dtype, *args: Any) -> Any:
    """The neutral value of a minimum."""
    return extreme(dtype, 1)


NEUTRALS: dict[OpOverload, Callable[..., Any]] = {
    aten.all.default: constant(True),
    aten.all.dim: constant(True),
    aten.all.dims: constant(True),
    aten.amax.default: lowest,
    aten.amin.default: highest,
    aten.any.default: constant(False),
    aten.any.dim: constant(False),
    aten.any.dims: constant(False),
    aten.count_nonzero.default: constant(0),
    aten.count_nonzero.dim_IntList: constant(0),
    aten.linalg_vector_norm.default: norm_neutral,
    aten.max.default: lowest,
    aten.min.default: highest,
    aten.nansum.default: constant(0),
    aten.prod.default: constant(1),
    aten.prod.dim_int: constant(1),
    aten.sum.default: constant(0),
    aten.sum.dim_IntList: constant(0),
}

# To these an empty list of dims says that nothing is reduced, to others everything.
NO_DIMS_REDUCE_NONE = frozenset({aten.all.dims, aten.any.dims})

REDUCTIONS: dict[OpOverload, Reduction] = {
    **{op: filled_reduction(op, neutral) for op, neutral in NEUTRALS.items()},
    aten.logsumexp.default: logsumexp_reduction,
    aten.mean.default: mean_reduction,
    aten.mean.dim: mean_reduction,
    aten.std.correction: std_reduction,
    aten.std_mean.correction: std_mean_reduction,
    aten.var.correction: var_reduction,
    aten.var_mean.correction: var_mean_reduction,
}
