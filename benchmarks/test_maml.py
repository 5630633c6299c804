"""What does MAML's outer gradient cost: through inner steps of gradient descent?"""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from benchmarks import models
from benchmarks.harness import (
    Array,
    Contender,
    Library,
    Params,
    Workload,
    apply,
    data,
    load,
    parameters,
    transformed,
)
from benchmarks.timing import Call

RATE = 0.1


def workload(tasks: int, width: int, points: int, steps: int) -> Workload:
    """Return the outer gradient over tasks that fit a curve each."""
    module = models.mlp((1, width, width, 1))

    def inputs() -> tuple[Any, ...]:
        xs = [data(tasks, points, 1, seed=30 + i) for i in range(2)]
        phases = data(tasks, 1, 1, seed=32)
        support, query = ((x, torch.sin(torch.tensor(x + phases)).numpy()) for x in xs)
        return parameters(module), *support, *query

    def build(lib: Library) -> Any:
        model = apply(lib, module, models.mlp_formula)
        transforms = lib.transforms

        def loss(params: Params, x: Array, y: Array) -> Array:
            return ((model(params, x) - y) ** 2).mean()

        def adapted(params: Params, x: Array, y: Array, *query: Array) -> Array:
            for _ in range(steps):
                grads = transforms.grad(loss)(params, x, y)
                params = {name: p - RATE * grads[name] for name, p in params.items()}
            return loss(params, *query)

        def outer(params: Params, *batch: Array) -> Array:
            return transforms.vmap(adapted, (None, 0, 0, 0, 0))(params, *batch).mean()

        return transforms.grad(outer)

    def unrolled(params: dict[str, Tensor], *batch: Tensor) -> Call:
        """Call torch.autograd with ``create_graph``, task by task."""
        net = load(module, params)
        start = dict(net.named_parameters())

        def adapted(x: Tensor, y: Tensor, *query: Tensor) -> Tensor:
            own = start
            for _ in range(steps):
                loss = (functional_call(net, own, (x,)) - y).square().mean()
                grads = torch.autograd.grad(loss, list(own.values()), create_graph=True)
                pairs = zip(own.items(), grads, strict=True)
                own = {name: p - RATE * g for (name, p), g in pairs}
            return (functional_call(net, own, (query[0],)) - query[1]).square().mean()

        def call() -> dict[str, Tensor]:
            losses = [adapted(*task) for task in zip(*batch, strict=True)]
            grads = torch.autograd.grad(
                torch.stack(losses).mean(), list(start.values())
            )
            return dict(zip(start, grads, strict=True))

        return call

    return Workload(
        f"maml-{tasks}",
        f"{tasks} tasks, MLP 1-{width}-{width}-1, {steps} inner steps",
        inputs,
        {**transformed(build), "double backward": Contender(unrolled)},
        reference=unrolled,
        tolerance=1e-3,
    )


def workloads(size: str) -> list[Workload]:
    """Return one meta-batch."""
    shape = {"tiny": (2, 4, 3, 1), "cpu": (25, 40, 10, 3), "gpu": (256, 128, 32, 5)}
    return [workload(*shape[size])]


def test_maml(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
