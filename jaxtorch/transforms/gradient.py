"""``grad``, ``grad_and_value`` and ``value_and_grad``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.opaque import opaque, standing_for
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.checks import (
    Argnums,
    check_complex,
)
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.selecting import select_inputs
from jaxtorch.transforms.taping import Recording


@opaque
def grad(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes the gradient of a scalar function.

    Args:
        func: returns a tensor without dims; with ``has_aux`` a pair of it and any aux.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
            Each may be a pytree of tensors of floating point or complex dtype.
        has_aux: ``func`` returns ``(output, aux)``.
        holomorphic: ``func`` is a holomorphic function of complex inputs with a complex
            output, and the result is its complex derivative. Otherwise the output must
            be real, and the gradient of a complex input follows PyTorch's convention.

    Returns:
        A function of the same arguments that returns the gradient in the structure of
        the argument (a tuple of them for a tuple of argnums), or ``(gradient, aux)``.
        An input that the output does not depend on has a gradient of zeros.

    Raises:
        UsageError: (a RuntimeError) for wrong argnums, for inputs without a derivative
            and for an output that is not a real tensor without dims (a complex one
            with ``holomorphic``).

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.grad(lambda x: (x**2).sum())(torch.tensor([1.0, 2.0]))
        tensor([2., 4.])

    Source: the signature and behaviour of ``torch.func.grad``; ``holomorphic`` is from
    ``jax.grad``.
    """
    compute = differentiate(func, argnums, has_aux, "grad", holomorphic)

    @standing_for(func)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        grads, _, aux = compute(args, kwargs)
        return (grads, aux) if has_aux else grads

    return gradient


@opaque
def grad_and_value(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes ``(gradient, value)``.

    Args:
        func: returns a tensor without dims; with ``has_aux`` a pair of it and any aux.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``.
        holomorphic: as in ``grad``.

    Returns:
        A function of the same arguments that returns ``(gradient, value)``, or
        ``(gradient, (value, aux))`` with ``has_aux``. The gradient is that of ``grad``.

    Raises:
        UsageError: (a RuntimeError) as ``grad``.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.grad_and_value(lambda x: x**2)(torch.tensor(3.0))
        (tensor(6.), tensor(9.))

    Source: the signature and behaviour of ``torch.func.grad_and_value``.
    """
    compute = differentiate(func, argnums, has_aux, "grad_and_value", holomorphic)

    @standing_for(func)
    def gradient_and_value(*args: Any, **kwargs: Any) -> Any:
        grads, value, aux = compute(args, kwargs)
        return grads, ((value, aux) if has_aux else value)

    return gradient_and_value


@opaque
def value_and_grad(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    holomorphic: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes ``(value, gradient)``, in JAX's order.

    Args:
        func: returns a tensor without dims; with ``has_aux`` a pair of it and any aux.
        argnums: the positional arguments to differentiate, an int or a tuple of them.
        has_aux: ``func`` returns ``(output, aux)``.
        holomorphic: as in ``grad``.

    Returns:
        A function of the same arguments that returns ``(value, gradient)``, or
        ``((value, aux), gradient)`` with ``has_aux``. The gradient is that of ``grad``.

    Raises:
        UsageError: (a RuntimeError) as ``grad``.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.value_and_grad(lambda x: x**2)(torch.tensor(3.0))
        (tensor(9.), tensor(6.))

    Source: the order of results of ``jax.value_and_grad``.
    """
    compute = differentiate(func, argnums, has_aux, "value_and_grad", holomorphic)

    @standing_for(func)
    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        grads, value, aux = compute(args, kwargs)
        return ((value, aux) if has_aux else value), grads

    return value_and_gradient


def differentiate(
    func: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    transform: str,
    holomorphic: bool,
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Tensor, Any]]:
    """Return ``(args, kwargs) -> (gradient, value, aux)``."""
    where = Where(transform, func)
    several = isinstance(argnums, tuple)

    def compute(
        args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor, Any]:
        call, leaves, spec = select_inputs(where, func, argnums, args, kwargs)
        if holomorphic:
            check_complex(where, leaves, "inputs")
        tape = Recording(call, leaves, where, has_aux)
        value = scalar_output(where, tape, holomorphic)
        pulled = tape.pull_one()
        if holomorphic:
            pulled = [torch.conj_physical(cotangent) for cotangent in pulled]
        grads = pytree.unflatten_args(pulled, spec)
        return (grads if several else grads[0]), value, tape.aux

    return compute


def scalar_output(where: object, tape: Recording, holomorphic: bool) -> Tensor:
    """Return the value of the taped function; refuse all but a scalar of its kind."""
    value = tape.outs[0] if tape.spec is pytree.LEAF else None
    if not isinstance(value, Tensor):
        raise UsageError(
            explain(
                where,
                "Expected the function to return a tensor, got "
                f"{type(pytree.unflatten(tape.outs, tape.spec)).__name__}.",
                "return a tensor without dims; use has_aux=True for more outputs",
            )
        )
    if value.dim() != 0:
        raise UsageError(
            explain(
                where,
                "Expected the function to return a scalar tensor, got a tensor with "
                f"{value.dim()} dims. Maybe you wanted to use the vjp or jacrev APIs "
                "instead?",
                "reduce the output (.sum(), .mean(), .squeeze()), or use jacrev",
            )
        )
    if holomorphic:
        check_complex(where, [value], "outputs")
    elif value.is_complex():
        raise UsageError(
            explain(
                where,
                "Expected the function to return a real scalar, got a complex one.",
                "return its real part or its absolute value, or pass holomorphic=True",
            )
        )
    return value
