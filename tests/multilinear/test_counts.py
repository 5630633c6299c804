"""What is written plainly costs what a derivation by hand costs, counted.

Each case is a plain program and its closed form on the same inputs. Both are run; flops
are counted by ``torch.utils.flop_counter`` around the closed form, and read off the
staged graph; so are the bytes at the peak and the largest tensor.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import jaxtorch as jt


@dataclass
class Case:
    """A plain program, its inputs, and the same by hand.

    Attributes:
        flops: the most flops, as a multiple of those of ``by_hand``.
        largest: the most elements of a tensor in the graph.
        peak: the most bytes that results and intermediates hold at once.
    """

    plain: Callable[..., Any]
    args: tuple[Any, ...]
    by_hand: Callable[..., Any]
    flops: float
    largest: float = math.inf
    peak: float = math.inf


CASES: dict[str, Callable[[], Case]] = {}


def case(build):
    """Register a case under its name."""
    CASES[build.__name__] = build
    return build


def weights(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Return random weights and biases."""
    pairs = itertools.pairwise(sizes)
    return [(torch.randn(o, i) / i**0.5, torch.randn(o)) for i, o in pairs]


def mlp(params, x):
    """Return linear layers with tanh between them."""
    for w, b in params[:-1]:
        x = torch.tanh(F.linear(x, w, b))
    return F.linear(x, *params[-1])


def hidden(params, x):
    """Return the results of all layers but the last, and their slopes."""
    values, slopes = [x], []
    for w, b in params[:-1]:
        values.append(torch.tanh(F.linear(values[-1], w, b)))
        slopes.append(1 - values[-1] ** 2)
    return values, slopes


def wave(x):
    return torch.sin(2 * torch.tanh(x))


def wave_slope(x):
    t = torch.tanh(x)
    return 2 * torch.cos(2 * t) * (1 - t * t)


def elementwise(transform) -> Case:
    """The Jacobian of an elementwise chain."""
    n = 4096
    return Case(
        transform(wave),
        (torch.randn(n),),
        lambda x: torch.diag(wave_slope(x)),
        flops=0,
        largest=n * n,
        peak=4 * (n * n + 8 * n),
    )


def elementwise_diagonal(plain) -> Case:
    """Its diagonal alone."""
    n = 4096
    return Case(
        plain, (torch.randn(n),), wave_slope, flops=0, largest=n, peak=4 * 8 * n
    )


for mode in (jt.jacrev, jt.jacfwd):
    CASES[f"elementwise, {mode.__name__}"] = lambda mode=mode: elementwise(mode)
    CASES[f"elementwise diagonal, {mode.__name__}"] = lambda mode=mode: (
        elementwise_diagonal(lambda x: mode(wave)(x).diagonal())
    )
    for widths in ((512, 64, 512), (64, 512, 64), (512, 512, 64, 512, 512)):
        CASES[f"mlp {'-'.join(map(str, widths))}, {mode.__name__}"] = (
            lambda mode=mode, widths=widths: jacobian(mode, *widths)
        )
    CASES[f"rows, {mode.__name__}"] = lambda mode=mode: rows(mode)


def jacobian(transform, *widths: int) -> Case:
    """The Jacobian of an MLP; by hand in the best order of its matrices."""
    params = weights(*widths)

    def by_hand(x):
        _, slopes = hidden(params, x)
        matrices = [params[0][0]]
        for (w, _), d in zip(params[1:], slopes, strict=True):
            matrices.append(w * d)
        return torch.linalg.multi_dot(matrices[::-1])

    return Case(
        transform(lambda x: mlp(params, x)), (torch.randn(widths[0]),), by_hand, 1.05
    )


def rows(transform) -> Case:
    """The Jacobian of a network that works row by row."""
    params, count = weights(32, 64, 16), 64

    def by_hand(x):
        (first, _), (second, _) = params
        _, (slopes,) = hidden(params, x)
        blocks = torch.stack([(second * d) @ first for d in slopes])
        return torch.diag_embed(blocks.permute(1, 2, 0)).permute(2, 0, 3, 1)

    f = transform(lambda x: mlp(params, x))
    size = (count * 16) * (count * 32)
    return Case(f, (torch.randn(count, 32),), by_hand, 1.05, size, 2 * 4.4 * size)


@case
def logistic_regression() -> Case:
    x, y = torch.randn(2000, 100), (torch.rand(2000) > 0.5).float()

    def by_hand(w):
        s = torch.sigmoid(x @ w)
        return x.T @ (x * (s * (1 - s))[:, None]) / len(x)

    loss = lambda w: F.binary_cross_entropy_with_logits(x @ w, y)  # noqa: E731
    peak = 1.5 * 4 * (2000 * 100 + 100 * 100)
    return Case(jt.hessian(loss), (torch.randn(100),), by_hand, 1.1, peak=peak)


@case
def quadratic_form() -> Case:
    a = torch.randn(500, 500)
    peak = 1.5 * 4 * 500 * 500
    f = jt.hessian(lambda x: x @ a @ x)
    return Case(f, (torch.randn(500),), lambda x: a + a.T, 1.1, 500 * 500, peak)


@case
def matrix_factorization() -> Case:
    n, m, k = 60, 50, 8
    data, eye = torch.randn(n, m), torch.eye

    def by_hand(u, v):
        residual = u @ v.T - data
        uu = 2 * torch.einsum("ij,kl->ikjl", eye(n), v.T @ v)
        vv = 2 * torch.einsum("ij,kl->ikjl", eye(m), u.T @ u)
        uv = torch.einsum("ij,kl->ikjl", residual, eye(k))
        uv = 2 * (uv + u[:, None, None, :] * v[None, :, :, None].permute(0, 2, 1, 3))
        return (uu, uv), (uv.permute(2, 3, 0, 1), vv)

    f = jt.hessian(lambda u, v: ((u @ v.T - data) ** 2).sum(), argnums=(0, 1))
    size = (n * k + m * k) ** 2
    args = torch.randn(n, k), torch.randn(m, k)
    return Case(f, args, by_hand, 1.1, (n * k) ** 2, 1.5 * 4 * size)


@case
def tanh_layer() -> Case:
    """The Hessian of every output: twice its size is held for a moment."""
    w, b = torch.randn(32, 512), torch.randn(32)

    def by_hand(x):
        t = torch.tanh(F.linear(x, w, b))
        return (w * (-2 * t * (1 - t * t))[:, None])[:, :, None] * w[:, None, :]

    f = jt.hessian(lambda x: torch.tanh(F.linear(x, w, b)))
    size = 32 * 512 * 512
    return Case(f, (torch.randn(512),), by_hand, 1.1, size, 1.5 * 4 * size)


def scalar_hessian(n: int) -> Case:
    """The Hessian of a scalar MLP; by hand the cheaper of two ways."""
    params = weights(n, 256, 256, 1)
    (w1, _), (w2, _), (w3, _) = params

    def by_hand(x):
        (_, h1, h2), (d1, d2) = hidden(params, x)
        g2 = w3[0] * (-2 * h2 * d2)
        back = (w3[0] * d2) @ w2
        g1 = back * (-2 * h1 * d1)
        if n < 128:
            first = w2 @ (d1[:, None] * w1)
            return first.T @ (g2[:, None] * first) + w1.T @ (g1[:, None] * w1)
        middle = (w2 * d1).T @ (g2[:, None] * (w2 * d1)) + torch.diag(g1)
        return w1.T @ (middle @ w1)

    f = jt.hessian(lambda x: mlp(params, x).sum())
    return Case(f, (torch.randn(n),), by_hand, 1.1)


for n in (8, 64, 512):
    CASES[f"scalar MLP, n = {n}"] = lambda n=n: scalar_hessian(n)


def forward_laplacian(params, x):
    """Return the Laplacian by one pass: value, first derivatives, Laplacian."""
    first = torch.eye(x.shape[-1])
    value, second = x, torch.zeros_like(x)
    for i, (w, b) in enumerate(params):
        value = F.linear(value, w, b)
        first = w.expand(*x.shape[:-1], *w.shape) if i == 0 else w @ first
        second = torch.zeros_like(value) if i == 0 else second @ w.T
        if i < len(params) - 1:
            t = torch.tanh(value)
            d = 1 - t * t
            second = d * second - 2 * t * d * first.square().sum(-1)
            value, first = t, d[..., None] * first
    return second.sum(-1)


def trace_of_hessian(params):
    return lambda x: jt.hessian(lambda x: mlp(params, x).sum())(x).trace()


@case
def laplacian_of_one() -> Case:
    params = weights(64, 256, 256, 256, 1)
    f = trace_of_hessian(params)
    hand = lambda x: forward_laplacian(params, x)  # noqa: E731
    return Case(f, (torch.randn(64),), hand, 1.15, 256 * 256)


@case
def laplacian_of_many() -> Case:
    params, count = weights(64, 256, 256, 256, 1), 32
    f = jt.vmap(trace_of_hessian(params))
    hand = lambda x: forward_laplacian(params, x)  # noqa: E731
    return Case(f, (torch.randn(count, 64),), hand, 1.15, count * 64 * 256)


def loss(params, x, y):
    return F.cross_entropy(mlp(params, x)[None], y[None])


def per_sample(params, x, y):
    return jt.vmap(jt.grad(loss), in_dims=(None, 0, 0))(params, x, y)


def layers_by_hand(params, x, y):
    """Return inputs and output gradients of all layers, of the sum of the losses."""
    values, slopes = hidden(params, x)
    logits = F.linear(values[-1], *params[-1])
    g = logits.softmax(-1) - F.one_hot(y, logits.shape[-1])
    grads = [g]
    for (w, _), d in zip(params[:0:-1], slopes[::-1], strict=True):
        grads.append((grads[-1] @ w) * d)
    return values, grads[::-1]


def ghost_norms(values, grads):
    pairs = zip(values, grads, strict=True)
    return sum((v.square().sum(1) + 1) * g.square().sum(1) for v, g in pairs)


BATCH, WIDTHS = 256, (784, 512, 512, 10)


def sample_inputs():
    """Return parameters, inputs and classes."""
    x, y = torch.randn(BATCH, WIDTHS[0]), torch.randint(0, WIDTHS[-1], (BATCH,))
    return weights(*WIDTHS), x, y


@case
def norms_of_an_mlp() -> Case:
    def plain(params, x, y):
        grads = per_sample(params, x, y)
        return sum(t.flatten(1).pow(2).sum(1) for layer in grads for t in layer)

    hand = lambda *args: ghost_norms(*layers_by_hand(*args))  # noqa: E731
    return Case(plain, sample_inputs(), hand, 1.1, 512 * 784)


def embedding_norms(middle, slope) -> Case:
    """Norms of the gradients of a table, read and passed through a function."""
    rows, width, length, count = 50000, 64, 32, 16

    def loss(params, t, y):
        table, w = params
        read = middle(F.embedding(t, table)).mean(0)
        return F.cross_entropy((read @ w.T)[None], y[None])

    def plain(params, t, y):
        grads = jt.vmap(jt.grad(loss), in_dims=(None, 0, 0))(params, t, y)
        return sum(g.flatten(1).pow(2).sum(1) for g in grads)

    def by_hand(params, t, y):
        table, w = params
        rows = F.embedding(t, table)
        read = middle(rows).mean(1)
        g = (read @ w.T).softmax(-1) - F.one_hot(y, len(w))
        back = g @ w / length
        agree = (t[:, :, None] == t[:, None, :]).float()
        if slope is None:
            table_norms = back.square().sum(1) * agree.sum((1, 2))
        else:
            each = back[:, None] * slope(rows)
            table_norms = (torch.bmm(each, each.mT) * agree).sum((1, 2))
        return g.square().sum(1) * read.square().sum(1) + table_norms

    params = torch.randn(rows, width), torch.randn(5, width)
    tokens = torch.randint(0, rows, (count, length))
    args = params, tokens, torch.randint(0, 5, (count,))
    return Case(plain, args, by_hand, 1.1, count * length * width)


@case
def norms_of_an_embedding() -> Case:
    return embedding_norms(torch.tanh, lambda x: 1 - torch.tanh(x) ** 2)


@case
def norms_of_a_mean_embedding() -> Case:
    return embedding_norms(torch.clone, None)


def scales(norms):
    return torch.clamp(1 / (norms.sqrt() + 1e-6), max=1.0)


def ordinary_peak() -> float:
    """Return the peak bytes of the gradient of the summed loss."""

    def summed(params, x, y):
        return F.cross_entropy(mlp(params, x), y, reduction="sum")

    return jt.jit(jt.grad(summed)).lower(*sample_inputs()).peak_bytes


def dp_sgd(plain) -> Case:
    """A clipped sum of gradients; by hand norms, then sums of scaled products."""

    def by_hand(params, x, y):
        values, grads = layers_by_hand(params, x, y)
        s = scales(ghost_norms(values, grads))[:, None]
        pairs = zip(values, grads, strict=True)
        return [[(s * g).T @ v, (s * g).sum(0)] for v, g in pairs]

    peak = 1.5 * ordinary_peak()
    return Case(plain, sample_inputs(), by_hand, 1.15, 512 * 784, peak)


@case
def clipped_sum_by_einsum() -> Case:
    def plain(params, x, y):
        grads = per_sample(params, x, y)
        s = scales(sum(t.flatten(1).pow(2).sum(1) for layer in grads for t in layer))
        return [[torch.einsum("b,b...->...", s, t) for t in layer] for layer in grads]

    return dp_sgd(plain)


@case
def clipped_sum_under_vmap() -> Case:
    def clip(grads):
        s = scales(sum(t.square().sum() for layer in grads for t in layer))
        return [[t * s for t in layer] for layer in grads]

    def plain(params, x, y):
        clipped = jt.vmap(clip)(per_sample(params, x, y))
        return [[t.sum(0) for t in layer] for layer in clipped]

    return dp_sgd(plain)


@case
def clipped_sum_by_norms() -> Case:
    def plain(params, x, y):
        grads = per_sample(params, x, y)
        norms = [t.flatten(1).norm(dim=1) ** 2 for layer in grads for t in layer]
        s = scales(sum(norms))
        return [
            [(t * s.view(-1, *[1] * (t.dim() - 1))).sum(0) for t in layer]
            for layer in grads
        ]

    return dp_sgd(plain)


@case
def tangent_kernel() -> Case:
    sizes, n, m = (64, 256, 256, 10), 32, 24
    params = weights(*sizes)

    def plain(a, b):
        jacobians = jt.vmap(jt.jacrev(mlp), in_dims=(None, 0))
        first, second = (tree_leaves(jacobians(params, x)) for x in (a, b))
        pairs = zip(first, second, strict=True)
        dots = [
            torch.einsum("nap,mbp->nmab", p.flatten(2), q.flatten(2)) for p, q in pairs
        ]
        return sum(dots)

    def factors(x):
        values, (d1, d2) = hidden(params, x)
        top = params[2][0] * d2[:, None, :]
        low = (top @ params[1][0]) * d1[:, None, :]
        return values, [low, top, torch.eye(10).expand(len(x), 10, 10)]

    def by_hand(a, b):
        (va, ga), (vb, gb) = factors(a), factors(b)
        total = 0
        for p, q, g, h in zip(va[:2], vb[:2], ga[:2], gb[:2], strict=True):
            gram = (p @ q.T + 1)[:, :, None, None]
            total = total + gram * torch.einsum("nap,mbp->nmab", g, h)
        return total + (va[2] @ vb[2].T + 1)[:, :, None, None] * torch.eye(10)

    full = n * 10 * 256 * 256
    return Case(plain, (torch.randn(n, 64), torch.randn(m, 64)), by_hand, 1.2, full / 4)


def pair_potential(r):
    i, j = torch.triu_indices(len(r), len(r), 1)
    s = 1 / ((r[i] - r[j]) ** 2).sum(-1) ** 3
    return (4 * (s * s - s)).sum()


@case
def lennard_jones() -> Case:
    n = 32

    def by_hand(r):
        d = r[:, None] - r[None]
        q = (d * d).sum(-1) + torch.eye(n)
        off = 1 - torch.eye(n)
        first = 4 * (-6 * q**-7 + 3 * q**-4) * off
        second = 4 * (42 * q**-8 - 12 * q**-5) * off
        blocks = 4 * second[..., None, None] * d[..., None] * d[..., None, :]
        blocks = blocks + 2 * first[..., None, None] * torch.eye(3)
        h = torch.diag_embed(blocks.sum(1).permute(1, 2, 0)).permute(2, 3, 0, 1)
        return (h - blocks.permute(0, 1, 2, 3)).permute(0, 2, 1, 3)

    size = (3 * n) ** 2
    args = (torch.randn(n, 3) * 3,)
    return Case(jt.hessian(pair_potential), args, by_hand, 0, 4 * size, 4 * 8 * size)


@case
def hessian_vector_product() -> Case:
    params = weights(64, 256, 256, 1)
    (w1, _), (w2, _), (w3, _) = params

    def plain(x, v):
        return jt.jvp(jt.grad(lambda x: mlp(params, x).sum()), (x,), (v,))[1]

    def by_hand(x, v):
        (_, h1, h2), (d1, d2) = hidden(params, x)
        t1 = F.linear(v, w1)
        t2 = F.linear(d1 * t1, w2)
        back = (w3[0] * d2) @ w2
        inner = (w3[0] * (-2 * h2 * d2 * t2)) @ w2
        return (inner * d1 + back * (-2 * h1 * d1 * t1)) @ w1

    return Case(plain, (torch.randn(64), torch.randn(64)), by_hand, 1.05)


@case
def gauss_newton_product() -> Case:
    params = weights(64, 256, 256, 10)
    (w1, _), (w2, _), (w3, _) = params
    f = lambda x: mlp(params, x)  # noqa: E731

    def plain(x, v):
        return jt.vjp(f, x)[1](jt.jvp(f, (x,), (v,))[1])[0]

    def by_hand(x, v):
        _, (d1, d2) = hidden(params, x)
        out = (((v @ w1.T) * d1) @ w2.T * d2) @ w3.T
        return (((out @ w3) * d2) @ w2 * d1) @ w1

    return Case(plain, (torch.randn(64), torch.randn(64)), by_hand, 1.05)


def flops_of(func, *args) -> int:
    """Count the flops of a call."""
    with FlopCounterMode(display=False) as counter:
        func(*args)
    return counter.get_total_flops()


def check_results(found, wanted) -> None:
    """Raise unless results agree up to the rounding of float32."""
    pairs = zip(tree_leaves(found), tree_leaves(wanted), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def check_case(own: Case) -> None:
    """Raise unless a plain program costs what its closed form does."""
    staged = jt.jit(own.plain, backend="python")
    lowered = staged.lower(*own.args)
    check_results(staged(*own.args), own.by_hand(*own.args))
    assert lowered.flops <= own.flops * flops_of(own.by_hand, *own.args)
    assert lowered.peak_bytes <= own.peak
    made = [node.meta["val"] for node in lowered.graph.nodes if node.op != "output"]
    inputs = max(leaf.numel() for leaf in tree_leaves(own.args))
    largest = max(value.numel() for value in made if isinstance(value, Tensor))
    assert largest <= max(own.largest, inputs)


@pytest.mark.parametrize("name", CASES)
def test_as_good_as_by_hand(name):
    check_case(CASES[name]())


def test_the_laplacian_of_a_large_batch():
    """Lowered, not run: no tensor has two axes of the inputs."""
    params, count, n = weights(64, 256, 256, 256, 1), 1024, 64
    lowered = jt.jit(jt.vmap(trace_of_hessian(params)), backend="python").lower(
        torch.randn(count, n)
    )
    one = flops_of(forward_laplacian, params, torch.randn(n))
    assert lowered.flops <= 1.15 * count * one
    shapes = [
        node.meta["val"].shape
        for node in lowered.graph.nodes
        if node.op == "call_function" and isinstance(node.meta["val"], Tensor)
    ]
    assert all(shape.numel() <= count * n * 256 for shape in shapes)
    assert not any(shape[-2:] == (n, n) and shape[0] == count for shape in shapes)
