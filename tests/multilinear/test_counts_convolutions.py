"""What is written plainly of CNNs costs what a derivation by hand costs, counted."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import jaxtorch as jt
from tests.multilinear.test_counts import Case, check_case, scales

CASES = {}
CHANNELS, SIDE, CLASSES, BATCH = (3, 32, 64, 64), 16, 10, 12
"""Three layers, each of which halves the side: 16, 8, 4, 2."""


def case(build):
    """Register a case under its name."""
    CASES[build.__name__] = build
    return build


def weights():
    """Return weights and biases of three convolutions and a linear layer."""
    params = []
    for i, o in pairwise(CHANNELS):
        params.append((torch.randn(o, i, 3, 3) / (9 * i) ** 0.5, torch.randn(o)))
    features = CHANNELS[-1] * (SIDE // 8) ** 2
    params.append((torch.randn(CLASSES, features) / features**0.5, torch.zeros(10)))
    return params


def images(count):
    return torch.randn(count, CHANNELS[0], SIDE, SIDE)


def convolve(x, w, b=None):
    return F.conv2d(x, w, b, stride=2, padding=1)


def cnn(params, x):
    """Return strided convolutions with tanh between them, and a linear layer."""
    for w, b in params[:-1]:
        x = torch.tanh(convolve(x, w, b))
    return F.linear(x.flatten(1), *params[-1])


def pulled(g, w):
    """Return the transpose of a convolution."""
    return F.conv_transpose2d(g, w, stride=2, padding=1, output_padding=1)


def inputs(params, x):
    """Return the inputs of all layers, and the slopes of what is between them."""
    values, slopes = [x], []
    for w, b in params[:-1]:
        values.append(torch.tanh(convolve(values[-1], w, b)))
        slopes.append(1 - values[-1] ** 2)
    return values, slopes


def unfolded(x):
    return F.unfold(x, 3, stride=2, padding=1)


def backward(params, slopes, g):
    """Return the gradients of all layers' outputs [B, rows, O, positions].

    ``g`` [B, rows, features] are those of the features.
    """
    count, rows = g.shape[:2]
    grads = []
    for (w, _), d in zip(params[-2::-1], slopes[::-1], strict=True):
        g = g.reshape(count, rows, *d.shape[1:]) * d[:, None]
        grads.insert(0, g.flatten(3))
        if w is not params[0][0]:
            g = pulled(g.flatten(0, 1), w)
    return grads


def loss(params, x, y):
    return F.cross_entropy(cnn(params, x[None]), y[None])


def per_sample(params, x, y):
    return jt.vmap(jt.grad(loss), in_dims=(None, 0, 0))(params, x, y)


def samples():
    return weights(), images(BATCH), torch.randint(0, CLASSES, (BATCH,))


def gradients_by_hand(params, x, y):
    """Return unfolded inputs and output gradients, and both of the last layer."""
    values, slopes = inputs(params, x)
    last = values[-1].flatten(1)
    top = F.linear(last, *params[-1]).softmax(-1) - F.one_hot(y, CLASSES)
    grads = backward(params, slopes, (top @ params[-1][0])[:, None])
    columns = [unfolded(v) for v in values[:-1]]
    return columns, [g[:, 0] for g in grads], last, top


def is_ghost(u, g):
    """Tell whether Gram matrices of the positions take fewer flops."""
    (_, k, t), o = u.shape, g.shape[1]
    return t * (k + o) < o * k


def norms_by_hand(columns, grads, last, top):
    """Return squared norms, for each layer in the cheaper of two ways."""
    total = (last.square().sum(1) + 1) * top.square().sum(1)
    for u, g in zip(columns, grads, strict=True):
        total = total + g.sum(2).square().sum(1)
        if is_ghost(u, g):
            gram = torch.bmm(u.mT, u) * torch.bmm(g.mT, g)
            total = total + gram.sum((1, 2))
        else:
            total = total + torch.bmm(g, u.mT).square().sum((1, 2))
    return total


def ordinary_peak() -> float:
    """Return the peak bytes of the gradient of the summed loss."""

    def summed(params, x, y):
        return F.cross_entropy(cnn(params, x), y, reduction="sum")

    return jt.jit(jt.grad(summed), backend="python").lower(*samples()).peak_bytes


LARGEST = BATCH * 64 * 9 * 32
"""The elements of all gradients of one layer's weight, of the smaller one."""


@case
def norms_of_a_cnn():
    def plain(params, x, y):
        grads = per_sample(params, x, y)
        return sum(t.flatten(1).pow(2).sum(1) for layer in grads for t in layer)

    hand = lambda *args: norms_by_hand(*gradients_by_hand(*args))  # noqa: E731
    args = samples()
    columns, grads, *_ = gradients_by_hand(*args)
    assert set(map(is_ghost, columns, grads)) == {False, True}
    return Case(plain, args, hand, 1.1, LARGEST, 1.5 * ordinary_peak())


@case
def clipped_sum_of_a_cnn():
    def plain(params, x, y):
        grads = per_sample(params, x, y)
        s = scales(sum(t.flatten(1).pow(2).sum(1) for layer in grads for t in layer))
        return [[torch.einsum("b,b...->...", s, t) for t in layer] for layer in grads]

    def by_hand(params, x, y):
        columns, grads, last, top = gradients_by_hand(params, x, y)
        s = scales(norms_by_hand(columns, grads, last, top))
        out = []
        for (w, _), u, g in zip(params, columns, grads, strict=False):
            g = (g * s[:, None, None]).transpose(0, 1).flatten(1)
            out.append([(g @ u.mT.flatten(0, 1)).view(w.shape), g.sum(1)])
        top = top * s[:, None]
        return [*out, [top.T @ last, top.sum(0)]]

    return Case(plain, samples(), by_hand, 1.15, LARGEST, 1.5 * ordinary_peak())


@case
def tangent_kernel_of_a_cnn():
    params, n, m = weights(), 6, 5

    def plain(a, b):
        def one(params, x):
            return cnn(params, x[None])[0]

        jacobians = jt.vmap(jt.jacrev(one), in_dims=(None, 0))
        pairs = zip(*(tree_leaves(jacobians(params, x)) for x in (a, b)), strict=True)
        return sum(
            torch.einsum("nap,mbp->nmab", p.flatten(2), q.flatten(2)) for p, q in pairs
        )

    def layers(x):
        values, slopes = inputs(params, x)
        rows = params[-1][0].expand(len(x), -1, -1)
        grads = backward(params, slopes, rows)
        found = []
        for v, g in zip(values, grads, strict=False):
            u = unfolded(v)
            found.append(torch.bmm(g.flatten(1, 2), u.mT).view(*g.shape[:2], -1))
            found.append(g.sum(3))
        return values[-1].flatten(1), found

    def by_hand(a, b):
        (first, p), (second, q) = layers(a), layers(b)
        total = (first @ second.T + 1)[:, :, None, None] * torch.eye(CLASSES)
        for j, k in zip(p, q, strict=True):
            gram = j.flatten(0, 1) @ k.flatten(0, 1).T
            total = total + gram.view(n, CLASSES, m, CLASSES).transpose(1, 2)
        return total

    size = sum(t.numel() for t in tree_leaves(params))
    full = n * CLASSES * size
    return Case(plain, (images(n), images(m)), by_hand, 1.2, 0.75 * full)


def jacobian_of_a_batch(transform) -> Case:
    """The Jacobian of a batch; by hand one for each example, in the same direction."""
    params, count = weights(), 8

    def backwards(x):
        _, slopes = inputs(params, x[None])
        g = backward(params, slopes, params[-1][0][None])[0]
        side = SIDE // 2
        return pulled(g[0].view(CLASSES, -1, side, side), params[0][0])

    def forwards(x):
        _, slopes = inputs(params, x[None])
        t = torch.eye(x.numel()).view(-1, *x.shape)
        for (w, _), d in zip(params, slopes, strict=False):
            t = convolve(t, w) * d
        t = t.flatten(1) @ params[-1][0].T
        return t.T.reshape(CLASSES, *x.shape)

    def by_hand(x):
        each = backwards if transform is jt.jacrev else forwards
        blocks = torch.stack([each(one) for one in x], -1)
        return torch.diag_embed(blocks).permute(4, 0, 5, 1, 2, 3)

    f = transform(lambda x: cnn(params, x))
    return Case(f, (images(count),), by_hand, 1.05)


for mode in (jt.jacrev, jt.jacfwd):
    CASES[f"jacobian of a batch, {mode.__name__}"] = lambda mode=mode: (
        jacobian_of_a_batch(mode)
    )


@pytest.mark.parametrize("name", CASES)
def test_as_good_as_by_hand(name):
    check_case(CASES[name]())
