"""Helpers of batching rules: moving and aligning batch dims. No operator by name."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.errors import DimError, explain
from jaxtorch.rules.record import BatchRule


def entry_point(overload: OpOverload) -> Callable[..., Any]:
    """Return the cheapest Python function that calls ``overload``.

    ``torch.sin`` costs about 1.5 us less than ``torch.ops.aten.sin.default``.
    """
    namespace, _, name = overload._schema.name.partition("::")
    if namespace != "aten":
        return overload
    found: Callable[..., Any] = getattr(torch, name, overload)
    if name.startswith("special_"):
        found = getattr(torch.special, name.removeprefix("special_"), overload)
    elif found is overload:
        found = getattr(torch._C._nn, name, overload)
    return found


def tracked(*values: Any) -> bool:
    """Tell whether torch.autograd records what is done to any of ``values``.

    Fused kernels that have no derivative in PyTorch are not used on such values.
    """
    return torch.is_grad_enabled() and any(
        isinstance(v, Tensor) and v.requires_grad for v in values
    )


def are_plain(*values: Tensor) -> bool:
    """Tell whether no value is a wrapper of an outer level."""
    return all(type(v) in (Tensor, torch.nn.Parameter) for v in values)


def to_front(value: Tensor, dim: int) -> Tensor:
    """Move the batch dim to the front."""
    return value if dim == 0 else value.movedim(dim, 0)


def batched_at_front(value: Tensor, dim: int | None, size: int) -> Tensor:
    """Return ``value`` with a batch dim at the front, expanded if it had none."""
    if dim is None:
        return value.expand(size, *value.shape)
    return value if dim == 0 else value.movedim(dim, 0)


def rank_of(value: Tensor, dim: int | None) -> int:
    """Return the number of dims of one example."""
    return value.dim() - (dim is not None)


def physical(dim: int, rank: int) -> int:
    """Map a dim of an example to the dim of a value whose batch dim is in front."""
    if -rank <= dim < rank:
        return dim % rank + 1
    if rank == 0 and -1 <= dim <= 0:
        return 1
    raise DimError(
        explain(
            "vmap",
            f"dim {dim} is out of range for one example, which has {rank} dims.",
            "count the dims of one example, without the batch dim",
        )
    )


def physical_dims(dims: Any, rank: int) -> list[int]:
    """Map dims of an example to those of the value; none given means all."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(1, rank + 1))
    if isinstance(dims, int):
        dims = [dims]
    return [physical(d, rank) for d in dims]


def pad_rank(value: Tensor, rank: int) -> Tensor:
    """Insert dims of size one behind a leading batch dim, for ``rank`` example dims."""
    missing = rank + 1 - value.dim()
    if missing == 0:
        return value
    if missing == 1:
        return value.unsqueeze(1)
    shape = value.shape
    return value.reshape(shape[0], *[1] * missing, *shape[1:])


def align(args: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
    """Bring tensors that broadcast together to leading batch dims and one rank."""
    rank = 0
    for arg, dim in zip(args, dims, strict=True):
        if isinstance(arg, Tensor):
            own = arg.dim() if dim is None else arg.dim() - 1
            if own > rank:
                rank = own
    return [
        arg
        if dim is None or (dim == 0 and arg.dim() > rank)
        else pad_rank(to_front(arg, dim), rank)
        for arg, dim in zip(args, dims, strict=True)
    ]


def promote(args: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
    """Cast to the dtype that the examples promote to, where batching hides it.

    A 0-dim example does not take part in promotion as a tensor with dims does, but its
    batch has a dim. Only calls that mix dtypes come here.
    """
    shaped: torch.dtype | None = None
    scalar: torch.dtype | None = None
    for arg, dim in zip(args, dims, strict=True):
        if isinstance(arg, Tensor):
            own = arg.dtype
            if arg.dim() - (dim is not None):
                shaped = own if shaped is None else torch.promote_types(shaped, own)
            else:
                scalar = own if scalar is None else torch.promote_types(scalar, own)
    if scalar is None:
        return list(args)
    dtype = scalar
    if shaped is not None:
        dtype = torch.result_type(
            torch.empty(1, dtype=shaped, device="meta"),
            torch.empty((), dtype=scalar, device="meta"),
        )
    return [
        a.to(dtype) if isinstance(a, Tensor) and a.dtype != dtype else a for a in args
    ]


def unary_batch(call: Callable[..., Any]) -> BatchRule:
    """Batch an elementwise op of one tensor: the batch dim stays where it is."""

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return call(x, *args, **kwargs), dims[0]

    return batch


def binary_batch(call: Callable[..., Any]) -> BatchRule:
    """Batch an elementwise op of two operands that broadcast; one may be a number.

    No argument behind them is a tensor.
    """

    def batch(size: int, dims: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        dx = dims[0]
        dy = dims[1]
        if dy is None and not isinstance(y, Tensor):
            return call(x, y, *args, **kwargs), dx
        if dx is None and not isinstance(x, Tensor):
            return call(x, y, *args, **kwargs), dy
        if x.dtype is not y.dtype:
            x, y = promote((x, y), (dx, dy))
        missing = x.dim() - y.dim()
        if dx == dy and not missing:
            return call(x, y, *args, **kwargs), dx
        if (dx == 0 and dy is None and missing > 0) or (
            dy == 0 and dx is None and missing < 0
        ):
            return call(x, y, *args, **kwargs), 0
        x, y = align((x, y), (dx, dy))
        return call(x, y, *args, **kwargs), 0

    return batch


def equal_shapes_batch(call: Callable[..., Any]) -> BatchRule:
    """Batch a fused kernel of tensors of one shape, which may not broadcast them."""

    def batch(size: int, dims: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        dim = dims[0]
        if dim != dims[1]:
            x = batched_at_front(x, dim, size)
            y = batched_at_front(y, dims[1], size)
            dim = 0
        return call(x, y, *args, **kwargs), dim

    return batch


def broadcasting_batch(call: Callable[..., Any]) -> BatchRule:
    """Batch an elementwise op of several tensors that broadcast."""

    def batch(size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        return call(*align_promoted(args, dims), **kwargs), 0

    return batch


def align_promoted(args: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
    """Align, and cast first where the tensors mix dtypes."""
    dtype = None
    for arg in args:
        if isinstance(arg, Tensor):
            if dtype is None:
                dtype = arg.dtype
            elif arg.dtype is not dtype:
                return align(promote(args, dims), dims)
    return align(args, dims)
