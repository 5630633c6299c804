"""What a case must return: Python loops for vmap, torch.autograd for derivatives.

Nothing of jaxtorch or torch.func is used. Forward mode is the derivative of the
backward pass with respect to its cotangent, so it shares no formula with forward mode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.parts import Outputs, direction, floats, total
from tests.fuzz.program import run_out_of_place
from tests.fuzz.stack import Case, Layer, Spec, argument_specs, output_specs

Function = Callable[..., Outputs]


def expected(case: Case) -> Outputs:
    """Return the outputs of a case."""
    program = case.program
    func: Function = program.function()
    if not program.plain:
        func = lambda *args: run_out_of_place(program, args)  # noqa: E731
    args = argument_specs(program.inputs)
    outs = output_specs(program)
    for layer in case.layers:
        outs = layer.specs(args, outs)
        args = layer.outer_arguments(args)
        func = LAYERS[layer.name](layer, func, outs)
    return tuple(out.detach() for out in func(*case.arguments()))


def by_loop(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return vmap as a loop."""

    def mapped(*args: Tensor) -> Outputs:
        if layer.size == 0:
            return tuple(torch.zeros(s, dtype=d) for s, d in specs)
        rows = [
            func(
                *(
                    arg if dim is None else arg.select(dim, index)
                    for arg, dim in zip(args, layer.in_dims, strict=True)
                )
            )
            for index in range(layer.size)
        ]
        columns = zip(*rows, strict=True)
        return tuple(
            torch.stack(column, dim)
            for column, dim in zip(columns, layer.out_dims, strict=True)
        )

    return mapped


def leaf(x: Tensor) -> Tensor:
    """Return ``x`` as something new to differentiate by."""
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def split(
    layer: Layer, func: Function, args: Sequence[Tensor]
) -> tuple[list[Tensor], Outputs]:
    """Return fresh leaves and all outputs of ``func`` there."""
    full = list(args)
    leaves = [leaf(args[i]) for i in layer.argnums]
    for number, own in zip(layer.argnums, leaves, strict=True):
        full[number] = own
    return leaves, func(*full)


def pull(
    outs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> Outputs:
    """Return the vector-Jacobian product, zero where nothing is connected."""
    pairs = [
        (out, cotangent)
        for out, cotangent in zip(outs, cotangents, strict=True)
        if out.requires_grad
    ]
    if not pairs or not leaves:
        return tuple(torch.zeros_like(x) for x in leaves)
    found = torch.autograd.grad(
        [out for out, _ in pairs],
        leaves,
        [cotangent.to(out.dtype) for out, cotangent in pairs],
        create_graph=True,
        allow_unused=True,
    )
    return tuple(
        torch.zeros_like(x) if g is None else g
        for x, g in zip(leaves, found, strict=True)
    )


def pusher(
    outs: Sequence[Tensor], leaves: Sequence[Tensor]
) -> Callable[[Sequence[Tensor]], Outputs]:
    """Return the Jacobian-vector product: the transpose of the backward pass."""
    dummies = [torch.zeros_like(out).requires_grad_() for out in outs]
    pulled = pull(outs, leaves, dummies)
    return lambda tangents: pull(pulled, dummies, tangents)


def by_grad(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return grad, and grad_and_value, with their auxiliary results."""

    def gradient(*args: Tensor) -> Outputs:
        leaves, outs = split(layer, func, args)
        value = total(outs)
        grads = pull([value], leaves, [torch.ones_like(value)])
        if layer.name == "grad_and_value":
            return (*grads, value, *outs)
        return (*grads, *outs) if layer.live else grads

    return gradient


def by_vjp(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return vjp."""

    def pulled(*args: Tensor) -> Outputs:
        leaves, outs = split(layer, func, args)
        outs = floats(outs)
        cotangents = [direction(o, layer.live) for o in outs]
        return (*outs, *pull(outs, leaves, cotangents))

    return pulled


def by_push(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return jvp and linearize."""

    def pushed(*args: Tensor) -> Outputs:
        leaves, outs = split(layer, func, args)
        outs = floats(outs)
        push = pusher(outs, leaves)
        own = [args[i] for i in layer.argnums]
        tangents = push([direction(x, layer.live) for x in own])
        if layer.name == "jvp":
            return (*outs, *tangents)
        return (*outs, *tangents, *push([direction(x, tilt=-0.7) for x in own]))

    return pushed


def basis(like: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the unit vectors of some tensors together."""
    out = []
    for number, x in enumerate(like):
        for place in range(x.numel()):
            unit = [torch.zeros(y.numel(), dtype=y.dtype) for y in like]
            unit[number][place] = 1
            pairs = zip(unit, like, strict=True)
            out.append([own.reshape(y.shape) for own, y in pairs])
    return out


def by_rows(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return jacrev: one backward pass for each element of the outputs."""

    def jacobian(*args: Tensor) -> Outputs:
        leaves, outs = split(layer, func, args)
        outs = floats(outs)
        found: list[Tensor] = []
        for out in outs:
            rows = [pull([out], leaves, [row[0]]) for row in basis([out])]
            for number, x in enumerate(leaves):
                shape = out.shape + x.shape
                column = [row[number].reshape(-1) for row in rows]
                found.append(joined(column, x).reshape(shape))
        return tuple(found)

    return jacobian


def by_columns(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return jacfwd: one push for each element of the inputs."""

    def jacobian(*args: Tensor) -> Outputs:
        leaves, outs = split(layer, func, args)
        outs = floats(outs)
        push = pusher(outs, leaves)
        columns = [push(unit) for unit in basis(leaves)]
        found: list[Tensor] = []
        for number, out in enumerate(outs):
            start = 0
            for x in leaves:
                part = [c[number].reshape(-1) for c in columns[start:][: x.numel()]]
                start += x.numel()
                matrix = joined(part, out).reshape(x.numel(), out.numel())
                found.append(matrix.t().reshape(out.shape + x.shape))
        return tuple(found)

    return jacobian


def joined(rows: list[Tensor], like: Tensor) -> Tensor:
    """Return rows one after the other, also where there are none."""
    return torch.cat(rows) if rows else torch.zeros(0, dtype=like.dtype)


def by_hessian(layer: Layer, func: Function, specs: list[Spec]) -> Function:
    """Return hessian: the rows of the rows."""
    return by_rows(layer, by_rows(layer, func, specs), specs)


LAYERS: dict[str, Any] = {
    "vmap": by_loop,
    "grad": by_grad,
    "grad_and_value": by_grad,
    "vjp": by_vjp,
    "jvp": by_push,
    "linearize": by_push,
    "jacrev": by_rows,
    "jacfwd": by_columns,
    "hessian": by_hessian,
}
