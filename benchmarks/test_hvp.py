"""What does a Hessian-vector product cost: one, and fifty at one point?"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.harness import (
    JAXTORCH,
    TORCH_FUNC,
    Build,
    Contender,
    Library,
    Workload,
    transformed,
)
from benchmarks.regression import Fit, curvature, grads
from benchmarks.timing import Call


def once(own: Fit) -> Build:
    """Return forward over reverse mode."""

    def build(lib: Library) -> Any:
        gradient = lib.transforms.grad(own.loss(lib))

        def product(params: Any, x: Any, y: Any, direction: Any) -> Any:
            return lib.transforms.jvp(
                lambda params: gradient(params, x, y), (params,), (direction,)
            )[1]

        return product

    return build


def many(own: Fit) -> Build:
    """Return the gradient's derivative, mapped over the directions.

    By ``linearize``, but for torch.func: its ``linearize`` makes a graph in each call.
    """

    def build(lib: Library) -> Any:
        gradient = lib.transforms.grad(own.loss(lib))

        def products(params: Any, x: Any, y: Any, directions: Any) -> Any:
            def at(params: Any) -> Any:
                return gradient(params, x, y)

            def push(direction: Any) -> Any:
                return lib.transforms.jvp(at, (params,), (direction,))[1]

            if lib is not TORCH_FUNC:
                _, push = lib.transforms.linearize(at, params)
            return lib.transforms.vmap(push)(directions)

        return products

    return build


def double_backward(own: Fit, params: Any, x: Any, y: Any, directions: Any) -> Call:
    """Differentiate the gradient's product with each direction."""
    net, leaves = own.tracked(params)
    rows = list(directions.values())

    def call() -> dict[str, Tensor]:
        grad = grads(net, x, y, leaves)
        if not own.directions:
            out = torch.autograd.grad(grad, list(leaves.values()), rows)
            return dict(zip(leaves, out, strict=True))
        products = [
            torch.autograd.grad(grad, list(leaves.values()), row, retain_graph=True)
            for row in zip(*rows, strict=True)
        ]
        columns = zip(*products, strict=True)
        return {k: torch.stack(c) for k, c in zip(leaves, columns, strict=True)}

    return call


def batched_backward(own: Fit, params: Any, x: Any, y: Any, directions: Any) -> Call:
    """Differentiate the gradient with a batch of directions."""
    net, leaves = own.tracked(params)

    def call() -> dict[str, Tensor]:
        out = torch.autograd.grad(
            grads(net, x, y, leaves),
            list(leaves.values()),
            list(directions.values()),
            is_grads_batched=True,
        )
        return dict(zip(leaves, out, strict=True))

    return call


def functional(own: Fit, params: Any, x: Any, y: Any, direction: Any) -> Call:
    """Call torch.autograd.functional.vhp; the Hessian is symmetric."""
    model = own.model(JAXTORCH)

    def loss(*values: Tensor) -> Tensor:
        return cross_entropy(model(dict(zip(params, values, strict=True)), x), y)

    def call() -> dict[str, Tensor]:
        values, vectors = tuple(params.values()), tuple(direction.values())
        product = torch.autograd.functional.vhp(loss, values, vectors)[1]
        return dict(zip(params, product, strict=True))

    return call


def workload(own: Fit) -> Workload:
    """Return the products with one direction or with many."""
    slow = functools.partial(double_backward, own)
    hessian = functools.partial(curvature, "HessianLinearOperator", own)
    contenders = {
        **transformed(many(own) if own.directions else once(own)),
        "double backward": Contender(slow),
        "curvlinops": Contender(hessian, "curvlinops"),
    }
    if own.directions:
        way = functools.partial(batched_backward, own)
        contenders["autograd batched"] = Contender(way)
    else:
        way = functools.partial(functional, own)
        contenders["autograd.functional"] = Contender(way)
    count = own.directions or 1
    return Workload(
        f"hvp-{count}",
        f"{count} at one point, {own.title}",
        own.inputs,
        contenders,
        reference=slow,
        tolerance=1e-3,
    )


def workloads(size: str) -> list[Workload]:
    """Return one product, and many at one point."""
    widths, batch, directions = {
        "tiny": ((6, 5, 3), 4, 3),
        "cpu": ((64, 128, 128, 10), 128, 50),
        "gpu": ((784, 512, 512, 10), 512, 50),
    }[size]
    return [workload(Fit(widths, batch, 0)), workload(Fit(widths, batch, directions))]


def test_hvp(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
