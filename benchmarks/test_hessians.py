"""What does a full Hessian cost: of one function, of many small ones, of a fit?"""

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


def hessian(func: Build) -> Build:
    """Return the Hessian as all transforms write it."""
    return lambda lib: lib.transforms.hessian(func(lib))


def double_backward(func: Build, x: Tensor, *rest: Any) -> Call:
    """Differentiate the gradient entry by entry."""
    x, function = track(x), func(JAXTORCH)

    def call() -> Tensor:
        (grad,) = torch.autograd.grad(function(x, *rest), x, create_graph=True)
        rows = [torch.autograd.grad(g, x, retain_graph=True)[0] for g in grad]
        return torch.stack(rows)

    return call


def batched_backward(func: Build, x: Tensor, *rest: Any) -> Call:
    """Differentiate the gradient with a batch of cotangents."""
    x, function = track(x), func(JAXTORCH)

    def call() -> Tensor:
        (grad,) = torch.autograd.grad(function(x, *rest), x, create_graph=True)
        basis = torch.eye(len(x), dtype=x.dtype, device=x.device)
        return torch.autograd.grad(grad, x, basis, is_grads_batched=True)[0]

    return call


def functional(func: Build, x: Tensor, *rest: Any) -> Call:
    """Call torch.autograd.functional.hessian, vectorized."""
    function = func(JAXTORCH)
    return lambda: torch.autograd.functional.hessian(
        lambda x: function(x, *rest), x, vectorize=True
    )


def single(
    name: str,
    title: str,
    func: Build,
    inputs: Any,
    row: tuple[str, int] | None = None,
    counted: bool = True,
) -> Workload:
    """Return the Hessian of a function at one point."""
    slow = Contender(functools.partial(double_backward, func))
    peers = {
        "autograd batched": Contender(functools.partial(batched_backward, func)),
        "autograd.functional": Contender(functools.partial(functional, func)),
    }
    if counted:
        peers["double backward"] = slow
    return Workload(
        f"hessian-{name}",
        title,
        inputs,
        {**transformed(hessian(func), inductor=counted), **peers},
        reference=slow.setup,
        tolerance=1e-3,
        sweep=row,
        counted=counted,
    )


def dense(n: int, counted: bool = True) -> Workload:
    """Return the Hessian of a scalar function of n numbers."""
    return single(
        f"single-{n}" if counted else f"n-{n}",
        f"of a scalar function, n = {n}",
        functions.smooth_maximum,
        lambda: (data(n), data(n, n, seed=1, scale=n**-0.5)),
        ("n", n),
        counted,
    )


def batched(n: int, count: int) -> Workload:
    """Return the Hessians of a scalar function at many points."""
    func = functions.smooth_maximum

    def build(lib: Library) -> Any:
        return lib.transforms.vmap(lib.transforms.hessian(func(lib)), (0, None))

    def columns(x: Tensor, weight: Tensor) -> Call:
        """Differentiate the batch's gradient once per entry."""
        x = track(x)

        def call() -> Tensor:
            hidden = torch.tanh(x @ weight.T) @ weight.T
            value = hidden.logsumexp(-1).sum()
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            rows = [
                torch.autograd.grad(g.sum(), x, retain_graph=True)[0] for g in grad.T
            ]
            return torch.stack(rows, 1)

        return call

    return Workload(
        f"hessian-batched-{n}",
        f"of a scalar function, n = {n}, batch {count}",
        lambda: (data(count, n), data(n, n, seed=1, scale=n**-0.5)),
        {**transformed(build), "double backward": Contender(columns)},
        reference=columns,
        tolerance=1e-3,
    )


def logistic(features: int, count: int) -> Workload:
    """Return the Hessian of logistic regression."""
    signs = np.where(data(count, seed=3) > 0, 1.0, -1.0).astype(np.float32)
    return single(
        f"logistic-{features}",
        f"of logistic regression, {count} examples of {features} features",
        functions.logistic_loss,
        lambda: (data(features, scale=0.1), data(count, features, seed=1), signs),
    )


def workloads(size: str) -> list[Workload]:
    """Return single, batched and regression Hessians; single ones of growing n."""
    small, large, many, examples = {
        "tiny": (4, 8, 5, 10),
        "cpu": (64, 512, 256, 1000),
        "gpu": (64, 1024, 65536, 100000),
    }[size]
    return [
        dense(small),
        dense(large),
        *(dense(n, counted=False) for n in (small // 4, small * 2)),
        batched(3 if size == "tiny" else 8, many),
        logistic(small, examples),
    ]


def test_hessians(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
