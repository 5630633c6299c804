"""Learn a Lennard-Jones potential from energies and forces.

The force is minus the derivative of the learned energy, taken for every sample by
``vmap(jacrev(model))``; the loss on it is differentiated once more, by torch.autograd,
into the weights.

    python -m examples.lennard_jones [--tiny] [--epochs N]
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from examples.common import agree, options
from jaxtorch import jacrev, vmap

Forces = Callable[["Energy", Tensor], Tensor]


def lennard_jones(distance: Tensor) -> Tensor:
    """``4 (r^-12 - r^-6)``, in units of its own depth and width."""
    return 4 * (distance**-12 - distance**-6)


def sample(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw positions ``[N, 3]``, their energies ``[N]`` and forces ``[N, 3]``."""
    direction = nn.functional.normalize(torch.randn(count, 3), dim=-1)
    distance = torch.empty(count, 1).uniform_(1.0, 2.5)
    slope = 4 * (6 * distance**-7 - 12 * distance**-13)
    return distance * direction, lennard_jones(distance[:, 0]), -slope * direction


class Energy(nn.Module):
    """A network that turns one position ``[3]`` into its energy ``[]``."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 1),
        )

    def forward(self, position: Tensor) -> Tensor:
        """Return the energy; it depends on the distance only."""
        distance = torch.linalg.vector_norm(position, dim=-1, keepdim=True)
        energy: Tensor = self.layers(distance)
        return energy.squeeze(-1)


def forces_by_vmap(model: Energy, positions: Tensor) -> Tensor:
    """Minus the derivative of each energy."""
    slopes: Tensor = vmap(jacrev(model))(positions)
    return -slopes


def forces_by_autograd(model: Energy, positions: Tensor) -> Tensor:
    """The same with the sum of all energies, kept differentiable."""
    leaf = positions.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
    return -slope


def loss_of(
    model: Energy, data: tuple[Tensor, Tensor, Tensor], forces: Forces
) -> tuple[Tensor, Tensor]:
    """Return the loss and its part from the forces."""
    positions, energies, true_forces = data
    of_forces = nn.functional.mse_loss(forces(model, positions), true_forces)
    return nn.functional.mse_loss(
        vmap(model)(positions), energies
    ) + of_forces, of_forces


def main(argv: Sequence[str] | None = None) -> None:
    """Check forces and weight gradients, then train."""
    args = options(__doc__, argv, epochs=(400, 3), samples=(1000, 8), hidden=(32, 4))
    torch.manual_seed(0)
    model = Energy(args.hidden)
    weights = list(model.parameters())
    data = sample(args.samples)
    agree(
        "forces",
        forces_by_vmap(model, data[0]),
        forces_by_autograd(model, data[0]),
    )
    agree(
        "gradients of the loss on energies and forces",
        torch.autograd.grad(loss_of(model, data, forces_by_vmap)[0], weights),
        torch.autograd.grad(loss_of(model, data, forces_by_autograd)[0], weights),
    )
    first = loss_of(model, data, forces_by_vmap)[1].item()
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    last = first
    for _ in range(args.epochs):
        optimizer.zero_grad()
        loss, of_forces = loss_of(model, data, forces_by_vmap)
        loss.backward()
        optimizer.step()
        last = of_forces.item()
    print(f"  mean squared error of the forces: {first:.4f} at first, {last:.4f} now")


if __name__ == "__main__":
    main()
