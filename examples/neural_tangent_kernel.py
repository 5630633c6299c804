"""The empirical neural tangent kernel of a CNN, in two ways.

The kernel of two inputs is ``J(x1) J(x2)^T``, J being the Jacobian of the outputs in
the parameters. By contraction of the two Jacobians, and by NTK-vector products (a vjp
followed by a jvp) mapped over an identity, which never stores a Jacobian.

    python -m examples.neural_tangent_kernel [--tiny] [--first N] [--second N]
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.common import agree, options
from jaxtorch import jacrev, jvp, make_functional, vjp, vmap
from jaxtorch.nn import FunctionalModule

Params = tuple[Tensor, ...]

# What to keep of the [N1, N2, O, O] kernel.
CONTRACTIONS = {
    "full": "nop,mqp->nmoq",
    "trace": "nop,mop->nm",
    "diagonal": "nop,mop->nmo",
}


class Cnn(nn.Module):
    """Three convolutions and a linear layer: ``[N, 3, size, size]`` to ``[N, O]``."""

    def __init__(self, size: int, width: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, width, 3) for channels in (3, width, width)
        )
        self.fc = nn.Linear(width * (size - 6) ** 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        for conv in self.convs:
            x = conv(x).relu()
        out: Tensor = self.fc(x.flatten(1))
        return out


def ntk_by_jacobians(
    func: FunctionalModule, params: Params, x1: Tensor, x2: Tensor, keep: str
) -> Tensor:
    """Contract the Jacobians, parameter by parameter."""

    def one(params: Params, x: Tensor) -> Tensor:
        out: Tensor = func(params, x.unsqueeze(0)).squeeze(0)
        return out

    jacobian = vmap(jacrev(one), in_dims=(None, 0))
    pairs = zip(jacobian(params, x1), jacobian(params, x2), strict=True)
    terms = [
        torch.einsum(CONTRACTIONS[keep], first.flatten(2), second.flatten(2))
        for first, second in pairs
    ]
    return torch.stack(terms).sum(0)


def ntk_by_products(
    func: FunctionalModule, params: Params, x1: Tensor, x2: Tensor
) -> Tensor:
    """Push each row of an identity back through ``x2`` and forward through ``x1``."""

    def of_pair(x1: Tensor, x2: Tensor) -> Tensor:
        def at(x: Tensor, params: Params) -> Tensor:
            out: Tensor = func(params, x.unsqueeze(0)).squeeze(0)
            return out

        out, pull = vjp(lambda p: at(x2, p), params)

        def product(row: Tensor) -> Tensor:
            pushed: Tensor = jvp(lambda p: at(x1, p), (params,), pull(row))[1]
            return pushed

        rows: Tensor = vmap(product)(torch.eye(len(out), dtype=out.dtype))
        return rows

    mapped = vmap(vmap(of_pair, in_dims=(None, 0)), in_dims=(0, None))
    kernel: Tensor = mapped(x1, x2).mT
    return kernel


def ntk_by_loop(model: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """One backward pass per output and input."""

    def rows(x: Tensor) -> Tensor:
        grads = [
            torch.autograd.grad(out, list(model.parameters()), retain_graph=True)
            for out in model(x.unsqueeze(0)).squeeze(0)
        ]
        return torch.stack([torch.cat([g.flatten() for g in own]) for own in grads])

    first, second = [rows(x) for x in x1], [rows(x) for x in x2]
    return torch.stack([torch.stack([a @ b.mT for b in second]) for a in first])


def main(argv: Sequence[str] | None = None) -> None:
    """Compare both ways with a loop."""
    args = options(
        __doc__,
        argv,
        first=(20, 2),
        second=(5, 2),
        size=(16, 7),
        width=(32, 4),
        outputs=(10, 2),
    )
    torch.manual_seed(0)
    model = Cnn(args.size, args.width, args.outputs)
    func, params = make_functional(model, disable_autograd_tracking=True)
    x1 = torch.randn(args.first, 3, args.size, args.size)
    x2 = torch.randn(args.second, 3, args.size, args.size)
    expected = ntk_by_loop(model, x1, x2)
    full = ntk_by_jacobians(func, params, x1, x2, "full")
    agree("kernel by Jacobians", full, expected, atol=1e-4)
    trace = ntk_by_jacobians(func, params, x1, x2, "trace")
    agree("its trace", trace, full.diagonal(0, 2, 3).sum(-1), atol=1e-4)
    diagonal = ntk_by_jacobians(func, params, x1, x2, "diagonal")
    agree("its diagonal", diagonal, full.diagonal(0, 2, 3), atol=1e-4)
    products = ntk_by_products(func, params, x1, x2)
    agree("kernel by NTK-vector products", products, expected, atol=1e-4)
    print(f"  shape {list(full.shape)}, mean trace {trace.mean():.4f}")


if __name__ == "__main__":
    main()
