"""The per-sample jobs' common part: networks, inputs, and the peers made for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
class Classifier:
    """A network with inputs of a shape, and how many of them.

    Attributes:
        name: the beginning of the workloads' names.
        title: what the report calls it.
        module: the network.
        formula: the same in JAX.
        shape: of one input.
        batch: how many inputs.
    """

    name: str
    title: str
    module: nn.Module
    formula: Callable[..., Any]
    shape: tuple[int, ...]
    batch: int

    def inputs(self) -> tuple[Any, ...]:
        """Return parameters, inputs and labels."""
        x = data(self.batch, *self.shape, seed=9)
        return parameters(self.module), x, labels(self.batch, 10)

    def loss(self, lib: Library) -> Callable[[Params, Array, Array], Array]:
        """Return the loss of one example."""
        model = apply(lib, self.module, self.formula)

        def loss(params: Params, x: Array, y: Array) -> Array:
            return models.cross_entropy(lib, model(params, x[None]), y[None])

        return loss

    def per_sample(self, lib: Library) -> Callable[..., Any]:
        """Return the gradients of each example: the job as all transforms write it."""
        return lib.transforms.vmap(lib.transforms.grad(self.loss(lib)), (None, 0, 0))

    def losses(self, net: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Yield the loss of each example."""
        for index in range(len(x)):
            one = slice(index, index + 1)
            yield F.cross_entropy(net(x[one]), y[one])


def gradients_in_a_loop(
    own: Classifier, params: dict[str, Tensor], x: Tensor, y: Tensor
) -> Callable[[], dict[str, Tensor]]:
    """Call torch.autograd once per example."""
    net = load(own.module, params)
    leaves = dict(net.named_parameters())

    def call() -> dict[str, Tensor]:
        rows = [
            torch.autograd.grad(loss, list(leaves.values()))
            for loss in own.losses(net, x, y)
        ]
        columns = zip(*rows, strict=True)
        return {k: torch.stack(c) for k, c in zip(leaves, columns, strict=True)}

    return call


def opacus_module(own: Classifier, params: Any, ghost: bool) -> Any:
    """Wrap the network with Opacus' hooks."""
    grad_sample = optional("opacus.grad_sample")
    net = load(own.module, params).train()
    if ghost:
        return grad_sample.GradSampleModuleFastGradientClipping(
            net, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
        )
    return grad_sample.GradSampleModule(net, loss_reduction="sum")


def backpack_sum(own: Classifier, params: Any) -> tuple[nn.Module, nn.Module]:
    """Return the network and the summed loss, extended by BackPACK."""
    extend = optional("backpack").extend
    loss = nn.CrossEntropyLoss(reduction="sum")
    return extend(load(own.module, params)), extend(loss)


def classifiers(size: str) -> dict[str, Classifier]:
    """Return the networks at a size."""
    width, side, channels, tokens = {
        "tiny": (16, 8, 8, 8),
        "cpu": (512, 28, 16, 128),
        "gpu": (512, 28, 32, 256),
    }[size]
    batches = {
        "tiny": {"mlp": 4, "cnn": 4, "block": 3},
        "cpu": {"mlp": 256, "cnn": 64, "block": 16},
        "gpu": {"mlp": 4096, "cnn": 64, "block": 64},
    }[size]
    length = 8 if size == "tiny" else 64
    pixels = 64 if size == "tiny" else 784
    widths = (pixels, width, width, 10)
    text = "-".join(map(str, widths))
    return {
        "mlp": Classifier(
            f"mlp-{batches['mlp']}",
            f"MLP {text}, batch {batches['mlp']}",
            models.mlp(widths),
            models.mlp_formula,
            (pixels,),
            batches["mlp"],
        ),
        "cnn": Classifier(
            f"cnn-{batches['cnn']}",
            f"CNN with GroupNorm, {side} x {side}, batch {batches['cnn']}",
            models.cnn(side, channels),
            models.cnn_formula,
            (1, side, side),
            batches["cnn"],
        ),
        "block": Classifier(
            f"block-{batches['block']}",
            f"transformer block, width {tokens}, sequence {length}, "
            f"batch {batches['block']}",
            models.Block(tokens),
            models.block_formula,
            (length, tokens),
            batches["block"],
        ),
    }


def swept_mlps(size: str) -> list[tuple[tuple[str, int], Classifier]]:
    """Return MLPs of growing batch and of growing width."""
    batches, widths = {
        "tiny": ((2, 4), (4, 8)),
        "cpu": ((16, 64, 256), (64, 256, 1024)),
        "gpu": ((64, 512, 4096), (64, 256, 1024)),
    }[size]
    rows = [("batch", batch, 128, batch) for batch in batches]
    rows += [("width", width, width, 32) for width in widths]
    return [
        (
            (what, value),
            Classifier(
                f"{what}-{value}",
                f"MLP 128-{width}-{width}-10, batch {batch}",
                models.mlp((128, width, width, 10)),
                models.mlp_formula,
                (128,),
                batch,
            ),
        )
        for what, value, width, batch in rows
    ]
