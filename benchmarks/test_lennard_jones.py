"""What do the forces and the Hessian of a cluster of atoms cost?"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import functions
from benchmarks.harness import (
    JAXTORCH,
    Array,
    Contender,
    Library,
    Workload,
    data,
    track,
    transformed,
)
from benchmarks.timing import Call


def cluster(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of side^3 atoms near a lattice, and all pairs."""
    lattice = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)
    positions = (lattice * 1.1 + data(*lattice.shape, scale=0.02)).astype(np.float32)
    return positions, np.stack(np.triu_indices(len(positions), 1))


def forces(side: int) -> Workload:
    """Return the forces on every atom."""

    def build(lib: Library) -> Any:
        energy = functions.lennard_jones(lib)
        return lib.transforms.grad(lambda x, pairs: -energy(x, pairs))

    def backward(x: Tensor, pairs: Tensor) -> Call:
        """Call torch.autograd."""
        x, energy = track(x), functions.lennard_jones(JAXTORCH)
        return lambda: -torch.autograd.grad(energy(x, pairs), x)[0]

    return Workload(
        f"lennard-jones-forces-{side**3}",
        f"forces on {side**3} atoms",
        lambda: cluster(side),
        {**transformed(build), "autograd": Contender(backward)},
        reference=backward,
        tolerance=1e-3,
    )


def hessian(side: int) -> Workload:
    """Return the Hessian of the energy, [n, 3, n, 3]."""

    def build(lib: Library) -> Any:
        return lib.transforms.hessian(functions.lennard_jones(lib))

    def gradient(x: Tensor, pairs: Tensor) -> Tensor:
        energy = functions.lennard_jones(JAXTORCH)
        return torch.autograd.grad(energy(x, pairs), x, create_graph=True)[0]

    def double_backward(x: Tensor, pairs: Tensor) -> Call:
        """Differentiate the gradient entry by entry."""
        x = track(x)

        def call() -> Array:
            rows = [
                torch.autograd.grad(g, x, retain_graph=True)[0]
                for g in gradient(x, pairs).flatten()
            ]
            return torch.stack(rows).unflatten(0, x.shape)

        return call

    def batched(x: Tensor, pairs: Tensor) -> Call:
        """Differentiate the gradient with a batch of cotangents."""
        x = track(x)
        basis = torch.eye(x.numel(), device=x.device).unflatten(1, x.shape)

        def call() -> Tensor:
            rows = torch.autograd.grad(
                gradient(x, pairs), x, basis, is_grads_batched=True
            )
            return rows[0].unflatten(0, x.shape)

        return call

    return Workload(
        f"lennard-jones-hessian-{side**3}",
        f"Hessian of {side**3} atoms",
        lambda: cluster(side),
        {
            **transformed(build),
            "double backward": Contender(double_backward),
            "autograd batched": Contender(batched),
        },
        reference=double_backward,
        tolerance=1e-3,
    )


def workloads(size: str) -> list[Workload]:
    """Return the forces and the Hessian."""
    many, few = {"tiny": (2, 2), "cpu": (7, 3), "gpu": (12, 5)}[size]
    return [forces(many), hessian(few)]


def test_lennard_jones(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
