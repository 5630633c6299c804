"""What does an empirical neural tangent kernel cost?"""

from typing import Any

import torch
from torch import Tensor

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


def workload(count: int, widths: tuple[int, ...]) -> Workload:
    """Return the kernel [count, count, outputs, outputs] between two sets of inputs."""
    module = models.mlp(widths)

    def build(lib: Library) -> Any:
        model, transforms = apply(lib, module, models.mlp_formula), lib.transforms

        def one(params: Params, x: Array) -> Array:
            return model(params, x[None])[0]

        def kernel(params: Params, x1: Array, x2: Array) -> Array:
            jacobians = transforms.vmap(transforms.jacrev(one), (None, 0))
            j1, j2 = jacobians(params, x1), jacobians(params, x2)
            return sum(
                lib.np.einsum(
                    "naf,mbf->nmab",
                    j1[name].reshape(count, widths[-1], -1),
                    j2[name].reshape(count, widths[-1], -1),
                )
                for name in params
            )

        return kernel

    def loop(params: dict[str, Tensor], x1: Tensor, x2: Tensor) -> Call:
        """Call torch.autograd once per example and output."""
        net = load(module, params)
        leaves = list(net.parameters())

        def rows(x: Tensor) -> Tensor:
            flat = [
                torch.cat(
                    [
                        g.flatten()
                        for g in torch.autograd.grad(y, leaves, retain_graph=True)
                    ]
                )
                for one in x
                for y in net(one)
            ]
            return torch.stack(flat).unflatten(0, (len(x), -1))

        return lambda: torch.einsum("naf,mbf->nmab", rows(x1), rows(x2))

    return Workload(
        f"ntk-{count}",
        f"{count} x {count}, MLP {'-'.join(map(str, widths))}",
        lambda: (
            parameters(module),
            data(count, widths[0], seed=9),
            data(count, widths[0], seed=10),
        ),
        {**transformed(build), "autograd loop": Contender(loop)},
        reference=loop,
    )


def workloads(size: str) -> list[Workload]:
    """Return one kernel."""
    shape: dict[str, Any] = {
        "tiny": (3, (6, 5, 2)),
        "cpu": (32, (64, 128, 128, 10)),
        "gpu": (128, (784, 512, 512, 10)),
    }
    return [workload(*shape[size])]


def test_ntk(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
