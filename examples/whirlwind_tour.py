"""A tour of the transforms, each checked against torch.autograd or a closed form.

Gradients of gradients, batching, per-sample gradients, vector-Jacobian and
Jacobian-vector products, whole Jacobians and Hessians, one example or a batch of them.

    python -m examples.whirlwind_tour [--tiny]
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.common import agree, options
from jaxtorch import grad, hessian, hvp, jacfwd, jacrev, jvp, linearize, vjp, vmap


def show_grad(points: Tensor) -> None:
    """``grad``, nested as often as wanted; ``vmap`` makes it pointwise."""
    print("grad")
    x = points[0]
    agree("d sin = cos", grad(torch.sin)(x), x.cos())
    agree("d d sin = -sin", grad(grad(torch.sin))(x), -x.sin())
    agree("over many points", vmap(grad(grad(torch.sin)))(points), -points.sin())


def show_vmap(examples: Tensor, weights: Tensor) -> None:
    """``vmap``: write the function of one example, call it on all."""
    print("vmap")

    def score(weights: Tensor, example: Tensor) -> Tensor:
        return example.dot(weights).relu()

    batched = vmap(score, in_dims=(None, 0))(weights, examples)
    agree("a linear model with relu", batched, (examples @ weights).relu())


def show_per_sample_gradients(
    weights: Tensor, examples: Tensor, targets: Tensor
) -> None:
    """``vmap`` of ``grad``: one gradient per example, not their sum."""
    print("vmap(grad)")

    def loss(weights: Tensor, example: Tensor, target: Tensor) -> Tensor:
        return (example.dot(weights).relu() - target).square()

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))(weights, examples, targets)
    leaf = weights.clone().requires_grad_()
    rows = [
        torch.autograd.grad(loss(leaf, *pair), leaf)[0]
        for pair in zip(examples, targets, strict=True)
    ]
    agree("per-sample gradients", per_sample, torch.stack(rows))


def show_products(x: Tensor, direction: Tensor) -> None:
    """``vjp`` pulls back, ``jvp`` pushes forward, ``linearize`` does it many times."""
    print("vjp, jvp, linearize")
    out, pull = vjp(torch.sin, x)
    agree("the value", out, x.sin())
    agree("pulled back", pull(direction)[0], direction * x.cos())
    _, pushed = jvp(torch.sin, (x,), (direction,))
    agree("pushed forward", pushed, direction * x.cos())
    _, push = linearize(torch.sin, x)
    basis = torch.eye(len(x))
    agree("pushed for a whole basis", vmap(push)(basis), x.cos().diag())


def show_jacobians(batch: Tensor) -> None:
    """``jacrev`` and ``jacfwd`` agree; ``vmap`` gives one matrix per example."""
    print("jacrev, jacfwd")
    x = batch[0]
    agree("reverse mode", jacrev(torch.sin)(x), x.cos().diag())
    agree("forward mode", jacfwd(torch.sin)(x), x.cos().diag())
    per_example = vmap(jacrev(torch.sin))(batch)
    agree("one per example", per_example, batch.cos().diag_embed())


def show_hessians(x: Tensor, direction: Tensor) -> None:
    """``hessian`` is a Jacobian of a Jacobian; ``hvp`` never forms the matrix."""
    print("hessian, hvp")

    def energy(x: Tensor) -> Tensor:
        return x.sin().sum() * x.square().sum()

    expected = torch.autograd.functional.hessian(energy, x)
    agree("forward over reverse", hessian(energy)(x), expected)
    agree("reverse over reverse", jacrev(jacrev(energy))(x), expected)
    agree("times a vector", hvp(energy, (x,), (direction,))[1], expected @ direction)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tour."""
    args = options(__doc__, argv, batch=(64, 4), features=(5, 3))
    torch.manual_seed(0)
    batch = torch.randn(args.batch, args.features)
    weights, direction = torch.randn(2, args.features)
    show_grad(torch.randn(args.batch))
    show_vmap(batch, weights)
    show_per_sample_gradients(weights, batch, torch.randn(args.batch))
    show_products(batch[0], direction)
    show_jacobians(batch)
    show_hessians(batch[0], direction)


if __name__ == "__main__":
    main()
