"""Train several models at once: ``vmap`` over a whole training step.

The step is a plain function (``grad_and_value``, then SGD) of weights and data. Mapped
over stacked weights it trains an ensemble; every model ends where it would have ended
alone.

    python -m examples.parallel_train [--tiny] [--models M] [--steps N]
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.common import agree, options
from jaxtorch import functional_call, grad_and_value, stack_module_state, vmap

Params = dict[str, Tensor]
RATE = 0.2


def spirals(count: int) -> tuple[Tensor, Tensor]:
    """Two spirals of ``count`` points each: points ``[2 count, 2]`` and classes."""
    turn = torch.linspace(0.5, 3.0, count) * torch.pi
    arm = torch.stack([turn * turn.cos(), turn * turn.sin()], dim=-1) / (3 * torch.pi)
    points = torch.cat([arm, -arm]) + 0.02 * torch.randn(2 * count, 2)
    return points, torch.arange(2).repeat_interleave(count)


def make_model(hidden: int) -> nn.Module:
    """A network from points to the scores of the two classes."""
    return nn.Sequential(
        nn.Linear(2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 2),
    )


def train_step(
    skeleton: nn.Module, params: Params, points: Tensor, classes: Tensor
) -> tuple[Tensor, Params]:
    """One step of gradient descent of one model; returns the loss and new weights."""

    def loss_of(params: Params) -> Tensor:
        scores = functional_call(skeleton, params, points)
        return nn.functional.nll_loss(scores.log_softmax(-1), classes)

    grads, loss = grad_and_value(loss_of)(params)
    with torch.no_grad():
        stepped = {name: p - RATE * grads[name] for name, p in params.items()}
    return loss, stepped


def train_alone(
    model: nn.Module, points: Tensor, classes: Tensor, steps: int
) -> Params:
    """Train one model with torch.autograd and torch.optim."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points), classes).backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def main(argv: Sequence[str] | None = None) -> None:
    """Check the first steps against models trained alone, then train on."""
    args = options(
        __doc__, argv, models=(5, 2), steps=(1500, 4), points=(200, 6), hidden=(32, 4)
    )
    torch.manual_seed(0)
    points, classes = spirals(args.points)
    models = [make_model(args.hidden) for _ in range(args.models)]
    stacked, _ = stack_module_state(models)
    params: Params = {name: p.detach() for name, p in stacked.items()}
    step = vmap(
        lambda params, x, y: train_step(models[0], params, x, y),
        in_dims=(0, None, None),
    )
    losses = torch.empty(0)
    first = min(10, args.steps)
    for number in range(args.steps):
        losses, params = step(params, points, classes)
        if number + 1 == first:
            alone = [train_alone(model, points, classes, first) for model in models]
            for name, together in params.items():
                expected = torch.stack([own[name] for own in alone])
                agree(f"{name} after {first} steps", together, expected)
    scores = vmap(lambda p: functional_call(models[0], p, points))(params)
    right = (scores.argmax(-1) == classes).float().mean(-1)
    print(f"  losses now {[round(loss, 3) for loss in losses.tolist()]}")
    print(f"  right {[round(share, 3) for share in right.tolist()]}")


if __name__ == "__main__":
    main()
