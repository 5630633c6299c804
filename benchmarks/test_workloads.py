"""Workloads that users write: the tour of transforms, per-sample gradients of a CNN.

``python -m benchmarks.test_workloads`` prints jaxtorch beside torch.func;
``pytest benchmarks/test_workloads.py`` keeps a record. Results are compared first.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.func
import torch.nn.functional as F
from torch import Tensor

import jaxtorch
from benchmarks.timing import (
    Call,
    Timing,
    format_table,
    machine,
    time_in_turns,
    write_csv,
)

LIBRARIES: dict[str, Any] = {"jaxtorch": jaxtorch, "torch.func": torch.func}
Params = dict[str, Tensor]


def gradient(lib: Any) -> Call:
    """grad of sin at a number."""
    x = torch.tensor(0.3)
    return lambda: lib.grad(torch.sin)(x)


def second_gradient(lib: Any) -> Call:
    """grad of grad of sin at a number."""
    x = torch.tensor(0.3)
    return lambda: lib.grad(lib.grad(torch.sin))(x)


def batched_dot(lib: Any) -> Call:
    """vmap of dot over 128 pairs of vectors."""
    x, y = torch.randn(2, 128, 5)
    return lambda: lib.vmap(torch.dot)(x, y)


def linear_per_sample(lib: Any) -> Call:
    """Per-sample gradients of a linear model, 64 samples of 5 features."""
    weights, examples, targets = torch.randn(5), torch.randn(64, 5), torch.randn(64)

    def loss(weights: Tensor, example: Tensor, target: Tensor) -> Tensor:
        return ((example.dot(weights).relu() - target) ** 2).mean()

    mapped = lib.vmap(lib.grad(loss), in_dims=(None, 0, 0))
    return lambda: mapped(weights, examples, targets)


def pull_back(lib: Any) -> Call:
    """vjp of sin and one pull-back, 128 x 128."""
    x, cotangent = torch.randn(2, 128, 128)

    def call() -> Any:
        out, vjp_fn = lib.vjp(torch.sin, x)
        return out, *vjp_fn(cotangent)

    return call


def push_forward(lib: Any) -> Call:
    """jvp of a product and a sine, 128 x 128."""
    x, y, v, w = torch.randn(4, 128, 128)
    return lambda: lib.jvp(lambda x, y: x * torch.sin(y), (x, y), (v, w))


def jacobian_reverse(lib: Any) -> Call:
    """jacrev of sin on 32 numbers."""
    x = torch.randn(32)
    return lambda: lib.jacrev(torch.sin)(x)


def jacobian_forward(lib: Any) -> Call:
    """jacfwd of sin on 32 numbers."""
    x = torch.randn(32)
    return lambda: lib.jacfwd(torch.sin)(x)


def batched_jacobian(lib: Any) -> Call:
    """vmap of jacrev of sin, 64 x 5."""
    x = torch.randn(64, 5)
    return lambda: lib.vmap(lib.jacrev(torch.sin))(x)


def hessian_tanh(lib: Any) -> Call:
    """hessian of a tanh layer, 16 -> 4."""
    weight, bias, x = torch.randn(4, 16), torch.randn(4), torch.randn(16)
    return lambda: lib.hessian(lambda x: F.linear(x, weight, bias).tanh())(x)


def batched_hessian(lib: Any) -> Call:
    """vmap of hessian of a tanh layer, 64 x (16 -> 4)."""
    weight, bias, x = torch.randn(4, 16), torch.randn(4), torch.randn(64, 16)
    mapped = lib.vmap(lib.hessian(lambda x: F.linear(x, weight, bias).tanh()))
    return lambda: mapped(x)


def cnn_params(scale: float = 1.0) -> Params:
    """Return the parameters of a CNN with two convolutions and two linear layers."""
    shapes = {
        "conv1": (32, 1, 3, 3),
        "conv2": (64, 32, 3, 3),
        "fc1": (128, 9216),
        "fc2": (10, 128),
    }
    params: Params = {}
    for name, shape in shapes.items():
        fan_in = torch.Size(shape[1:]).numel()
        params[f"{name}.weight"] = torch.randn(shape) * (scale / fan_in**0.5)
        params[f"{name}.bias"] = torch.zeros(shape[0])
    return params


def cnn_loss(params: Params, image: Tensor, label: Tensor) -> Tensor:
    """Return the cross entropy of one image of shape [1, 28, 28]."""
    x = image.unsqueeze(0)
    x = F.conv2d(x, params["conv1.weight"], params["conv1.bias"]).relu()
    x = F.conv2d(x, params["conv2.weight"], params["conv2.bias"]).relu()
    x = F.max_pool2d(x, 2).flatten(1)
    x = F.linear(x, params["fc1.weight"], params["fc1.bias"]).relu()
    x = F.linear(x, params["fc2.weight"], params["fc2.bias"])
    return F.cross_entropy(x, label.unsqueeze(0))


def cnn_per_sample(lib: Any) -> Call:
    """Per-sample gradients of a CNN of 1.2 million parameters, 64 images."""
    params = cnn_params()
    images = torch.randn(64, 1, 28, 28)
    labels = torch.randint(10, (64,))
    mapped = lib.vmap(lib.grad(cnn_loss), in_dims=(None, 0, 0))
    return lambda: mapped(params, images, labels)


WORKLOADS: dict[str, Callable[[Any], Call]] = {
    "grad": gradient,
    "grad(grad)": second_gradient,
    "vmap(dot)": batched_dot,
    "vmap(grad), linear model": linear_per_sample,
    "vjp": pull_back,
    "jvp": push_forward,
    "jacrev": jacobian_reverse,
    "jacfwd": jacobian_forward,
    "vmap(jacrev)": batched_jacobian,
    "hessian": hessian_tanh,
    "vmap(hessian)": batched_hessian,
    "vmap(grad), CNN, batch 64": cnn_per_sample,
}


def contenders(workload: str) -> dict[str, Call]:
    """Make the calls of all libraries on the same data, and check that they agree."""
    calls = {}
    for name, library in LIBRARIES.items():
        torch.manual_seed(0)
        calls[name] = WORKLOADS[workload](library)
    torch.testing.assert_close(
        calls["jaxtorch"](), calls["torch.func"](), rtol=1e-4, atol=1e-4
    )
    return calls


def rounds_for(workload: str, rounds: int) -> int:
    """Return fewer rounds for the workload that takes most of a second."""
    return min(rounds, 5) if "CNN" in workload else rounds


@pytest.mark.parametrize("workload", WORKLOADS)
def test_workload(workload: str, benchmark: Any) -> None:
    """Record jaxtorch's time, and beside it the ratio to torch.func."""
    calls = contenders(workload)
    timings = time_in_turns(calls, rounds=rounds_for(workload, 5))
    own, peer = timings["jaxtorch"].best, timings["torch.func"].best
    benchmark.extra_info["ratio to torch.func"] = own / peer
    benchmark(calls["jaxtorch"])


def main() -> None:
    """Print the time of every workload and its ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, help="write all quantiles to this file")
    options = parser.parse_args()
    timings: dict[str, dict[str, Timing]] = {}
    rows = []
    for workload in WORKLOADS:
        calls = contenders(workload)
        timing = time_in_turns(calls, rounds=rounds_for(workload, options.rounds))
        timings[workload] = timing
        ours, theirs = (timing[name].best * 1e6 for name in LIBRARIES)
        rows.append([workload, f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"])
    print(machine())
    print("microseconds; ratio is jaxtorch / torch.func, below 1 jaxtorch is faster\n")
    print(format_table(["", "jaxtorch", "torch.func", "ratio"], rows))
    if options.csv:
        write_csv(options.csv, timings)


if __name__ == "__main__":
    main()
