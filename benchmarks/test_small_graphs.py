"""What does a call cost where there is next to nothing to compute?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import functional

from benchmarks.harness import Array, Library, Workload, data, track, transformed
from benchmarks.timing import Call

Layers = tuple[tuple[Array, Array], ...]
TORCH = Library(torch, torch)
THREADS = 2


def product(lib: Library) -> Callable[[Array], Array]:
    """Return a function of five operations."""
    return lambda x: (lib.np.sin(x) * lib.np.exp(x) + x).sum()


def rosenbrock(lib: Library) -> Callable[[Array], Array]:
    """Return the valley of Rosenbrock, whose least value is at one everywhere."""
    return lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def layer(lib: Library) -> Callable[[Array, Array, Array], Array]:
    """Return one layer."""
    return lambda x, weight, bias: lib.np.tanh(weight @ x + bias)


def wave(lib: Library) -> Callable[[Array], Array]:
    """Return a function of three operations."""
    return lambda x: lib.np.sin(lib.np.cos(x).sum())


def deep(lib: Library) -> Callable[[Layers, Array], Array]:
    """Return the sum of the outputs of a network with an activation behind a layer."""

    def network(layers: Layers, x: Array) -> Array:
        for weight, bias in layers:
            x = lib.np.tanh(x @ weight + bias)
        return x.sum()

    return network


def by_example(layers: Any, x: Tensor) -> Call:
    """Differentiate the network for one example after the other."""
    layers = track(layers)
    flat = [tensor for pair in layers for tensor in pair]
    network = deep(TORCH)

    def call() -> Any:
        rows = [torch.autograd.grad(network(layers, row), flat) for row in x]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    return call


def layers_of(count: int, width: int) -> Any:
    """Return random weights and biases of a network."""
    scale = width**-0.5
    return tuple(
        (data(width, width, seed=i, scale=scale), data(width, seed=i, scale=scale))
        for i in range(count)
    )


def workloads(size: str) -> list[Workload]:
    """Return small graphs of every kind; they are as small in every size."""
    points = lambda *shape: lambda: (data(*shape, scale=0.5),)  # noqa: E731
    return [
        Workload(
            "small-gradients",
            "gradients of 5 operations on 3 numbers, 8 of them",
            points(8, 3),
            transformed(
                lambda lib: lib.transforms.vmap(lib.transforms.grad(product(lib)))
            ),
            lambda x: lambda: functional.jacobian(product(TORCH), x),
            threads=THREADS,
        ),
        Workload(
            "small-deep",
            "per-sample gradients of 20 layers of 8 units, 8 examples",
            lambda: (layers_of(20, 8), data(8, 8)),
            transformed(
                lambda lib: lib.transforms.vmap(
                    lib.transforms.grad(deep(lib)), (None, 0)
                )
            ),
            by_example,
            threads=THREADS,
        ),
        Workload(
            "small-hessian",
            "Hessian of the Rosenbrock function of 4 numbers",
            points(4),
            transformed(lambda lib: lib.transforms.hessian(rosenbrock(lib))),
            lambda x: lambda: functional.hessian(rosenbrock(TORCH), x),
            threads=THREADS,
        ),
        Workload(
            "small-jacobian",
            "Jacobian of a layer from 64 to 32 units",
            lambda: (data(64), data(32, 64, seed=1), data(32, seed=2)),
            transformed(lambda lib: lib.transforms.jacrev(layer(lib))),
            lambda *inputs: lambda: functional.jacobian(layer(TORCH), inputs)[0],
            threads=THREADS,
        ),
        Workload(
            "small-dispatch",
            "gradient of 3 operations on 100 numbers",
            points(100),
            transformed(lambda lib: lib.transforms.grad(wave(lib))),
            lambda x: lambda: functional.jacobian(wave(TORCH), x),
            threads=THREADS,
        ),
    ]


def test_small_graphs(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
