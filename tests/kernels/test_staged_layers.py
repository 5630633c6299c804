"""No layer's per-sample gradients are made for their norms and weighted sums."""

import pytest
import torch
from torch.nn.functional import conv2d, embedding

import jaxtorch
from tests.kernels.harness import DEVICE


def linear_loss(w, x):
    return torch.tanh(x @ w).square().sum()


def convolution_loss(w, x):
    out = conv2d(x, w, stride=2, padding=1, dilation=(1, 2))
    return torch.tanh(out).square().sum()


def embedding_loss(w, x):
    return torch.tanh(embedding(x, w)).square().cumsum(-1).sum()


def padded_loss(w, x):
    return torch.tanh(embedding(x, w, padding_idx=2)).square().cumsum(-1).sum()


LINEAR = "jaxtorch.per_sample_squared_norm.default"
CONVOLUTION = "jaxtorch.per_sample_convolution_squared_norm.default"
EMBEDDING = "jaxtorch.per_sample_embedding_squared_norm.default"
LAYERS = {
    "linear": (linear_loss, (24, 40), (5, 3, 24), LINEAR),
    "convolution": (convolution_loss, (6, 4, 3, 3), (5, 2, 4, 7, 6), CONVOLUTION),
    "embedding": (embedding_loss, (9, 8), (5, 6), EMBEDDING),
    "padding": (padded_loss, (9, 8), (5, 6), EMBEDDING),
    "one token": (embedding_loss, (9, 8), (5,), EMBEDDING),
    "tables of tokens": (embedding_loss, (9, 8), (5, 2, 3), EMBEDDING),
}
NORMS = {
    "norms": lambda g: torch.linalg.vector_norm(g, dim=tuple(range(1, g.dim()))),
    "kept": lambda g: torch.linalg.vector_norm(
        g, dim=tuple(range(1, g.dim())), keepdim=True
    ),
    "mapped norms": jaxtorch.vmap(torch.linalg.vector_norm),
    "norms of rows": lambda g: g.reshape(g.shape[0], -1).norm(2, dim=-1),
    "squares": lambda g: g.square().sum(tuple(range(1, g.dim()))),
    "squares, flat": lambda g: (g.flatten(1) * g.flatten(1)).sum(1),
    "squares, transposed": lambda g: g.mT.flatten(1).T.square().sum(0),
    "mapped squares": jaxtorch.vmap(lambda g: (g**2).sum()),
}
SUMS = {
    "sum": lambda g, s: (g * s.reshape(-1, *[1] * (g.dim() - 1))).sum(0),
    "kept": lambda g, s: (s.reshape(-1, *[1] * (g.dim() - 1)) * g).sum(0, True),
    "mean": lambda g, s: jaxtorch.vmap(torch.mul)(g, s).mean(0),
    "last": lambda g, s: (g.movedim(0, -1) * s).sum(-1),
    "tensordot": lambda g, s: torch.tensordot(s, g, 1),
    "einsum": lambda g, s: torch.einsum("b...,b->...", g, s),
    "einsum from the left": lambda g, s: torch.einsum("b,b...->...", s, g.mT),
    "rows": lambda g, s: s @ g.flatten(1),
    "columns": lambda g, s: g.flatten(1).T @ s,
}


def inputs(layer):
    """Return loss, parameter and examples, and the name of the norm's kernel."""
    loss, size, shape, name = LAYERS[layer]
    w = torch.randn(size, device=DEVICE)
    if name == EMBEDDING:
        return loss, w, torch.randint(0, 9, shape, device=DEVICE), name
    return loss, w, torch.randn(shape, device=DEVICE), name


def staged(func, *args):
    """Return the result under ``jit``, and the calls with the sizes of their values."""
    with jaxtorch.kernels_mode("force"):
        own = jaxtorch.jit(func)
        nodes = [n for n in own.lower(*args).graph.nodes if n.op == "call_function"]
        values = [n.meta["val"] for n in nodes]
        sizes = {v.numel() for v in values if isinstance(v, torch.Tensor)}
        return own(*args), {str(n.target) for n in nodes}, sizes


def check_that_gradients_are_not_made(func, w, xs, name):
    """Check the result, that the kernel is called, and the size of every value."""
    expected = func(w, xs)
    out, names, sizes = staged(func, w, xs)
    assert name in names
    assert 5 * w.numel() not in sizes
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("norm", NORMS)
def test_norms(norm, layer):
    loss, w, xs, name = inputs(layer)

    def func(w, xs):
        return NORMS[norm](jaxtorch.vmap(jaxtorch.grad(loss), (None, 0))(w, xs))

    check_that_gradients_are_not_made(func, w, xs, name)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("total", SUMS)
def test_weighted_sums(total, layer):
    loss, w, xs, name = inputs(layer)

    def func(w, xs):
        g = jaxtorch.vmap(jaxtorch.grad(loss), (None, 0))(w, xs)
        norms = torch.linalg.vector_norm(g.flatten(1), dim=1)
        return SUMS[total](g, torch.clamp(1 / norms, max=1))

    check_that_gradients_are_not_made(func, w, xs, name)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "use",
    [
        lambda g: g,
        lambda g: g.square().sum(-1),
        lambda g: g.flatten(0, 1).square().sum(-1),
        lambda g: g.flatten(1).sum(1),
        lambda g: g.flatten(1)[:, 1:].square().sum(1),
        lambda g: (g * g.flatten(1)[:, :1].reshape(-1, *[1] * (g.dim() - 1))).sum(0),
    ],
    ids=["returned", "one dim", "mixed", "plain sum", "a part", "own weights"],
)
def test_other_uses_need_the_gradients(use, layer):
    loss, w, xs, name = inputs(layer)

    def func(w, xs):
        return use(jaxtorch.vmap(jaxtorch.grad(loss), (None, 0))(w, xs))

    expected = func(w, xs)
    out, names, _ = staged(func, w, xs)
    assert name not in names
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [0, torch.arange(5, device=DEVICE)[:, None] * 8])
def test_tables_that_are_not_of_samples(shift):
    """Rows of one table look like those of many, but for their index."""

    def func(g, index):
        own = index + shift
        table = torch.ops.aten.embedding_dense_backward(g, own, 45, -1, False)
        return table.reshape(5, 9, 8).square().sum((1, 2))

    g = torch.randn(5, 6, 8, device=DEVICE)
    index = torch.randint(0, 9, (5, 6), device=DEVICE)
    out, names, _ = staged(func, g, index)
    assert EMBEDDING not in names
    torch.testing.assert_close(out, func(g, index), rtol=1e-4, atol=1e-4)
