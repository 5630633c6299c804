"""What does a step of DP-SGD cost: clipped per-sample gradients, summed and scaled?

The noise is left out (multiplier 0): every library draws its own. Nobody updates the
parameters, so that each call does the same.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.classifiers import (
    Classifier,
    classifiers,
    gradients_in_a_loop,
    opacus_module,
)
from benchmarks.harness import (
    Array,
    Build,
    Contender,
    Library,
    Params,
    Workload,
    optional,
    transformed,
)
from benchmarks.timing import Call

BOUND = 1.0  # on the norm of an example's gradient


def clipped_mean(own: Classifier) -> Build:
    """Return the job as all transforms write it."""

    def build(lib: Library) -> Any:
        gradient = lib.transforms.grad(own.loss(lib))

        def clipped(params: Params, x: Array, y: Array) -> Params:
            grads = gradient(params, x, y)
            norm = lib.np.sqrt(sum((g**2).sum() for g in grads.values()))
            factor = lib.np.clip(BOUND / (norm + 1e-6), None, 1.0)
            return {name: g * factor for name, g in grads.items()}

        each = lib.transforms.vmap(clipped, (None, 0, 0))

        def step(params: Params, x: Array, y: Array) -> Params:
            return {name: g.mean(0) for name, g in each(params, x, y).items()}

        return step

    return build


def step_in_a_loop(own: Classifier, *inputs: Any) -> Call:
    """Call torch.autograd once per example, and clip all at once."""
    gradients = gradients_in_a_loop(own, *inputs)

    def call() -> dict[str, Tensor]:
        grads = gradients()
        squares = [g.flatten(1).square().sum(1) for g in grads.values()]
        norms = torch.stack(squares).sum(0).sqrt()
        factors = (BOUND / (norms + 1e-6)).clamp(max=1.0)
        return {
            name: torch.einsum("b,b...->...", factors, g) / len(factors)
            for name, g in grads.items()
        }

    return call


def opacus(own: Classifier, params: Any, x: Tensor, y: Tensor) -> Call:
    """Opacus: hooks, and its optimizer's clipping."""
    net = opacus_module(own, params, ghost=False)
    optimizer = optional("opacus.optimizers").DPOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=BOUND,
        expected_batch_size=len(x),
    )

    def call() -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), y, reduction="sum").backward()
        optimizer.pre_step()
        return {name: p.grad for name, p in net._module.named_parameters()}

    return call


def opacus_ghost(own: Classifier, params: Any, x: Tensor, y: Tensor) -> Call:
    """Opacus: ghost clipping, two backward passes and no gradient of an example."""
    net = opacus_module(own, params, ghost=True)
    optimizer = optional("opacus.optimizers").DPOptimizerFastGradientClipping(
        torch.optim.SGD(net.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=BOUND,
        expected_batch_size=len(x),
    )
    utils = optional("opacus.utils.fast_gradient_clipping_utils")

    def call() -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        losses = F.cross_entropy(net(x), y, reduction="none")
        utils.DPTensorFastGradientClipping(net, optimizer, losses, "sum").backward()
        optimizer.pre_step()
        return {name: p.grad for name, p in net._module.named_parameters()}

    return call


def workload(own: Classifier) -> Workload:
    """Return the step for a network."""
    loop = functools.partial(step_in_a_loop, own)
    ghost = functools.partial(opacus_ghost, own)
    contenders = {
        **transformed(clipped_mean(own)),
        "autograd loop": Contender(loop),
        "Opacus": Contender(functools.partial(opacus, own), "opacus"),
        "Opacus ghost": Contender(ghost, "opacus"),
    }
    return Workload(
        f"dp-sgd-{own.name}", own.title, own.inputs, contenders, reference=loop
    )


def workloads(size: str) -> list[Workload]:
    """Return an MLP, a CNN and a transformer block."""
    return [*map(workload, classifiers(size).values())]


def test_dp_sgd(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
