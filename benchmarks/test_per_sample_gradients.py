"""What does the gradient of every example in a batch cost?"""

import functools
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.classifiers import (
    Classifier,
    backpack_sum,
    classifiers,
    gradients_in_a_loop,
    opacus_module,
    swept_mlps,
)
from benchmarks.harness import Contender, Workload, optional, transformed
from benchmarks.timing import Call


def opacus(own: Classifier, params: Any, x: Tensor, y: Tensor) -> Call:
    """Opacus: hooks on every layer leave the gradients at the parameters."""
    net = opacus_module(own, params, ghost=False)

    def call() -> dict[str, Tensor]:
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), y, reduction="sum").backward()
        return {k: p.grad_sample for k, p in net._module.named_parameters()}

    return call


def backpack(own: Classifier, params: Any, x: Tensor, y: Tensor) -> Call:
    """BackPACK: the same, by its extension BatchGrad."""
    net, loss = backpack_sum(own, params)
    extensions = optional("backpack.extensions")
    use = optional("backpack").backpack

    def call() -> dict[str, Tensor]:
        net.zero_grad(set_to_none=True)
        with use(extensions.BatchGrad()):
            loss(net(x), y).backward()
        return {k: p.grad_batch for k, p in net.named_parameters()}

    return call


def workload(own: Classifier, sweep: tuple[str, int] | None = None) -> Workload:
    """Return the per-sample gradients of a network."""
    loop = functools.partial(gradients_in_a_loop, own)
    contenders = {
        **transformed(own.per_sample, inductor=sweep is None),
        "autograd loop": Contender(loop),
        "Opacus": Contender(functools.partial(opacus, own), "opacus"),
    }
    if own.name.startswith("mlp"):  # BackPACK has no GroupNorm, LayerNorm or attention
        way = functools.partial(backpack, own)
        contenders["BackPACK"] = Contender(way, "backpack")
    return Workload(
        f"per-sample-gradients-{own.name}",
        own.title,
        own.inputs,
        contenders,
        reference=loop,
        sweep=sweep,
        counted=sweep is None,
    )


def workloads(size: str) -> list[Workload]:
    """Return an MLP, a CNN and a transformer block; MLPs of growing batch and width."""
    return [
        *map(workload, classifiers(size).values()),
        *(workload(own, sweep) for sweep, own in swept_mlps(size)),
    ]


def test_per_sample_gradients(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
