"""What does the norm of every example's gradient cost, without the gradients?"""

import functools
from typing import Any

import torch
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


def norms(own: Classifier) -> Build:
    """Return the job as all transforms write it: the norm inside of vmap."""

    def build(lib: Library) -> Any:
        gradient = lib.transforms.grad(own.loss(lib))

        def norm(params: Params, x: Array, y: Array) -> Array:
            grads = gradient(params, x, y)
            return lib.np.sqrt(sum((g**2).sum() for g in grads.values()))

        return lib.transforms.vmap(norm, (None, 0, 0))

    return build


def norms_in_a_loop(own: Classifier, *inputs: Any) -> Call:
    """Call torch.autograd once per example and keep the norms."""
    gradients = gradients_in_a_loop(own, *inputs)

    def call() -> Tensor:
        squares = [g.flatten(1).square().sum(1) for g in gradients().values()]
        return torch.stack(squares).sum(0).sqrt()

    return call


def opacus_ghost(own: Classifier, params: Any, x: Tensor, y: Tensor) -> Call:
    """Opacus: norms from activations and output gradients, by its ghost clipping."""
    net = opacus_module(own, params, ghost=True)

    def call() -> Tensor:
        net.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), y, reduction="sum").backward()
        return net.get_norm_sample()

    return call


def backpack(own: Classifier, params: Any, x: Tensor, y: Tensor) -> Call:
    """BackPACK: squared norms by its extension BatchL2Grad."""
    net, loss = backpack_sum(own, params)
    extensions = optional("backpack.extensions")
    use = optional("backpack").backpack

    def call() -> Tensor:
        net.zero_grad(set_to_none=True)
        with use(extensions.BatchL2Grad()):
            loss(net(x), y).backward()
        return torch.stack([p.batch_l2 for p in net.parameters()]).sum(0).sqrt()

    return call


def workload(own: Classifier, sweep: tuple[str, int] | None = None) -> Workload:
    """Return the norms of a network's per-sample gradients."""
    loop = functools.partial(norms_in_a_loop, own)
    contenders = {
        **transformed(norms(own), inductor=sweep is None),
        "autograd loop": Contender(loop),
        "Opacus ghost": Contender(functools.partial(opacus_ghost, own), "opacus"),
    }
    if own.name.startswith("mlp"):  # BackPACK has no GroupNorm, LayerNorm or attention
        way = functools.partial(backpack, own)
        contenders["BackPACK"] = Contender(way, "backpack")
    return Workload(
        f"per-sample-norms-{own.name}",
        own.title,
        own.inputs,
        contenders,
        reference=loop,
        sweep=sweep,
        counted=sweep is None,
    )


def workloads(size: str) -> list[Workload]:
    """Return an MLP, a CNN and a transformer block; MLPs of growing batch."""
    swept = [(s, own) for s, own in swept_mlps(size) if s[0] == "batch"]
    return [
        *map(workload, classifiers(size).values()),
        *(workload(own, sweep) for sweep, own in swept),
    ]


def test_per_sample_norms(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
