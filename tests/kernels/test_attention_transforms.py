"""Transforms of attention run on its kernels, and never hold a matrix of weights."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import jaxtorch
from tests.kernels.harness import DEVICE, graph_of

LENGTH = 32
"""Longer than the 8 features of a head, so that weights are the largest of all."""


def attend(q, k, v, mask=None, causal=True):
    """Call torch's function."""
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def loss(q, k, v, mask=None):
    """Return a number that is not linear in the result."""
    return attend(q, k, v, mask, mask is None).square().sum()


def push(q, k, v, *rest):
    """Push a direction that depends on the point."""
    return jaxtorch.jvp(lambda *x: attend(*x, *rest), (q, k, v), (v, q, k))


def pull(q, k, v, *rest):
    """Pull back, by all three."""
    return jaxtorch.grad(loss, (0, 1, 2))(q, k, v, *rest)


def push_pull(q, k, v, *rest):
    """Multiply the Hessian and a vector."""
    return jaxtorch.jvp(lambda *x: pull(*x, *rest), (q, k, v), (k, v, q))[1]


def pull_pull(q, k, v, *rest):
    """Differentiate a penalty on the gradient."""

    def penalty(*x):
        return sum(g.square().sum() for g in pull(*x, *rest))

    return jaxtorch.grad(penalty, (0, 1, 2))(q, k, v)


def pull_push(q, k, v, *rest):
    """Differentiate a loss that holds a tangent."""

    def moved(*x):
        return sum(part.square().sum() for part in push(*x, *rest))

    return jaxtorch.grad(moved, (0, 1, 2))(q, k, v)


def per_sample(q, k, v, *rest):
    """Take the gradient for each sample, of keys that all share."""
    return jaxtorch.vmap(lambda q: pull(q, k[:1], v[:1], *rest))(q.unsqueeze(1))


def linear(q, k, v, *rest):
    """Linearize once, push twice."""
    func = jaxtorch.linearize(lambda *x: attend(*x, *rest), q, k, v)[1]
    return func(k, v, q), func(v, q, k)


TRANSFORMS = (push, pull, push_pull, pull_pull, pull_push, per_sample, linear)


def inputs():
    """Draw (q, k, v) [N, H, L, D]."""
    torch.manual_seed(3)
    return tuple(torch.randn(2, 2, LENGTH, 8, device=DEVICE) for _ in range(3))


class Largest(TorchDispatchMode):
    """Remembers the most elements that a result of ATen has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *made])
        return out


@pytest.mark.parametrize("func", TRANSFORMS)
def test_the_same_as_without_kernels(func):
    with jaxtorch.kernels_mode("off"):
        expected = func(*inputs())
    with jaxtorch.kernels_mode("force"):
        out = func(*inputs())
        staged = jaxtorch.jit(func)(*inputs())
        names = graph_of(func, *inputs())
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(staged, expected, rtol=1e-4, atol=1e-4)
    assert any("jaxtorch.attention" in name for name in names)
    assert not any("softmax" in name or "exp.default" in name for name in names)


@pytest.mark.parametrize("func", TRANSFORMS)
def test_memory_is_linear_in_the_length(func):
    q, k, v = (torch.cat([x] * 2, 2) for x in inputs())
    bound = 2 * max(x.numel() for x in (q, k, v))
    with jaxtorch.kernels_mode("off"), Largest() as seen:
        func(q, k, v)
    assert seen.elements > bound
    with jaxtorch.kernels_mode("force"), Largest() as seen:
        func(q, k, v)
    assert seen.elements <= bound


@pytest.mark.parametrize("func", [push, pull, push_pull, per_sample])
@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_masks(func, kind):
    mask = torch.randn(2, 1, LENGTH, LENGTH, device=DEVICE)
    mask = mask > 0 if kind == "bool" else mask
    mask[:, :, 3] = False if kind == "bool" else -torch.inf
    if func is per_sample:
        mask = mask[:1]
    with jaxtorch.kernels_mode("off"):
        expected = func(*inputs(), mask)
    with jaxtorch.kernels_mode("force"):
        out = func(*inputs(), mask)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_the_derivative_by_a_mask():
    mask = torch.randn(2, 1, LENGTH, LENGTH, device=DEVICE)

    def both(mask):
        gradient = jaxtorch.grad(lambda m: loss(*inputs(), m))
        return gradient(mask), jaxtorch.jvp(gradient, (mask,), (mask,))[1]

    with jaxtorch.kernels_mode("off"):
        expected = both(mask)
    with jaxtorch.kernels_mode("force"):
        torch.testing.assert_close(both(mask), expected, rtol=1e-4, atol=1e-4)


def test_groups_of_heads_share_keys():
    q, k, v = inputs()

    def func(q, k, v):
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return out.square().sum()

    args = q, k[:, :1], v[:, :1]
    with jaxtorch.kernels_mode("off"):
        expected = jaxtorch.grad(func, (0, 1, 2))(*args)
    with jaxtorch.kernels_mode("force"):
        out = jaxtorch.grad(func, (0, 1, 2))(*args)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_dropout_stays_on_aten():
    q, k, v = inputs()

    def func(q):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5).sum()

    with jaxtorch.kernels_mode("force"):
        names = graph_of(jaxtorch.grad(func), q)
    assert not any("jaxtorch.attention" in name for name in names)
