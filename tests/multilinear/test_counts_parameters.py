"""Norms and curvature of parameters cost what a derivation by hand costs, counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import jaxtorch as jt
from tests.multilinear.test_counts import (
    Case,
    check_case,
    hidden,
    mlp,
    weights,
)

CASES = {}


def case(build):
    """Register a case under its name."""
    CASES[build.__name__] = build
    return build


class Block(nn.Module):
    """A transformer block: attention and an MLP, each behind a layer norm."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        """Return the values of one sequence, ``[length, width]``."""
        parts = self.qkv(self.before(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(0, 1) for t in parts)
        read = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        x = x + self.out(read)
        return x + self.down(F.gelu(self.up(self.between(x))))


def block_by_hand(params, heads, x):
    """Return the loss of each sequence, and for each layer its inputs and its outputs.

    A zero that requires grad is added to every output, to be differentiated by.
    """
    layers = {}

    def tapped(name, read, value):
        tap = torch.zeros_like(value, requires_grad=True)
        layers[name] = read, tap
        return value + tap

    def linear(name, x):
        value = F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])
        return tapped(name, x, value)

    def norm(name, x):
        read = F.layer_norm(x, x.shape[-1:])
        value = read * params[f"{name}.weight"] + params[f"{name}.bias"]
        return tapped(name, read, value)

    parts = linear("qkv", norm("before", x)).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in parts)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    x = x + linear("out", (scores @ v).transpose(1, 2).flatten(2))
    x = x + linear("down", F.gelu(linear("up", norm("between", x))))
    return x.pow(2).mean((1, 2)), layers


def weight_norms(x, g):
    """Return the squared norms of ``g.mT @ x`` by the cheaper of two ways."""
    length, both = x.shape[1], x.shape[2] + g.shape[2]
    if length * both < x.shape[2] * g.shape[2]:
        return ((x @ x.mT) * (g @ g.mT)).sum((1, 2))
    return (g.mT @ x).square().sum((1, 2))


def transformer_norms(width: int, largest: int) -> Case:
    """Norms of the gradients of a block for each of 16 sequences."""
    block, count, length = Block(width), 16, 64
    params = {k: v.detach() for k, v in block.named_parameters()}

    def loss(params, x):
        return jt.functional_call(block, params, (x,)).pow(2).mean()

    def plain(params, x):
        grads = jt.vmap(jt.grad(loss), in_dims=(None, 0))(params, x)
        return sum(g.flatten(1).pow(2).sum(1) for g in grads.values())

    def by_hand(params, x):
        losses, layers = block_by_hand(params, block.heads, x)
        taps = [tap for _, tap in layers.values()]
        grads = torch.autograd.grad(losses.sum(), taps)
        total = 0
        for (name, (x, _)), g in zip(layers.items(), grads, strict=True):
            of_norm = name in ("before", "between")
            weight = (g * x).sum(1).square().sum(1) if of_norm else weight_norms(x, g)
            total = total + weight + g.sum(1).square().sum(1)
        return total.detach()

    args = params, torch.randn(count, length, width)
    return Case(plain, args, by_hand, 1.1, largest)


@case
def norms_of_a_block():
    """Sequences are shorter than layers are wide: no gradient of a layer is made."""
    return transformer_norms(256, 16 * 64 * 1024)


@case
def norms_of_a_narrow_block():
    """Gradients are smaller than the Gram matrices of the sequences."""
    return transformer_norms(64, 16 * 64 * 256)


def square_diagonal(matrix, shape):
    """Return the diagonal of a Hessian by a parameter, in the shape of it."""
    n = shape.numel()
    return matrix.reshape(n, n).diagonal().reshape(shape)


COUNT, WIDTHS = 64, (48, 64, 32, 10)


def data():
    """Return parameters, inputs and classes."""
    x, y = torch.randn(COUNT, WIDTHS[0]), torch.randint(0, WIDTHS[-1], (COUNT,))
    return weights(*WIDTHS), x, y


def logits_hessian(out):
    """Return the Hessian of cross entropy by the logits, for each sample."""
    p = out.softmax(-1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None]


def by_layers(params, x):
    """Return for each layer its inputs and the diagonal of the Gauss-Newton matrix.

    The diagonal is that by its outputs, for each sample: the rows of the Jacobian are
    passed down from layer to layer, and weighted by the probabilities.
    """
    values, slopes = hidden(params, x)
    p = F.linear(values[-1], *params[-1]).softmax(-1) / len(x) ** 0.5
    found = [p * len(x) ** -0.5 - p * p]
    rows = params[-1][0] * slopes[-1][:, None, :]
    for i in range(len(params) - 2, -1, -1):
        mean = torch.einsum("nc,nco->no", p, rows)
        spread = torch.einsum("nc,nco->no", p, rows * rows) * len(x) ** -0.5
        found.append(spread - mean**2)
        if i:
            rows = (rows @ params[i][0]) * slopes[i - 1][:, None, :]
    return values, slopes, found[::-1]


def as_parameters(values, diagonals):
    """Return diagonals by weights and biases, given those by the layers' outputs."""
    pairs = zip(values, diagonals, strict=True)
    return [[d.T @ (v * v), d.sum(0)] for v, d in pairs]


def largest_rows():
    """Return the elements of the largest block of rows of a Jacobian by outputs."""
    return COUNT * WIDTHS[-1] * max(WIDTHS[1:])


@case
def gauss_newton_diagonal():
    def plain(params, x, y):
        jacobians = jt.jacrev(mlp)(params, x)
        h = logits_hessian(mlp(params, x)) / len(x)

        def diagonal(j, p):
            j = j.flatten(2)
            full = torch.einsum("nci,ncd,ndj->ij", j, h, j)
            return square_diagonal(full, p.shape)

        return [
            [diagonal(j, p) for j, p in zip(js, layer, strict=True)]
            for js, layer in zip(jacobians, params, strict=True)
        ]

    def by_hand(params, x, y):
        values, _, diagonals = by_layers(params, x)
        return as_parameters(values, diagonals)

    return Case(plain, data(), by_hand, 1.3, largest_rows())


@case
def hessian_diagonal():
    """By hand the Gauss-Newton part, and what the activations' curvature adds."""

    def loss(params, x, y):
        return F.cross_entropy(mlp(params, x), y)

    def plain(params, x, y):
        blocks = jt.hessian(loss)(params, x, y)
        return [
            [square_diagonal(blocks[i][j][i][j], p.shape) for j, p in enumerate(layer)]
            for i, layer in enumerate(params)
        ]

    def by_hand(params, x, y):
        values, slopes, (first, second, third) = by_layers(params, x)
        (_, _), (w, _), (top, _) = params
        out = F.linear(values[-1], *params[-1])
        grad = (out.softmax(-1) - F.one_hot(y, out.shape[-1])) / len(x)
        back = grad @ top
        bent = -2 * values[2] * slopes[1] * back
        low = -2 * values[1] * slopes[0] * ((back * slopes[1]) @ w)
        first = first + low + bent @ (w * w) * slopes[0] ** 2
        return as_parameters(values, (first, second + bent, third))

    return Case(plain, data(), by_hand, 1.3, largest_rows())


@pytest.mark.parametrize("name", CASES)
def test_as_good_as_by_hand(name):
    check_case(CASES[name]())
