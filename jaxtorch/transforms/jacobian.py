"""``jacrev``, ``jacfwd`` and ``hessian``: whole derivatives."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.level import paused
from jaxtorch.core.opaque import opaque, standing_for
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.basis import map_basis, map_directions
from jaxtorch.transforms.checks import (
    Argnums,
    check_chunk_size,
    check_complex,
)
from jaxtorch.transforms.forward import jvp
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.selecting import select_inputs
from jaxtorch.transforms.taping import Recording, check_outputs


@opaque
def jacrev(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    randomness: str = "error",
    holomorphic: bool = False,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian, one row at a time, in reverse mode.

    Best where the function has fewer outputs than inputs.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is ``(jacobian, aux)``.
        chunk_size: how many rows are computed at a time; None for all. With 1 the rows
            are computed one by one without ``vmap``.
        randomness: as in ``vmap``, for random operations inside the derivative.
        holomorphic: ``func`` is a holomorphic function of complex inputs with complex
            outputs; the result is its complex Jacobian.
        _preallocate_and_copy: accepted for ``torch.func``; chunks are always joined.

    Returns:
        A function of the same arguments. Its result has the structure of the output
        outside, that of the differentiated arguments inside, and leaves of shape
        ``[*output.shape, *input.shape]``.

    Raises:
        UsageError: (a RuntimeError) for wrong argnums, and for inputs or outputs that
            have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.jacrev(torch.square)(torch.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])

    Source: the signature and behaviour of ``torch.func.jacrev``.
    """
    where = Where("jacrev", func)
    check_chunk_size(where, chunk_size)

    @standing_for(func)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        call, leaves, spec = select_inputs(where, func, argnums, args, kwargs)
        tape = Recording(call, leaves, where, has_aux)
        check_outputs(where, tape.outs, "the output of the function")
        check_field(where, leaves, "inputs", holomorphic)
        check_field(where, tape.outs, "outputs", holomorphic)
        sizes = [out.numel() for out in tape.outs]
        with paused():
            rows = map_basis(
                lambda *basis: tape.pull(basis),
                tape.outs,
                chunk_size,
                randomness,
                pure=True,
            )
            if holomorphic:
                rows = [torch.conj_physical(row) for row in rows]
            columns = [
                [
                    shaped(part, out.shape + leaf.shape)
                    for part, out in zip(cut(row, sizes), tape.outs, strict=True)
                ]
                for row, leaf in zip(rows, leaves, strict=True)
            ]
        result = assemble(columns, tape.spec, spec, isinstance(argnums, tuple))
        return (result, tape.aux) if has_aux else result

    return jacobian


@opaque
def jacfwd(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian, one column at a time, forward mode.

    Best where the function has fewer inputs than outputs.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is ``(jacobian, aux)``.
        randomness: as in ``vmap``, for random operations inside ``func``.
        chunk_size: how many columns are computed at a time; None for all.
        holomorphic: ``func`` is a holomorphic function of complex inputs with complex
            outputs; the result is its complex Jacobian.

    Returns:
        A function of the same arguments. Its result is that of ``jacrev``: the
        structure of the output outside, that of the differentiated arguments inside,
        and leaves of shape ``[*output.shape, *input.shape]``.

    Raises:
        UsageError: (a RuntimeError) for wrong argnums, and for inputs or outputs that
            have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.jacfwd(torch.square)(torch.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])

    Source: the signature and behaviour of ``torch.func.jacfwd``; ``chunk_size`` is new.
    """
    where = Where("jacfwd", func)
    check_chunk_size(where, chunk_size)

    @standing_for(func)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        call, leaves, spec = select_inputs(where, func, argnums, args, kwargs)

        def push(basis: tuple[Tensor, ...]) -> Any:
            return jvp(
                lambda *inputs: call(list(inputs)),
                tuple(leaves),
                basis,
                has_aux=has_aux,
            )[1:]

        check_field(where, leaves, "inputs", holomorphic)
        columns, out_spec, aux = map_directions(push, leaves, chunk_size, randomness)
        check_field(where, columns, "outputs", holomorphic)
        result = assemble(
            cut_columns(columns, leaves), out_spec, spec, isinstance(argnums, tuple)
        )
        return (result, aux) if has_aux else result

    return jacobian


@opaque
def hessian(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    randomness: str = "error",
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes the Hessian, forward over reverse mode.

    It is ``jacfwd(jacrev(func))``.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same; most
            often a scalar.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is ``(hessian, aux)``.
        chunk_size: how many columns of the Hessian are computed at a time.
        randomness: as in ``vmap``, for random operations inside the derivative.
        holomorphic: ``func`` is a holomorphic function of complex inputs with complex
            outputs; the result holds its complex second derivatives.

    Returns:
        A function of the same arguments. Its result has the structure of the output
        outside, twice that of the differentiated arguments inside, and leaves of shape
        ``[*output.shape, *input.shape, *input.shape]``.

    Raises:
        UsageError: (a RuntimeError) for wrong argnums, and for inputs or outputs that
            have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.hessian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
        tensor([[ 6.,  0.],
                [ 0., 12.]])

    Source: the signature and behaviour of ``torch.func.hessian``.
    """
    inner = jacrev(
        func, argnums, has_aux=has_aux, randomness=randomness, holomorphic=holomorphic
    )
    return jacfwd(
        inner,
        argnums,
        has_aux,
        randomness=randomness,
        chunk_size=chunk_size,
        holomorphic=holomorphic,
    )


def cut(rows: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    """Cut the leading dim into pieces of ``sizes``."""
    return rows.split(sizes) if len(sizes) > 1 else (rows,)


def shaped(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Reshape where the shape differs."""
    return tensor if tensor.shape == shape else tensor.reshape(shape)


def last(column: Tensor) -> Tensor:
    """Move the leading dim to the end."""
    return column if column.dim() == 1 else column.movedim(0, -1)


def cut_columns(
    columns: Sequence[Tensor], leaves: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Cut columns ``[n, *out.shape]`` by input: ``[input][output]``, as a Jacobian."""
    sizes = [leaf.numel() for leaf in leaves]
    with paused():
        per_output = [
            [
                shaped(last(part), column.shape[1:] + leaf.shape)
                for part, leaf in zip(cut(column, sizes), leaves, strict=True)
            ]
            for column in columns
        ]
    return [list(c) for c in zip(*per_output, strict=True)]


def assemble(columns: Any, out_spec: Any, in_spec: Any, several: bool) -> Any:
    """Nest leaves ``columns[input][output]`` as outputs outside, inputs inside."""
    nested = []
    for per_output in zip(*columns, strict=True):
        tree = pytree.unflatten_args(list(per_output), in_spec)
        nested.append(tree if several else tree[0])
    return pytree.unflatten(nested, out_spec)


def check_field(
    where: object, leaves: Sequence[Any], what: str, holomorphic: bool
) -> None:
    """Refuse complex tensors, whose Jacobian is ambiguous; real ones if holomorphic."""
    if holomorphic:
        check_complex(where, list(leaves), what)
        return
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_complex():
            raise UsageError(
                explain(
                    where,
                    "Expected all inputs and outputs to be real, but flattened tensor "
                    f"{index} is complex.",
                    "pass holomorphic=True for a holomorphic function; otherwise use "
                    "torch.view_as_real, or vjp and jvp",
                )
            )
