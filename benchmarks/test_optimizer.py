"""How close do plain programs come to what is derived by hand?

Every workload is written naively with the transforms; ``by hand`` is the closed form,
which is the bound.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import functions
from benchmarks.harness import (
    TORCH_FUNC,
    Array,
    Build,
    Contender,
    Library,
    Workload,
    data,
    labels,
    transformed,
)
from benchmarks.test_lennard_jones import cluster
from benchmarks.timing import Call

Weights = tuple[Array, ...]


def matrices(*widths: int) -> Weights:
    """Return random weights, [out, in]."""
    return tuple(
        data(b, a, seed=i, scale=a**-0.5)
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    )


def network(lib: Library, weights: Weights, x: Array) -> Array:
    """Return linear layers with tanh between them."""
    *first, last = weights
    for w in first:
        x = lib.np.tanh(w @ x)
    return last @ x


def layers(weights: Weights, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return what goes into each layer, for x [..., n], and the slopes between them."""
    values = [x]
    for w in weights[:-1]:
        values.append(torch.tanh(values[-1] @ w.T))
    return values, [1 - t * t for t in values[1:]]


def job_of(
    name: str, title: str, inputs: Any, build: Build, by_hand: Callable[..., Any]
) -> Workload:
    """Return a workload; the reference is the plain program, by torch.func."""

    def reference(*args: Any) -> Call:
        return functools.partial(build(TORCH_FUNC), *args)

    def hand(*args: Any) -> Call:
        return functools.partial(by_hand, *args)

    ways = {**transformed(build), "by hand": Contender(hand)}
    return Workload(f"optimizer-{name}", title, inputs, ways, reference, 1e-3)


def diagonal(n: int) -> Workload:
    """Return the diagonal of a Jacobian that is diagonal."""

    def build(lib: Library) -> Any:
        jacobian = lib.transforms.jacrev(functions.elementwise(lib))
        return lambda x: lib.np.diagonal(jacobian(x))

    def by_hand(x: Tensor) -> Tensor:
        return torch.sin(x) + x * torch.cos(x)

    title = f"diagonal of the Jacobian of an elementwise chain, n = {n}"
    return job_of("diagonal", title, lambda: (data(n),), build, by_hand)


def chain(wide: int, narrow: int) -> Workload:
    """Return the Jacobian of a network that is narrow inside."""
    widths = (wide, wide, narrow, wide, wide)

    def build(lib: Library) -> Any:
        return lib.transforms.jacrev(functools.partial(network, lib), 1)

    def by_hand(weights: Weights, x: Tensor) -> Tensor:
        _, slopes = layers(weights, x)
        scaled = [w * d for w, d in zip(weights[1:], slopes, strict=True)]
        return (scaled[2] @ scaled[1]) @ (scaled[0] @ weights[0])

    title = f"Jacobian of an MLP {'-'.join(map(str, widths))}"
    inputs = lambda: (matrices(*widths), data(wide, seed=9))  # noqa: E731
    return job_of("chain", title, inputs, build, by_hand)


def factorization(n: int, m: int, rank: int) -> Workload:
    """Return the Hessian of a matrix factorization with respect to one factor."""

    def build(lib: Library) -> Any:
        return lib.transforms.hessian(lambda u, v, a: ((u @ v.T - a) ** 2).sum())

    def by_hand(u: Tensor, v: Tensor, a: Tensor) -> Tensor:
        out = u.new_zeros(len(u), rank, len(u), rank)
        out.diagonal(0, 0, 2).copy_((2 * v.T @ v)[..., None].expand(-1, -1, len(u)))
        return out

    title = f"Hessian of a matrix factorization, {n} x {m} of rank {rank}"
    inputs = lambda: (data(n, rank), data(m, rank, seed=1), data(n, m, seed=2))  # noqa: E731
    return job_of("factorization", title, inputs, build, by_hand)


def laplacian(n: int, width: int, count: int) -> Workload:
    """Return traces of Hessians."""
    widths = (n, width, width, width, 1)

    def build(lib: Library) -> Any:
        def one(weights: Weights, x: Array) -> Array:
            value = lambda x: network(lib, weights, x)[0]  # noqa: E731
            return lib.np.trace(lib.transforms.hessian(value)(x))

        return lib.transforms.vmap(one, (None, 0))

    def by_hand(weights: Weights, x: Tensor) -> Tensor:
        values, slopes = layers(weights, x)
        first, second = weights[0], torch.zeros_like(values[1])
        for w, t, d in zip(weights[1:], values[1:], slopes, strict=True):
            second = d * second - 2 * t * d * first.square().sum(-1)
            first = w @ (d[..., None] * first) if w is not weights[-1] else first
            second = second @ w.T
        return second[:, 0]

    title = f"Laplacian of an MLP {'-'.join(map(str, widths))}, batch {count}"
    inputs = lambda: (matrices(*widths), data(count, n, seed=9))  # noqa: E731
    return job_of("laplacian", title, inputs, build, by_hand)


def back(weights: Weights, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return what goes into each layer and the gradients of what comes out of it."""
    values, slopes = layers(weights, x)
    logits = values[-1] @ weights[-1].T
    grads = [logits.softmax(-1) - torch.nn.functional.one_hot(y, logits.shape[-1])]
    for w, d in zip(weights[:0:-1], slopes[::-1], strict=True):
        grads.append((grads[-1] @ w) * d)
    return values, grads[::-1]


def squares(values: list[Tensor], grads: list[Tensor]) -> Tensor:
    """Return the squared norms of the gradients of each example."""
    pairs = zip(values, grads, strict=True)
    return torch.stack([v.square().sum(1) * g.square().sum(1) for v, g in pairs]).sum(0)


def per_sample(lib: Library) -> Any:
    """Return the gradients of each example's cross entropy."""

    def loss(weights: Weights, x: Array, y: Array) -> Array:
        logits = network(lib, weights, x)
        top = logits.max()
        return lib.np.log(lib.np.exp(logits - top).sum()) + top - logits[y[None]][0]

    return lib.transforms.vmap(lib.transforms.grad(loss), (None, 0, 0))


def examples(count: int, *widths: int) -> Any:
    """Return weights, inputs and classes."""
    return lambda: (
        matrices(*widths),
        data(count, widths[0], seed=9),
        labels(count, widths[-1]),
    )


def norms(count: int, *widths: int) -> Workload:
    """Return the squared norms of per-sample gradients."""

    def build(lib: Library) -> Any:
        def run(weights: Weights, x: Array, y: Array) -> Array:
            grads = per_sample(lib)(weights, x, y)
            return sum((g**2).sum((1, 2)) for g in grads)

        return run

    def by_hand(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return squares(*back(weights, x, y))

    title = f"per-sample gradient norms of an MLP {'-'.join(map(str, widths))}"
    return job_of("norms", title, examples(count, *widths), build, by_hand)


def clipped(count: int, *widths: int) -> Workload:
    """Return the sum of clipped per-sample gradients."""

    def build(lib: Library) -> Any:
        def run(weights: Weights, x: Array, y: Array) -> Any:
            grads = per_sample(lib)(weights, x, y)
            total = sum((g**2).sum((1, 2)) for g in grads)
            scale = 1.0 / (1.0 + lib.np.sqrt(total))
            return tuple(lib.np.einsum("b,bij->ij", scale, g) for g in grads)

        return run

    def by_hand(weights: Weights, x: Tensor, y: Tensor) -> Any:
        values, grads = back(weights, x, y)
        scale = (1.0 / (1.0 + squares(values, grads).sqrt()))[:, None]
        pairs = zip(values, grads, strict=True)
        return tuple((scale * g).T @ v for v, g in pairs)

    title = f"clipped gradient sum of an MLP {'-'.join(map(str, widths))}"
    return job_of("clipped", title, examples(count, *widths), build, by_hand)


def atoms(side: int) -> Workload:
    """Return the Hessian of a pairwise potential."""

    def build(lib: Library) -> Any:
        return lib.transforms.hessian(functions.lennard_jones(lib))

    def by_hand(x: Tensor, pairs: Tensor) -> Tensor:
        gaps = x[:, None] - x[None]
        self_pairs = torch.eye(len(x), dtype=x.dtype, device=x.device)
        q = (gaps * gaps).sum(-1) + self_pairs
        first = 4 * (3 * q**-4 - 6 * q**-7) * (1 - self_pairs)
        second = 16 * (42 * q**-8 - 12 * q**-5) * (1 - self_pairs)
        blocks = second[..., None, None] * gaps[..., None] * gaps[..., None, :]
        blocks.diagonal(0, 2, 3).add_(2 * first[..., None])
        out = -blocks
        out.diagonal(0, 0, 1).add_(blocks.sum(1).permute(1, 2, 0))
        return out.permute(0, 2, 1, 3)

    title = f"Hessian of {side**3} atoms"
    return job_of("atoms", title, lambda: cluster(side), build, by_hand)


def workloads(size: str) -> list[Workload]:
    """Return what the products of ``jit`` are for."""
    if size == "tiny":
        return [
            diagonal(6),
            chain(6, 2),
            factorization(4, 3, 2),
            laplacian(4, 6, 3),
            norms(5, 6, 4, 3),
            clipped(5, 6, 4, 3),
            atoms(2),
        ]
    batch = {"cpu": 256, "gpu": 2048}[size]
    return [
        diagonal(4096),
        chain(512, 64),
        factorization(60, 50, 8),
        laplacian(64, 256, batch // 4),
        norms(batch, 784, 512, 512, 10),
        clipped(batch, 784, 512, 512, 10),
        atoms(3),
    ]


def test_optimizer(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
