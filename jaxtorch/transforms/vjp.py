"""``vjp``: the value of a function and its vector-Jacobian product."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.opaque import opaque
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.taping import check_outputs, record_function


@opaque
def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Return ``func(*primals)`` and the function that pulls cotangents back.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same.
        primals: where to evaluate ``func``.
        has_aux: ``func`` returns ``(output, aux)``; ``aux`` is not differentiated.

    Returns:
        ``(output, vjp_fn)``, or ``(output, vjp_fn, aux)`` with ``has_aux``.
        ``vjp_fn(cotangents)`` takes a cotangent of the structure and shapes of the
        output and returns a tuple with one cotangent per primal. It may be called many
        times, and differentiated or mapped itself.

    Raises:
        UsageError: (a RuntimeError) for primals or outputs that have no derivative,
            and for cotangents whose structure, shape or field is not the output's.

    Examples:
        >>> import torch, jaxtorch
        >>> out, vjp_fn = jaxtorch.vjp(torch.sin, torch.zeros(2))
        >>> vjp_fn(torch.ones(2))
        (tensor([1., 1.]),)

    Source: the signature and behaviour of ``torch.func.vjp``.
    """
    where = Where("vjp", func)
    tape, spec = record_function(where, func, primals, has_aux)
    check_outputs(where, tape.outs, "the output of the function")
    spec_of_out = tape.spec

    @opaque
    def vjp_fn(
        cotangents: Any,
        retain_graph: bool = True,
        create_graph: bool | None = None,
    ) -> Any:
        flat = match_cotangents(where, cotangents, tape.outs, spec_of_out)
        if create_graph is None or create_graph is torch.is_grad_enabled():
            pulled = tape.pull(flat, free=not retain_graph)
        else:
            with torch.set_grad_enabled(create_graph):
                pulled = tape.pull(flat, free=not retain_graph)
        return pytree.unflatten_args(pulled, spec)

    out = pytree.unflatten(tape.outs, tape.spec)
    return (out, vjp_fn, tape.aux) if has_aux else (out, vjp_fn)


def match_cotangents(
    where: object, cotangents: Any, outs: list[Tensor], spec: Any
) -> list[Tensor]:
    """Flatten cotangents; refuse those that do not match the output."""
    flat, own = pytree.flatten(cotangents)
    if own != spec:
        raise UsageError(
            explain(
                where,
                f"Expected pytree structure of cotangents to be {spec}, got {own}.",
                "pass cotangents in the structure of the function's output",
            )
        )
    for cotangent, out in zip(flat, outs, strict=True):
        if not isinstance(cotangent, Tensor):
            raise UsageError(
                explain(
                    where,
                    f"expected cotangents to be tensors, got {cotangent!r}.",
                    "pass a tensor of the output's shape (zeros for no cotangent)",
                )
            )
        if cotangent.shape != out.shape:
            raise UsageError(
                explain(
                    where,
                    f"a cotangent has shape {list(cotangent.shape)}, its output has "
                    f"shape {list(out.shape)}.",
                    "pass a cotangent of the output's shape",
                )
            )
        if cotangent.is_complex() is not out.is_complex():
            raise UsageError(
                explain(
                    where,
                    f"a cotangent has dtype {cotangent.dtype}, its output has dtype "
                    f"{out.dtype}: both must be complex, or none.",
                    "pass a cotangent of the output's dtype",
                )
            )
    return [
        cotangent if cotangent.dtype is out.dtype else cotangent.to(out.dtype)
        for cotangent, out in zip(flat, outs, strict=True)
    ]
