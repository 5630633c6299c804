"""Diagonals and traces of Jacobians and Hessians, by directions."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.level import paused
from jaxtorch.core.opaque import opaque, standing_for
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.basis import map_basis, map_directions
from jaxtorch.transforms.checks import Argnums, check_chunk_size
from jaxtorch.transforms.forward import jvp
from jaxtorch.transforms.jacobian import (
    assemble,
    cut,
    cut_columns,
    shaped,
)
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.selecting import select_inputs
from jaxtorch.transforms.taping import Recording, check_outputs


@opaque
def laplacian(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """Return a function that computes the Laplacian, the trace of the Hessian.

    It is the sum of the second derivatives along the n axes, ``chunk_size`` of them at
    a time. All at once are fastest and hold as much as the Hessian; for n = 1000,
    ``chunk_size=50`` holds 50 rows of it, not 1000. Under ``jit`` the sum is carried
    into the function: a layer has n first derivatives and one second.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        argnums: the positional arguments to differentiate, an int or a tuple of them;
            the sum is over the elements of all of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is ``(laplacian, aux)``.
        chunk_size: how many axes are taken at a time; None for all n.
        randomness: as in ``vmap``, for random operations inside ``func``.

    Returns:
        A function of the same arguments. Its result has the structure and the shapes of
        the output: one Laplacian for each of its elements.

    Raises:
        UsageError: (a RuntimeError) for wrong argnums, complex inputs, and inputs or
            outputs that have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.laplacian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
        tensor(18.)
    """
    where = Where("laplacian", func)
    check_chunk_size(where, chunk_size)

    @standing_for(func)
    def trace(*args: Any, **kwargs: Any) -> Any:
        call, leaves, _ = select_inputs(where, func, argnums, args, kwargs)
        columns, out_spec, aux = map_directions(
            lambda basis: second_derivative(where, call, leaves, basis, has_aux),
            leaves,
            chunk_size,
            randomness,
        )
        with paused():
            sums = [column.sum(0) for column in columns]
        result = pytree.unflatten(sums, out_spec)
        return (result, aux) if has_aux else result

    return trace


@opaque
def hessian_diag(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """Return a function that computes the diagonal of the Hessian.

    These are the second derivatives along each of the n axes, ``chunk_size`` of them at
    a time. All at once are fastest and hold as much as the Hessian.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same; most
            often a scalar.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is ``(diagonal, aux)``.
        chunk_size: how many axes are taken at a time; None for all n.
        randomness: as in ``vmap``, for random operations inside ``func``.

    Returns:
        A function of the same arguments. Its result has the structure of the output
        outside, that of the differentiated arguments inside, and leaves of shape
        ``[*output.shape, *input.shape]``: for a scalar, the structure of its gradient.

    Raises:
        UsageError: (a RuntimeError) for wrong argnums, complex inputs, and inputs or
            outputs that have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.hessian_diag(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
        tensor([ 6., 12.])
    """
    where = Where("hessian_diag", func)
    check_chunk_size(where, chunk_size)

    @standing_for(func)
    def diagonal(*args: Any, **kwargs: Any) -> Any:
        call, leaves, spec = select_inputs(where, func, argnums, args, kwargs)
        columns, out_spec, aux = map_directions(
            lambda basis: second_derivative(where, call, leaves, basis, has_aux),
            leaves,
            chunk_size,
            randomness,
        )
        several = isinstance(argnums, tuple)
        result = assemble(cut_columns(columns, leaves), out_spec, spec, several)
        return (result, aux) if has_aux else result

    return diagonal


@opaque
def jacobian_diag(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """Return a function that computes the diagonal of a square Jacobian.

    Element i of the result is the derivative of output i by input i. ``func`` runs
    once; its derivative is taken along ``chunk_size`` of the n axes at a time. All at
    once are fastest and hold as much as the Jacobian. Under ``jit`` no n x n tensor is
    made where ``func`` is elementwise.

    Args:
        func: a function of tensors, or pytrees of them, that returns tensors of the
            structure and shapes of the differentiated arguments.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is ``(diagonal, aux)``.
        chunk_size: how many axes are taken at a time; None for all n.
        randomness: as in ``vmap``, for random operations inside the derivative.

    Returns:
        A function of the same arguments, whose result has the structure and the shapes
        of the output.

    Raises:
        UsageError: (a RuntimeError) for outputs whose structure or shapes are not those
            of the inputs, wrong argnums, complex inputs, and inputs or outputs that
            have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.jacobian_diag(lambda x: x * x.sum())(torch.tensor([1.0, 2.0]))
        tensor([4., 5.])
    """
    where = Where("jacobian_diag", func)
    check_chunk_size(where, chunk_size)

    @standing_for(func)
    def diagonal(*args: Any, **kwargs: Any) -> Any:
        tape = record_square(where, func, argnums, has_aux, args, kwargs)
        entries = diagonal_entries(tape, chunk_size, randomness)
        with paused():
            parts = cut(entries, [out.numel() for out in tape.outs])
            leaves = [shaped(p, o.shape) for p, o in zip(parts, tape.outs, strict=True)]
        result = pytree.unflatten(leaves, tape.spec)
        return (result, tape.aux) if has_aux else result

    return diagonal


@opaque
def divergence(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """Return a function that computes the divergence, the trace of a square Jacobian.

    It is the sum of ``jacobian_diag``. All n axes at once are fastest and hold as much
    as the Jacobian; for n = 1000, ``chunk_size=50`` holds 50 rows of it, not 1000.

    Args:
        func: a function of tensors, or pytrees of them, that returns tensors of the
            structure and shapes of the differentiated arguments: a vector field.
        argnums: the positional arguments to differentiate, an int or a tuple of them;
            the sum is over the elements of all of them.
        has_aux: ``func`` returns ``(output, aux)``; the result is
            ``(divergence, aux)``.
        chunk_size: how many axes are taken at a time; None for all n.
        randomness: as in ``vmap``, for random operations inside the derivative.

    Returns:
        A function of the same arguments, whose result is a tensor without dims.

    Raises:
        UsageError: (a RuntimeError) for outputs whose structure or shapes are not those
            of the inputs, wrong argnums, complex inputs, and inputs or outputs that
            have no derivative.
        ArgumentError: (a ValueError) for a ``chunk_size`` below one.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.divergence(lambda x: x * x.sum())(torch.tensor([1.0, 2.0]))
        tensor(9.)
    """
    where = Where("divergence", func)
    check_chunk_size(where, chunk_size)

    @standing_for(func)
    def trace(*args: Any, **kwargs: Any) -> Any:
        tape = record_square(where, func, argnums, has_aux, args, kwargs)
        entries = diagonal_entries(tape, chunk_size, randomness)
        with paused():
            result = entries.sum()
        return (result, tape.aux) if has_aux else result

    return trace


def second_derivative(
    where: object,
    call: Callable[[list[Any]], Any],
    leaves: list[Tensor],
    direction: tuple[Tensor, ...],
    has_aux: bool,
) -> Any:
    """Differentiate twice along ``direction``: ``(derivative,)``, or with the aux.

    Of one number the first derivative is its gradient's product with the direction, so
    that reverse mode comes once for all directions; of several it is taken forward.
    """
    check_real(where, leaves)

    def slope(*inputs: Tensor) -> Any:
        tape = Recording(call, list(inputs), where, has_aux)
        check_outputs(where, tape.outs, "the output of the function")
        out = tape.outs[0]
        if len(tape.outs) == 1 and out.numel() == 1 and out.dtype == inputs[0].dtype:
            pushed = [inner(tape.pull_one(), direction).reshape(out.shape)]
        else:
            pushed = tape.push(direction)
        result = pytree.unflatten(pushed, tape.spec)
        return (result, tape.aux) if has_aux else result

    return jvp(slope, tuple(leaves), direction, has_aux=has_aux)[1:]


def record_square(
    where: object,
    func: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Recording:
    """Record ``func``; refuse outputs that are not of the inputs' form."""
    call, leaves, spec = select_inputs(where, func, argnums, args, kwargs)
    check_real(where, leaves)
    tape = Recording(call, leaves, where, has_aux)
    check_outputs(where, tape.outs, "the output of the function")
    chosen = pytree.unflatten_args(leaves, spec)
    if not isinstance(argnums, tuple):
        (chosen,) = chosen
    shapes = [list(leaf.shape) for leaf in leaves]
    own = [list(out.shape) for out in tape.outs]
    chosen_spec = pytree.flatten(chosen)[1]
    if shapes != own or chosen_spec != tape.spec:
        raise UsageError(
            explain(
                where,
                "a square Jacobian needs an output of the structure and shapes of the "
                "differentiated arguments.",
                "return one tensor of the same shape for each differentiated tensor, "
                "in the same containers, or take jacrev or jacfwd",
                f"shapes of the arguments: {pytree.unflatten(shapes, chosen_spec)}",
                f"shapes of the output: {pytree.unflatten(own, tape.spec)}",
            )
        )
    return tape


def diagonal_entries(
    tape: Recording, chunk_size: int | None, randomness: str
) -> Tensor:
    """Return the diagonal of the Jacobian of the tape, flat."""
    entries: Tensor
    (entries,) = map_basis(
        lambda *basis: [inner(tape.push(basis), basis)],
        tape.inputs,
        chunk_size,
        randomness,
        pure=True,
    )
    return entries


def inner(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors."""
    products = [(a * b).sum() for a, b in zip(lefts, rights, strict=True)]
    return functools.reduce(lambda total, product: total + product, products)


def check_real(where: object, leaves: Sequence[Tensor]) -> None:
    """Refuse complex inputs, along which a direction has two derivatives."""
    for index, leaf in enumerate(leaves):
        if leaf.is_complex():
            raise UsageError(
                explain(
                    where,
                    f"expected real inputs; flattened input {index} has dtype "
                    f"{leaf.dtype}.",
                    "pass torch.view_as_real(z), and call torch.view_as_complex inside "
                    "the function",
                )
            )
