"""What does a full Jacobian cost: wide, tall, narrow inside, sparse, and batched?"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import functions
from benchmarks.harness import (
    JAXTORCH,
    Build,
    Contender,
    Library,
    Workload,
    data,
    track,
    transformed,
)
from benchmarks.timing import Call


def reverse(func: Build) -> Build:
    """Return the Jacobian by reverse mode."""
    return lambda lib: lib.transforms.jacrev(func(lib))


def forward(func: Build) -> Build:
    """Return the Jacobian by forward mode."""
    return lambda lib: lib.transforms.jacfwd(func(lib))


def row_by_row(func: Build, x: Tensor, *rest: Any) -> Call:
    """Call torch.autograd once per output.

    Indexed one by one: the derivative of unbinding makes zeros for all other rows.
    """
    x, function = track(x), func(JAXTORCH)

    def call() -> Tensor:
        out = function(x, *rest)
        rows = range(len(out))
        return torch.stack(
            [torch.autograd.grad(out[i], x, retain_graph=True)[0] for i in rows]
        )

    return call


def all_rows(func: Build, x: Tensor, *rest: Any) -> Call:
    """Call torch.autograd once with a batch of cotangents."""
    x, function = track(x), func(JAXTORCH)

    def call() -> Tensor:
        out = function(x, *rest)
        basis = torch.eye(len(out), dtype=out.dtype, device=out.device)
        return torch.autograd.grad(out, x, basis, is_grads_batched=True)[0]

    return call


def functional(func: Build, mode: str, x: Tensor, *rest: Any) -> Call:
    """Call torch.autograd.functional.jacobian, vectorized."""
    function = func(JAXTORCH)
    return lambda: torch.autograd.functional.jacobian(
        lambda x: function(x, *rest), x, vectorize=True, strategy=mode
    )


def single(
    name: str,
    title: str,
    func: Build,
    inputs: Any,
    way: Any = reverse,
    row: tuple[str, int] | None = None,
    counted: bool = True,
) -> Workload:
    """Return the Jacobian of a function at one point."""
    mode = "forward-mode" if way is forward else "reverse-mode"
    slow = Contender(functools.partial(row_by_row, func))
    their = Contender(functools.partial(functional, func, mode))
    peers = {"autograd.functional": their}
    if way is reverse:
        peers["autograd batched"] = Contender(functools.partial(all_rows, func))
    if counted:
        peers["autograd loop"] = slow
    return Workload(
        f"jacobian-{name}",
        title,
        inputs,
        {**transformed(way(func), inductor=counted), **peers},
        reference=slow.setup,
        sweep=row,
        counted=counted,
    )


def vector(n: int) -> tuple[np.ndarray]:
    """Return n numbers."""
    return (data(n),)


def layers(*widths: int) -> Any:
    """Return the inputs of ``two_layers``."""
    a, b, c = widths
    return lambda: (
        data(a),
        data(b, a, seed=1, scale=a**-0.5),
        data(c, b, seed=2, scale=b**-0.5),
    )


def arms(count: int) -> Workload:
    """Return the Jacobians of many positions of an arm."""

    def build(lib: Library) -> Any:
        return lib.transforms.vmap(lib.transforms.jacrev(functions.arm(lib)), (0, None))

    def coordinates(angles: Tensor, link: Tensor) -> Call:
        """Call torch.autograd once per coordinate, for the sum over the batch."""
        angles, hand = track(angles), functions.arm(JAXTORCH)
        column = link[:, None].expand(3, len(angles))

        def call() -> Tensor:
            out = hand(angles.T, column)
            rows = [
                torch.autograd.grad(y.sum(), angles, retain_graph=True)[0] for y in out
            ]
            return torch.stack(rows, 1)

        return call

    link = np.array([1.0, 0.0, 0.0], dtype=np.float32)
    return Workload(
        f"jacobian-arm-{count}",
        f"7-joint arm, batch {count}",
        lambda: (data(count, 7), link),
        {**transformed(build), "autograd loop": Contender(coordinates)},
        reference=coordinates,
    )


def workloads(size: str) -> list[Workload]:
    """Return dense, sparse and batched Jacobians; tridiagonal ones of growing n."""
    few, mid, many, grid, count = {
        "tiny": (3, 4, 8, 32, 5),
        "cpu": (16, 256, 1024, 4096, 4096),
        "gpu": (16, 256, 4096, 8192, 65536),
    }[size]
    outer, inner = (6, 3) if size == "tiny" else (512, 64)

    def bratu(n: int) -> Workload:
        return single(
            f"tridiagonal-{n}",
            f"tridiagonal, n = {n}",
            functions.tridiagonal,
            functools.partial(vector, n),
            row=("n", n),
            counted=n == grid,
        )

    def dense(kind: str, *widths: int, way: Any = reverse) -> Workload:
        title = f"{kind}, {'-'.join(map(str, widths))}"
        return single(
            f"{kind}-{max(widths)}", title, functions.two_layers, layers(*widths), way
        )

    return [
        dense("wide", many, mid, few),
        dense("tall", few, mid, many, way=forward),
        dense("bottleneck", outer, inner, outer),
        single(
            f"elementwise-{many}",
            f"elementwise, n = {many}",
            functions.elementwise,
            functools.partial(vector, many),
        ),
        bratu(grid),
        *(bratu(n) for n in (grid // 4, grid // 16)),
        arms(count),
    ]


def test_jacobians(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
