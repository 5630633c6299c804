"""What does the Laplacian of a network cost at many points, as PINNs need it?"""

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
    track,
    transformed,
)
from benchmarks.timing import Call


def workload(n: int, count: int, width: int, counted: bool = True) -> Workload:
    """Return the Laplacian of an MLP of n numbers at ``count`` points."""
    module = models.mlp((n, width, width, width, 1))

    def build(lib: Library) -> Any:
        model = apply(lib, module, models.mlp_formula)

        def laplacian(params: Params, x: Array) -> Array:
            hessian = lib.transforms.hessian(lambda x: model(params, x)[0])(x)
            return lib.np.trace(hessian)

        return lib.transforms.vmap(laplacian, (None, 0))

    def double_backward(params: dict[str, Tensor], x: Tensor) -> Call:
        """Differentiate the batch's gradient once per coordinate."""
        net, x = load(module, params).requires_grad_(False), track(x)

        def call() -> Tensor:
            (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            second = [
                torch.autograd.grad(grad[:, i].sum(), x, retain_graph=True)[0][:, i]
                for i in range(n)
            ]
            return torch.stack(second).sum(0)

        return call

    return Workload(
        f"laplacian-{n}",
        f"of an MLP {n}-{width}-{width}-{width}-1, batch {count}",
        lambda: (parameters(module), data(count, n, seed=9)),
        {
            **transformed(build, inductor=counted),
            "double backward": Contender(double_backward),
        },
        reference=double_backward,
        tolerance=1e-3,
        sweep=("n", n),
        counted=counted,
    )


def workloads(size: str) -> list[Workload]:
    """Return three and ten dimensions, and a few more to see how the cost grows."""
    count, width = {"tiny": (4, 8), "cpu": (2048, 64), "gpu": (65536, 128)}[size]
    small, large, *more = (2, 3, 4) if size == "tiny" else (3, 10, 6, 20)
    return [
        *(workload(n, count, width) for n in (small, large)),
        *(workload(n, count, width, counted=False) for n in more),
    ]


def test_laplacian(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
