"""Meta-learning of sinusoids (MAML): learn weights that one gradient step adapts.

A task is a sinusoid of its own amplitude and phase, with a few points to adapt to and
a few to be judged by. ``grad`` makes the inner step, ``vmap`` runs all tasks at once,
and torch.autograd differentiates through both into the captured weights.

    python -m examples.maml_regression [--tiny] [--steps N]
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from examples.common import agree, options
from jaxtorch import functional_call, grad, vmap

Params = dict[str, Tensor]


class Tasks(NamedTuple):
    """Points to adapt to and points to be judged by, each ``[tasks, points, 1]``."""

    x_support: Tensor
    y_support: Tensor
    x_query: Tensor
    y_query: Tensor


def sample_tasks(tasks: int, points: int) -> Tasks:
    """Draw sinusoids and points on them."""
    amplitude = torch.empty(tasks, 1, 1).uniform_(0.1, 5.0)
    phase = torch.empty(tasks, 1, 1).uniform_(0.0, torch.pi)
    x_support, x_query = torch.empty(2, tasks, points, 1).uniform_(-5.0, 5.0)
    y_support, y_query = (
        amplitude * torch.sin(x + phase) for x in (x_support, x_query)
    )
    return Tasks(x_support, y_support, x_query, y_query)


class Maml:
    """The model, its inner step and the two ways to compute the loss after it."""

    def __init__(self, hidden: int, inner_rate: float = 0.01) -> None:
        self.model = nn.Sequential(
            nn.Linear(1, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        self.params: Params = dict(self.model.named_parameters())
        self.inner_rate = inner_rate

    def loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of the model with these weights."""
        prediction: Tensor = functional_call(self.model, params, x)
        return (prediction - y).square().mean()

    def adapt(self, grads: Params) -> Params:
        """One gradient step away from the shared weights."""
        return {n: p - self.inner_rate * grads[n] for n, p in self.params.items()}

    def task_loss(self, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
        """Adapt to one task, then judge."""
        return self.loss(self.adapt(grad(self.loss)(self.params, x1, y1)), x2, y2)

    def batch_loss(self, tasks: Tasks) -> Tensor:
        """The mean over tasks, all at once."""
        losses: Tensor = vmap(self.task_loss)(*tasks)
        return losses.mean()

    def batch_loss_by_loop(self, tasks: Tasks) -> Tensor:
        """The same with torch.autograd, task by task."""
        losses = []
        for x1, y1, x2, y2 in zip(*tasks, strict=True):
            inner = self.loss(self.params, x1, y1)
            grads = torch.autograd.grad(
                inner, list(self.params.values()), create_graph=True
            )
            adapted = self.adapt(dict(zip(self.params, grads, strict=True)))
            losses.append(self.loss(adapted, x2, y2))
        return torch.stack(losses).mean()


def main(argv: Sequence[str] | None = None) -> None:
    """Check the meta-gradient, then train."""
    args = options(
        __doc__, argv, steps=(1000, 3), tasks=(16, 2), points=(10, 4), hidden=(40, 4)
    )
    torch.manual_seed(0)
    maml = Maml(args.hidden)
    weights = list(maml.params.values())
    tasks = sample_tasks(args.tasks, args.points)
    agree(
        "meta-gradient by vmap(grad) and by a loop",
        torch.autograd.grad(maml.batch_loss(tasks), weights),
        torch.autograd.grad(maml.batch_loss_by_loop(tasks), weights),
    )
    held_out = sample_tasks(100, args.points)
    before = maml.batch_loss(held_out).item()
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    for _ in range(args.steps):
        optimizer.zero_grad()
        maml.batch_loss(sample_tasks(args.tasks, args.points)).backward()
        optimizer.step()
    after = maml.batch_loss(held_out).item()
    print(f"  loss after one step on new tasks: {before:.3f} at first, {after:.3f} now")


if __name__ == "__main__":
    main()
