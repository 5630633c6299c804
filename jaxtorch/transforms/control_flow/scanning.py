"""``scan``: a loop over slices that hands on a carry and stacks what it returns."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.opaque import opaque
from jaxtorch.errors import ArgumentError, ArgumentTypeError, explain
from jaxtorch.staging.regions.scanning import Scan
from jaxtorch.staging.subgraph import Kind, kind_of
from jaxtorch.transforms.checks import split_aux
from jaxtorch.transforms.control_flow.forms import (
    Form,
    cast_weak,
    close,
    is_traced,
    refuse_other_carry,
    refuse_writes,
    separate,
    versions,
)
from jaxtorch.transforms.naming import Where

Tree = tuple[list[Tensor], Form]


@opaque
def scan(
    f: Callable[[Any, Any], Any],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: bool = False,
) -> tuple[Any, Any]:
    """Fold ``f`` over the slices of ``xs``; returns the last carry and what it made.

    As ``for x in xs: carry, y = f(carry, x)``, with the ys stacked. All derivatives of
    all orders; what reverse mode needs of each step is kept. Under ``jit`` the body is
    staged once and the loop is one call of the graph.

    Args:
        f: a function ``(carry, x) -> (carry, y)``; the carry it returns has the
            structure, shapes and dtypes of the one it takes.
        init: the first carry, a pytree of tensors and Python numbers.
        xs: a pytree of tensors that are sliced along dim 0; None for a loop of
            ``length`` steps, where ``f`` gets None.
        length: the number of steps; needed where ``xs`` has no tensor.
        reverse: go from the last slice to the first; the ys are stacked in the order
            of the xs.
        unroll: under ``jit`` write all steps into the graph. Takes longer to stage, and
            lets the graph be optimized across steps.

    Returns:
        ``(carry, ys)``, with ``length`` slices in each tensor of the ys.

    Raises:
        ArgumentError: (a ValueError) for ``xs`` that have different lengths, or none.
        ArgumentTypeError: (a TypeError) for ``xs`` that are not tensors, and for a
            carry that changes its structure, shapes or dtypes.
        MutationError: (a RuntimeError) where ``f`` writes into its arguments.
        UsageError: (a RuntimeError) where ``f`` does not return a pair.

    Examples:
        >>> import torch, jaxtorch
        >>> def add(total, x):
        ...     return total + x, total * x
        >>> jaxtorch.scan(add, torch.tensor(0.0), torch.tensor([1.0, 2.0, 3.0]))
        (tensor(6.), tensor([0., 2., 9.]))

    Source: the signature and behaviour of ``jax.lax.scan``.
    """
    where = Where("scan", f)
    steps = length_of(where, xs, length)
    call = f if callable(f) else None
    if call is None:
        raise ArgumentTypeError(
            explain(where, "the function can't be called.", "pass scan(f, init, xs)")
        )
    slices = separate(xs)
    return scan_leaves(
        where,
        lambda carry, x: split_aux(where, call(carry, x)),
        separate(init),
        slices,
        steps,
        reverse,
        unroll,
    )


def length_of(where: object, xs: Any, length: int | None) -> int:
    """Return the number of steps; refuse xs that do not agree on it."""
    leaves, _ = pytree.flatten(xs)
    names = pytree.paths(xs, "xs")
    sizes = {}
    for name, leaf in zip(names, leaves, strict=True):
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            raise ArgumentTypeError(
                explain(
                    where,
                    f"{name} can't be sliced: it is no tensor with a dim to go along.",
                    "pass tensors, and bind what all steps share by closure",
                )
            )
        sizes[name] = leaf.shape[0]
    if length is not None:
        sizes["length"] = length
    if len(set(sizes.values())) == 1:
        return next(iter(sizes.values()))
    if not sizes:
        raise ArgumentError(
            explain(where, "the number of steps is not known.", "pass length=")
        )
    raise ArgumentError(
        explain(
            where,
            "the xs have different lengths.",
            "pass tensors of the same size at dim 0",
            *(f"{name} has length {size};" for name, size in sizes.items()),
        )
    )


def scan_leaves(
    where: object,
    call: Callable[[Any, Any], tuple[Any, Any]],
    init: Tree,
    xs: Tree,
    length: int | None = None,
    reverse: bool = False,
    unroll: bool = False,
) -> tuple[Any, Any]:
    """As ``scan``, with the carry and the xs flat."""
    steps = length if length is not None else xs[0][0].shape[0]
    if (is_traced() and not unroll) or steps == 0:
        return staged_scan(where, call, init, xs, steps, reverse)
    carry, form = init
    rows: list[Any] = list(zip(*(x.unbind(0) for x in xs[0]), strict=True))
    rows = rows or [()] * steps
    made = []
    ys_form = None
    for row in reversed(rows) if reverse else rows:
        before = versions(carry)
        news, ys = call(form.join(carry), xs[1].join(row))
        new_carry, own = separate(news)
        refuse_writes(where, carry, before)
        refuse_other_carry(where, form, carry, own, new_carry)
        carry = new_carry
        tensors, ys_form = separate(ys)
        made.append(tensors)
    if reverse:
        made.reverse()
    stacked = [torch.stack(column) for column in zip(*made, strict=True)]
    assert ys_form is not None
    return form.join(carry), ys_form.join(stacked)


def staged_scan(
    where: object,
    call: Callable[[Any, Any], tuple[Any, Any]],
    init: Tree,
    xs: Tree,
    length: int,
    reverse: bool,
) -> tuple[Any, Any]:
    """Stage the body and put the loop into the graph."""
    carry, form = init
    count = len(carry)
    slices = [Kind(x.shape[1:], x.dtype, x.device) for x in xs[0]]
    kinds = [kind_of(value) for value in carry]
    split: list[Any] = []

    def body(values: Any) -> Any:
        news, ys = call(form.join(values[:count]), xs[1].join(values[count:]))
        (tensors, own), (made, ys_form) = separate(news), separate(ys)
        split[:] = own, ys_form
        return [*tensors, *made]

    closed = close(where, body, [*kinds, *slices])
    own, ys_form = split
    total = len(own.weak)
    refuse_other_carry(where, form, kinds, own, closed.graph.outs[:total])
    cast = cast_weak(form, carry, closed.graph.outs[:total])
    if [kind_of(value) for value in cast] != kinds:
        strict = form._replace(weak=(False,) * count)
        return staged_scan(where, call, (cast, strict), xs, length, reverse)
    if length == 0:
        made = [
            torch.empty(0, *kind.shape, dtype=kind.dtype, device=kind.device)
            for kind in closed.graph.outs[count:]
        ]
        return form.join(carry), ys_form.join(made)
    n = len(closed.captured)
    region = Scan(lambda *v: closed.graph(*v[n:], *v[:n]), (n, count), length, reverse)
    results = region(*closed.captured, *carry, *xs[0])
    return form.join(results[:count]), ys_form.join(results[count:])
