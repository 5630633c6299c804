"""``vmap``: call a function of one example on a whole batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core import alias
from jaxtorch.core.batching import BatchLevel, BatchTensor, wrap
from jaxtorch.core.opaque import opaque, standing_for
from jaxtorch.core.plain import settled
from jaxtorch.core.selected import Selected, refused
from jaxtorch.core.watching import open_batch
from jaxtorch.errors import (
    ArgumentError,
    OutDimError,
    RandomnessError,
    explain,
)
from jaxtorch.transforms.checks import check_chunk_size
from jaxtorch.transforms.chunking import map_chunks
from jaxtorch.transforms.naming import Where

RANDOMNESS = ("error", "different", "same")


@opaque
def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
    axis_size: int | None = None,
    strict: bool = False,
) -> Callable[..., Any]:
    """Turn a function of one example into a function of a batch of examples.

    Args:
        func: a function of one example. It returns tensors, or pytrees of them; leaves
            that are not tensors are returned as they are.
        in_dims: the dim of each argument that is mapped over; None shares the argument.
            An int, or a tuple with one entry per positional argument, each an int, None
            or a pytree prefix of the argument. Keyword arguments are always shared.
        out_dims: where the batch dim goes in each output; an int, None (allowed for an
            output that is the same for all examples) or a pytree prefix of the output.
        randomness: what a random operation inside does: ``"error"`` raises,
            ``"different"`` draws anew for each example, ``"same"`` draws once for all.
        chunk_size: run at most this many examples at a time, to save memory.
        axis_size: the number of examples, needed only where no argument is mapped.
        strict: raise where an operator would run once per example for lack of a
            batching rule, instead of warning once.

    Returns:
        A function of the same arguments with the batch dims of ``in_dims``.

    Raises:
        ArgumentError: (a ValueError) for ``in_dims`` that do not fit the arguments,
            mapped sizes that differ, ``chunk_size`` below one (an ArgumentTypeError
            where it is no int).
        OutDimError: (an IndexError) for an entry of ``out_dims`` out of range.
        RandomnessError: (a RuntimeError) for an unknown ``randomness``, and for a
            random operation that it does not allow.

    Examples:
        >>> import torch, jaxtorch
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> jaxtorch.vmap(torch.dot)(x, x)
        tensor([ 5., 25.])

    Source: the signature and behaviour of ``torch.func.vmap``; ``axis_size`` is from
    ``jax.vmap``.
    """
    if randomness not in RANDOMNESS:
        raise RandomnessError(
            explain(
                Where("vmap", func),
                f"randomness={randomness!r} is not known.",
                "pass one of 'error', 'different', 'same'",
            )
        )
    check_chunk_size(Where("vmap", func), chunk_size)
    where = Where("vmap", func, in_dims=in_dims)

    @standing_for(func)
    def batched(*args: Any, **kwargs: Any) -> Any:
        leaves, spec, dims, size = flatten_inputs(where, in_dims, args, axis_size)
        if chunk_size is None or chunk_size >= size:
            level = open_batch(size, randomness, strict)
            outs, out_spec, _ = call_batched(
                func, level, (leaves, spec, dims), kwargs, out_dims, where
            )
            if out_spec is pytree.LEAF:
                return outs[0]
            return pytree.unflatten(outs, out_spec)

        def run(leaves: list[Any], size: int) -> tuple[list[Any], Any, list[Any]]:
            level = open_batch(size, randomness, strict)
            inputs = (leaves, spec, dims)
            return call_batched(func, level, inputs, kwargs, out_dims, where)

        outs, out_spec = map_chunks(
            run, leaves, dims, size, chunk_size, randomness == "same"
        )
        return pytree.unflatten(outs, out_spec)

    return batched


def flatten_inputs(
    where: object, in_dims: Any, args: tuple[Any, ...], axis_size: int | None
) -> tuple[list[Any], Any, list[Any], int]:
    """Flatten the arguments; return leaves, structure, dims and the batch size."""
    leaves, spec = pytree.flatten_args(args)
    if type(in_dims) is int and leaves:
        dims: list[Any] | None = [in_dims] * len(leaves)
    elif spec is pytree.FLAT and is_flat_prefix(in_dims, len(leaves)):
        dims = list(in_dims)
    else:
        check_in_dims(where, in_dims, args, axis_size)
        leaves, spec = pytree.flatten(args)
        dims = pytree.broadcast_prefix(in_dims, spec)
    if dims is None:
        raise ArgumentError(
            explain(
                where,
                "in_dims is not compatible with the structure of inputs: it has "
                f"{pytree.flatten(in_dims)[1]}, the inputs have {spec}.",
                "give one entry per positional argument (in_dims=(0, None) for two)",
            )
        )
    size = axis_size
    for index, dim in enumerate(dims):
        if dim is not None:
            leaf = leaves[index]
            if type(dim) is not int or not (
                isinstance(leaf, Tensor) and 0 == dim < leaf.dim()
            ):
                dims[index] = dim = check_dim(where, leaf, dim, args, index)
            own = leaf.shape[dim]
            if size is None:
                size = own
            elif own != size:
                message = different_sizes(where, leaves, dims, args, axis_size)
                raise ArgumentError(message)
    if size is None:
        raise ArgumentError(
            explain(
                where,
                "at least one tensor must be mapped, but every in_dim is None.",
                "give one argument an int in_dim, or pass axis_size=",
            )
        )
    return leaves, spec, dims, size


def is_flat_prefix(in_dims: Any, count: int) -> bool:
    """Tell whether ``in_dims`` is a tuple of one int or None per argument."""
    if type(in_dims) is not tuple or len(in_dims) != count:
        return False
    return all(dim is None or type(dim) is int for dim in in_dims)


def check_in_dims(
    where: object, in_dims: Any, args: tuple[Any, ...], axis_size: int | None
) -> None:
    """Refuse in_dims of a wrong type, and a call without inputs."""
    if not isinstance(in_dims, (int, tuple)) and not (
        in_dims is None and axis_size is not None
    ):
        raise ArgumentError(
            explain(
                where,
                "expected `in_dims` to be int or a (potentially nested) tuple matching "
                f"the structure of inputs, got {type(in_dims).__name__}.",
                "pass an int, or a tuple with one entry per positional argument",
            )
        )
    if not args and axis_size is None:
        raise ArgumentError(
            explain(
                where,
                "got no inputs.",
                "call the function with at least one positional argument, or pass "
                "axis_size=",
            )
        )


def check_dim(where: object, leaf: Any, dim: Any, args: Any, index: int) -> int:
    """Return a leaf's dim counted from the front; refuse what can't be mapped."""
    if type(dim) is not int:
        raise ArgumentError(
            explain(
                where,
                f"got in_dim={dim!r} for {leaf_name(args, index)}, expected int or "
                "None.",
                "pass the dim to map over, or None to share the argument",
            )
        )
    if not isinstance(leaf, Tensor):
        raise ArgumentError(
            explain(
                where,
                f"got in_dim={dim} for {leaf_name(args, index)}, but it is of type "
                f"{type(leaf).__name__} and can't be mapped: it is not a tensor.",
                "pass None as its in_dim, or pass a tensor",
            )
        )
    rank = leaf.dim()
    if not -rank <= dim < rank:
        raise ArgumentError(
            explain(
                where,
                f"got in_dim={dim} for {leaf_name(args, index)}, which is a tensor of "
                f"dimensionality {rank}: in_dim must satisfy "
                f"-{rank} <= in_dim < {rank}.",
                "pass a dim that the tensor has, or None to share it",
            )
        )
    return dim % rank


def leaf_name(args: Any, index: int) -> str:
    """Name one leaf of the arguments by its path."""
    return f"argument {pytree.paths(args, 'args')[index]}"


def different_sizes(
    where: object, leaves: Any, dims: Any, args: Any, axis_size: int | None
) -> str:
    """Word the error for mapped sizes that differ."""
    names = pytree.paths(args, "args")
    details = [
        f"argument {name} of shape {list(leaf.shape)} has size {leaf.shape[dim]} at "
        f"dim {dim};"
        for name, leaf, dim in zip(names, leaves, dims, strict=True)
        if dim is not None
    ]
    if axis_size is not None:
        details.append(f"axis_size is {axis_size};")
    return explain(
        where,
        "expected all tensors to have the same size in the mapped dimension.",
        "pass the same size, or in_dims=None for the argument that is shared",
        *details,
    )


def call_batched(
    func: Callable[..., Any],
    level: BatchLevel,
    inputs: tuple[list[Any], Any, list[Any]],
    kwargs: dict[str, Any],
    out_dims: Any,
    where: object,
) -> tuple[list[Any], Any, list[Any]]:
    """Open the level, call, and unwrap; returns leaves, structure and out dims."""
    leaves, spec, dims = inputs
    values = [
        leaf if dim is None else settled(leaf)
        for leaf, dim in zip(leaves, dims, strict=True)
    ]
    with level:
        wrapped: list[Any] = [
            value if dim is None else wrap(level, value, dim)
            for value, dim in zip(values, dims, strict=True)
        ]
        out = func(*pytree.unflatten_args(wrapped, spec), **kwargs)
        if isinstance(out, Tensor) and type(out_dims) is int:
            out_spec, flat_dims = pytree.LEAF, [out_dims]
            results = [unwrap_output(level, where, out, out_dims)]
        else:
            outs, out_spec = pytree.flatten(out)
            flat_dims = flatten_out_dims(where, out_dims, out_spec, len(outs))
            results = [
                unwrap_output(level, where, leaf, dim)
                for leaf, dim in zip(outs, flat_dims, strict=True)
            ]
    for own, leaf, dim in zip(wrapped, leaves, dims, strict=True):
        if dim is not None and own.alias is not None and own.alias.version:
            leaf.copy_(unwrap_output(level, where, own, dim))
    return results, out_spec, flat_dims


def flatten_out_dims(where: object, out_dims: Any, spec: Any, count: int) -> list[Any]:
    """Give every output leaf its out_dim."""
    if type(out_dims) is int or out_dims is None:
        return [out_dims] * count
    if isinstance(out_dims, tuple) and len(out_dims) == 1 == count:
        if spec is pytree.LEAF:
            return list(out_dims)
    dims = pytree.broadcast_prefix(out_dims, spec)
    if dims is None or any(d is not None and type(d) is not int for d in dims):
        raise ArgumentError(
            explain(
                where,
                f"out_dims={out_dims!r} is not compatible with the structure of the "
                f"outputs, {spec}.",
                "pass an int, or ints and None in the structure of the output",
            )
        )
    return dims


def unwrap_output(level: BatchLevel, where: object, leaf: Any, dim: Any) -> Any:
    """Return one output with its batch dim at ``dim``."""
    if not isinstance(leaf, Tensor):
        return leaf
    value, batch_dim = leaf, None
    if type(leaf) is BatchTensor and leaf.level is level:
        if leaf.alias is not None:
            alias.refresh(leaf)
        value, batch_dim = leaf.value, leaf.batch_dim
    elif type(leaf) is Selected:
        raise refused("returning it from the function")
    if dim == batch_dim == 0:
        return value
    if dim is None:
        if batch_dim is not None:
            raise ArgumentError(
                explain(
                    where,
                    "out_dims is None for an output that is batched: it differs "
                    "between the examples.",
                    "pass an int as its out_dim",
                )
            )
        return value
    rank = leaf.dim()
    if not -rank - 1 <= dim <= rank:
        raise OutDimError(
            explain(
                where,
                f"out_dim {dim} is out of range for an output of dimensionality "
                f"{rank}: expected {-rank - 1} <= out_dim <= {rank}.",
                "pass a dim that the batched output has",
            )
        )
    dim %= rank + 1
    if batch_dim is None:
        value = value.unsqueeze(dim)
        return value.expand(*value.shape[:dim], level.size, *value.shape[dim + 1 :])
    return value if batch_dim == dim else value.movedim(batch_dim, dim)
