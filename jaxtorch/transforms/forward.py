"""``jvp`` and ``linearize``: derivatives pushed forward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core import alias
from jaxtorch.core.forward import DualTensor, ForwardLevel, wrap
from jaxtorch.core.opaque import opaque
from jaxtorch.core.plain import settled
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.checks import check_differentiable_inputs, split_aux
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.taping import check_tensors, record_function


@opaque
def jvp(
    func: Callable[..., Any],
    primals: Any,
    tangents: Any,
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> Any:
    """Return ``func(*primals)`` and its Jacobian-vector product with ``tangents``.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same. An
            output of integers has a tangent of zeros.
        primals: the tuple of its arguments.
        tangents: the tuple of directions, of the structure and shapes of ``primals``.
        strict: raise where an output does not depend on the inputs, instead of
            returning a tangent of zeros.
        has_aux: ``func`` returns ``(output, aux)``.

    Returns:
        ``(output, tangent)``, or ``(output, tangent, aux)`` with ``has_aux``.

    Raises:
        UsageError: (a RuntimeError) for primals that are no tuple, tangents whose
            structure or shapes differ, and outputs that are no tensors.

    Examples:
        >>> import torch, jaxtorch
        >>> jaxtorch.jvp(torch.square, (torch.tensor(3.0),), (torch.tensor(1.0),))
        (tensor(9.), tensor(6.))

    Source: the signature and behaviour of ``torch.func.jvp``.
    """
    where = Where("jvp", func)
    leaves, spec, flat_tangents = match_tangents(where, primals, tangents)
    level = ForwardLevel()
    aux = None
    inputs = [
        (settled(value), settled(tangent))
        for value, tangent in zip(leaves, flat_tangents, strict=True)
    ]
    with level:
        wrapped = [wrap(level, value, tangent) for value, tangent in inputs]
        out = func(*pytree.unflatten_args(wrapped, spec))
        if has_aux:
            out, aux = split_aux(where, out)
            aux = pytree.tree_map(lambda leaf: dual_parts(level, leaf)[0], aux)
        outs, out_spec = pytree.flatten(out)
        pairs = [dual_parts(level, leaf) for leaf in outs]
    for value, own in zip(leaves, wrapped, strict=True):
        if own.alias is not None and own.alias.version:
            value.copy_(own.value)
    check_tensors(where, [value for value, _ in pairs], "the output of the function")
    if strict and any(tangent is None for _, tangent in pairs):
        raise UsageError(
            explain(
                where,
                "strict=True, and an output does not depend on the inputs.",
                "drop strict=True to get zeros for it",
            )
        )
    values = pytree.unflatten([value for value, _ in pairs], out_spec)
    pushed = pytree.unflatten(
        [torch.zeros_like(v) if t is None else t for v, t in pairs], out_spec
    )
    return (values, pushed, aux) if has_aux else (values, pushed)


def dual_parts(level: ForwardLevel, leaf: Any) -> tuple[Any, Tensor | None]:
    """Return the primal and the tangent of an output of ``level``."""
    if type(leaf) is DualTensor and leaf.level is level:
        if leaf.alias is not None:
            alias.refresh(leaf)
        return leaf.value, leaf.tangent
    return leaf, None


def match_tangents(
    where: object, primals: Any, tangents: Any
) -> tuple[list[Tensor], Any, list[Tensor]]:
    """Flatten primals and tangents; refuse those that do not match."""
    if not isinstance(primals, tuple):
        raise UsageError(
            explain(
                where,
                f"expected primals to be a tuple, got {type(primals).__name__}.",
                "pass (x,) for one argument",
            )
        )
    leaves, spec = pytree.flatten_args(primals)
    flat, own = pytree.flatten_args(tangents) if type(tangents) is tuple else ([], None)
    if len(flat) != len(leaves) or (
        own != spec and pytree.flatten(primals)[1] != pytree.flatten(tangents)[1]
    ):
        raise UsageError(
            explain(
                where,
                "expected primals and tangents to have the same python structure, got "
                f"{pytree.flatten(primals)[1]} and {pytree.flatten(tangents)[1]}.",
                "pass one tangent per primal, in the same containers",
            )
        )
    if not leaves:
        raise UsageError(
            explain(where, "expected at least one Tensor.", "pass a tensor in primals")
        )
    for leaf in [*leaves, *flat]:
        if not isinstance(leaf, Tensor):
            raise UsageError(
                explain(
                    where,
                    "primals and tangents should only contain Tensors, got "
                    f"{type(leaf).__name__}.",
                    "convert it with torch.tensor, or bind it with functools.partial",
                )
            )
    check_differentiable_inputs(where, leaves, primals)
    for value, tangent in zip(leaves, flat, strict=True):
        if value.shape != tangent.shape:
            raise UsageError(
                explain(
                    where,
                    f"a tangent has shape {list(tangent.shape)}, its primal has shape "
                    f"{list(value.shape)}.",
                    "pass a tangent of the primal's shape",
                )
            )
    return leaves, spec, flat


@opaque
def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Any]:
    """Return ``func(*primals)`` and its derivative there as a linear function.

    ``func`` is evaluated once; each call of the linear function then costs only the
    linear part. It can be differentiated, mapped and nested like any other function.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        primals: where to linearize.

    Returns:
        ``(output, jvp_fn)``; ``jvp_fn(*tangents)`` takes one tangent per primal and
        returns the output's tangent.

    Raises:
        UsageError: (a RuntimeError) for primals or outputs that have no derivative, and
            for tangents whose structure or shapes differ from the primals'.

    Examples:
        >>> import torch, jaxtorch
        >>> out, jvp_fn = jaxtorch.linearize(torch.sin, torch.zeros(2))
        >>> jvp_fn(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])

    Source: the signature of ``torch.func.linearize`` and the behaviour of
    ``jax.linearize``.
    """
    where = Where("linearize", func)
    tape, _ = record_function(where, func, primals, False)
    check_tensors(where, tape.outs, "the output of the function")

    @opaque
    def jvp_fn(*tangents: Any) -> Any:
        _, _, flat = match_tangents(f"{where}'s jvp_fn", primals, tangents)
        return pytree.unflatten(tape.push(flat), tape.spec)

    return pytree.unflatten(tape.outs, tape.spec), jvp_fn
