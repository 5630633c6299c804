"""What does the gradient of every network of an ensemble cost?"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import models
from benchmarks.harness import (
    Array,
    Contender,
    Library,
    Params,
    Workload,
    apply,
    data,
    labels,
    load,
    parameters,
    transformed,
)
from benchmarks.timing import Call


def workload(count: int, widths: tuple[int, ...], batch: int) -> Workload:
    """Return the gradients of ``count`` MLPs on one batch."""
    module = models.mlp(widths)

    def inputs() -> tuple[Any, ...]:
        one = parameters(module)
        stacked = {
            name: np.stack([data(*p.shape, seed=i, scale=0.1) for i in range(count)])
            for name, p in one.items()
        }
        return stacked, data(batch, widths[0], seed=9), labels(batch, widths[-1])

    def build(lib: Library) -> Any:
        model = apply(lib, module, models.mlp_formula)

        def loss(params: Params, x: Array, y: Array) -> Array:
            return models.cross_entropy(lib, model(params, x), y)

        return lib.transforms.vmap(lib.transforms.grad(loss), (0, None, None))

    def loop(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Call:
        """Call torch.autograd once per network."""
        nets = [
            load(module, {name: p[i] for name, p in params.items()})
            for i in range(count)
        ]

        def call() -> dict[str, Tensor]:
            rows = [
                torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters()))
                for net in nets
            ]
            columns = zip(*rows, strict=True)
            return {k: torch.stack(c) for k, c in zip(params, columns, strict=True)}

        return call

    return Workload(
        f"ensemble-{count}",
        f"{count} MLPs {'-'.join(map(str, widths))}, batch {batch}",
        inputs,
        {**transformed(build), "autograd loop": Contender(loop)},
        reference=loop,
    )


def workloads(size: str) -> list[Workload]:
    """Return sixteen networks."""
    count, widths, batch = {
        "tiny": (3, (6, 5, 3), 4),
        "cpu": (16, (784, 128, 128, 10), 64),
        "gpu": (16, (784, 512, 512, 10), 256),
    }[size]
    return [workload(count, widths, batch)]


def test_ensembles(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
