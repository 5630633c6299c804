"""``while_loop`` and ``fori_loop``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.core.opaque import opaque
from jaxtorch.errors import ArgumentTypeError, explain
from jaxtorch.staging.regions.branch import cut
from jaxtorch.staging.regions.loop import Loop
from jaxtorch.staging.subgraph import kind_of
from jaxtorch.staging.tracer import user_line
from jaxtorch.transforms.control_flow.forms import (
    BATCHED,
    Form,
    as_flag,
    cast_weak,
    close,
    innermost_value,
    is_traced,
    read_flag,
    refuse_other_carry,
    refuse_writes,
    separate,
    versions,
)
from jaxtorch.transforms.control_flow.scanning import scan_leaves
from jaxtorch.transforms.naming import Where


@opaque
def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any
) -> Any:
    """Return ``init_val`` after ``body_fun``, as long as ``cond_fun`` of it holds.

    Under ``vmap`` the loop runs until it is done for all examples; those that are done
    stay as they are. Under ``jit`` the loop is one call of the graph. Derivatives: all,
    but no reverse mode of a loop under ``jit`` (the number of steps, and so the memory
    it takes, is not known there).

    Args:
        cond_fun: a function of the carry that returns a bool or a tensor without dims.
        body_fun: a function of the carry that returns the next one, of the same
            structure, shapes and dtypes.
        init_val: the first carry, a pytree of tensors and Python numbers.

    Returns:
        The last carry; Python numbers become tensors.

    Raises:
        ArgumentTypeError: (a TypeError) for a condition that is no scalar and for a
            carry that changes its structure, shapes or dtypes.
        MutationError: (a RuntimeError) where ``body_fun`` writes into its carry.
        UsageError: (a RuntimeError) for reverse mode under ``jit``.

    Examples:
        >>> import torch, jaxtorch
        >>> def collatz(n):
        ...     def step(state):
        ...         n, steps = state
        ...         return torch.where(n % 2 == 0, n // 2, 3 * n + 1), steps + 1
        ...     return jaxtorch.while_loop(lambda state: state[0] > 1, step, (n, 0))[1]
        >>> jaxtorch.vmap(collatz)(torch.tensor([1, 6, 7]))
        tensor([ 0,  8, 16])

    Source: the signature and behaviour of ``jax.lax.while_loop``.
    """
    where = Where("while_loop", body_fun)
    carry, form = separate(init_val)
    if is_traced():
        return staged_while(where, cond_fun, body_fun, carry, form)
    active: Any = None
    while True:
        holds = cond_fun(form.join(carry))
        state = read_flag(where, holds)
        active = holds if active is None else as_flag(active) & as_flag(holds)
        if active is not holds:
            state = read_flag(where, active)
        if state is BATCHED:
            active = as_flag(active)
            if not innermost_value(active)[0].any():
                return form.join(carry)
            carry = masked_step(where, body_fun, active, carry, form)
        elif not state:
            return form.join(carry)
        else:
            active = None
            carry = step(where, body_fun, carry, carry, form)


def step(
    where: object,
    body_fun: Callable[[Any], Any],
    given: list[Tensor],
    carry: list[Tensor],
    form: Form,
) -> list[Tensor]:
    """Run the body on ``given`` and check that it returns a carry."""
    before = versions(given)
    news, own = separate(body_fun(form.join(given)))
    refuse_writes(where, given, before)
    refuse_other_carry(where, form, carry, own, news)
    return news


def masked_step(
    where: object,
    body_fun: Callable[[Any], Any],
    active: Tensor,
    carry: list[Tensor],
    form: Form,
) -> list[Tensor]:
    """Run the body where ``active``; elsewhere the carry stays, also its derivative."""
    given = cut(active, carry, True)
    news = step(where, body_fun, given, carry, form)
    carry = cast_weak(form, carry, news)
    return [torch.where(active, a, b) for a, b in zip(news, carry, strict=True)]


def staged_while(
    where: object,
    cond_fun: Callable[[Any], Any],
    body_fun: Callable[[Any], Any],
    carry: list[Tensor],
    form: Form,
) -> Any:
    """Stage both functions and put the loop into the graph."""
    kinds = [kind_of(value) for value in carry]
    body = close(where, lambda v: body_fun(form.join(v)), kinds)
    refuse_other_carry(where, form, kinds, body.form, body.graph.outs)
    cast = cast_weak(form, carry, body.graph.outs)
    if [kind_of(value) for value in cast] != kinds:
        strict = form._replace(weak=(False,) * len(form.weak))
        return staged_while(where, cond_fun, body_fun, cast, strict)
    test = close(where, lambda v: cond_fun(form.join(v)), kinds)
    if [kind.shape for kind in test.graph.outs] != [torch.Size([])]:
        raise ArgumentTypeError(
            explain(
                where,
                "cond_fun must return a bool or a tensor without dims, got "
                f"{', '.join(map(str, test.graph.outs))}.",
                "reduce it with .all() or .any()",
                f"at {user_line()}",
            )
        )
    a = len(test.captured)
    n = a + len(body.captured)
    region = Loop(
        lambda *v: [as_flag(test.graph(*v[n:], *v[:a])[0])],
        lambda *v: body.graph(*v[n:], *v[a:n]),
        n,
    )
    return form.join(region(*test.captured, *body.captured, *carry))


@opaque
def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any
) -> Any:
    """Return ``init_val`` after ``body_fun(i, carry)`` for ``i`` from lower to upper.

    With Python ints as bounds this is a ``scan``, and reverse mode works everywhere;
    with tensors it is a ``while_loop``.

    Args:
        lower: the first index, an int or an integer tensor without dims.
        upper: the first index that is not reached.
        body_fun: a function of the index, a tensor without dims, and the carry that
            returns the next carry, of the same structure, shapes and dtypes.
        init_val: the first carry, a pytree of tensors and Python numbers.

    Returns:
        The last carry; Python numbers become tensors.

    Raises:
        ArgumentTypeError: (a TypeError) for bounds that are not whole numbers and for
            a carry that changes its structure, shapes or dtypes.
        MutationError: (a RuntimeError) where ``body_fun`` writes into its carry.
        UsageError: (a RuntimeError) for reverse mode under ``jit`` with tensors as
            bounds.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.fori_loop(0, 5, lambda i, total: total + i, torch.tensor(0))
        tensor(10)

    Source: the signature and behaviour of ``jax.lax.fori_loop``.
    """
    where = Where("fori_loop", body_fun)
    for bound in (lower, upper):
        is_int = isinstance(bound, int) and not isinstance(bound, bool)
        if not is_int and not is_integer_tensor(bound):
            raise ArgumentTypeError(
                explain(
                    where,
                    f"the bounds must be whole numbers, got {bound!r}.",
                    "pass Python ints or integer tensors without dims",
                )
            )
    if isinstance(lower, int) and isinstance(upper, int):
        steps = torch.arange(lower, max(lower, upper))
        carry, form = separate(init_val)

        def call(carry: Any, slices: Any) -> tuple[Any, Any]:
            return body_fun(slices[0], carry), ()

        return scan_leaves(where, call, (carry, form), separate((steps,)))[0]
    out = while_loop(
        lambda state: state[0] < state[1],
        lambda state: (state[0] + 1, state[1], body_fun(state[0], state[2])),
        (torch.as_tensor(lower), torch.as_tensor(upper), init_val),
    )
    return out[2]


def is_integer_tensor(bound: Any) -> bool:
    """Tell whether a bound is a tensor without dims of an integer dtype."""
    return (
        isinstance(bound, Tensor)
        and bound.dim() == 0
        and not bound.is_floating_point()
        and not bound.is_complex()
        and bound.dtype is not torch.bool
    )
