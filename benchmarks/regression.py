"""The curvature jobs' common part: the loss of a network over a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.harness import (
    Array,
    Library,
    Params,
    apply,
    data,
    labels,
    load,
    optional,
    parameters,
)


@dataclass(frozen=True)
class Fit:
    """A classifier MLP, its batch, and directions in the space of its parameters.

    Attributes:
        widths: of the layers.
        batch: how many examples.
        directions: how many directions; 0 for a single one without a dim of its own.
    """

    widths: tuple[int, ...]
    batch: int
    directions: int

    @property
    def module(self) -> nn.Module:
        """The network."""
        return models.mlp(self.widths)

    @property
    def title(self) -> str:
        """What the report calls it."""
        return f"MLP {'-'.join(map(str, self.widths))}, batch {self.batch}"

    def inputs(self) -> tuple[Any, ...]:
        """Return parameters, examples, labels and directions."""
        params = parameters(self.module)
        many = (self.directions,) if self.directions else ()
        directions = {
            name: data(*many, *value.shape, seed=20 + seed)
            for seed, (name, value) in enumerate(params.items())
        }
        x = data(self.batch, self.widths[0], seed=9)
        return params, x, labels(self.batch, self.widths[-1]), directions

    def model(self, lib: Library) -> Callable[[Params, Array], Array]:
        """Return the network as a function of its parameters."""
        return apply(lib, self.module, models.mlp_formula)

    def loss(self, lib: Library) -> Callable[[Params, Array, Array], Array]:
        """Return the mean loss over the batch."""
        model = self.model(lib)
        return lambda params, x, y: models.cross_entropy(lib, model(params, x), y)

    def tracked(self, params: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
        """Return the network with these parameters, and them."""
        net = load(self.module, params)
        return net, dict(net.named_parameters())


def curvature(kind: str, own: Fit, *inputs: Any) -> Callable[[], dict[str, Tensor]]:
    """Multiply with an operator of curvlinops: the Hessian or the GGN."""
    params, x, y, directions = inputs
    net, leaves = own.tracked(params)
    operator = getattr(optional("curvlinops"), kind)(
        net,
        nn.CrossEntropyLoss(),
        list(leaves.values()),
        [(x, y)],
        check_deterministic=False,
    )
    vectors = list(directions.values())
    if own.directions:
        vectors = [v.movedim(0, -1).contiguous() for v in vectors]

    def call() -> dict[str, Tensor]:
        out = operator @ vectors
        if own.directions:
            out = [v.movedim(-1, 0) for v in out]
        return dict(zip(leaves, out, strict=True))

    return call


def grads(net: nn.Module, x: Tensor, y: Tensor, leaves: Any) -> tuple[Tensor, ...]:
    """Return the gradient of the mean loss, to be differentiated again."""
    loss = torch.nn.functional.cross_entropy(net(x), y)
    return torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
