"""What ``jit`` makes of norms and clipped sums of per-sample gradients."""

import pytest
import torch

import jaxtorch
from tests.kernels.harness import DEVICE

NORM = "jaxtorch.per_sample_squared_norm.default"
SUM = "jaxtorch.per_sample_weighted_sum.default"
CONVOLUTION = "jaxtorch.per_sample_convolution_weight.default"
GRADIENTS = {
    "aten.bmm.default",
    "jaxtorch.per_sample_weight.default",
    "jaxtorch.small_bmm.default",
}


def gradients(w, xs):
    """Differentiate a loss of a linear layer for each example."""

    def loss(w, x):
        return torch.tanh(x @ w.T).square().sum()

    return jaxtorch.vmap(jaxtorch.grad(loss), (None, 0))(w, xs)


def squared_norms(w, xs):
    return gradients(w, xs).square().sum((1, 2))


def products(w, xs):
    g = gradients(w, xs)
    return (g * g).sum((2, 1))


def norms(w, xs):
    return torch.linalg.vector_norm(gradients(w, xs), dim=(1, 2))


def mapped_norms(w, xs):
    return jaxtorch.vmap(torch.linalg.vector_norm)(gradients(w, xs))


def clipped(w, xs):
    """Scale to a norm of at most one, and sum: DP-SGD."""
    g = gradients(w, xs)
    scales = torch.clamp(1 / torch.linalg.vector_norm(g, dim=(1, 2)), max=1)
    return (g * scales[:, None, None]).sum(0)


def inputs(length, dtype=torch.float32):
    shape = (5, length, 24) if length else (5, 24)
    x = torch.randn(shape, device=DEVICE, dtype=dtype)
    return torch.randn(40, 24, device=DEVICE, dtype=dtype), x


def staged(func, mode, *args):
    """Return the result under ``jit``, and the calls that it makes."""
    with jaxtorch.kernels_mode(mode):
        own = jaxtorch.jit(func)
        graph = own.lower(*args).graph
        names = {str(n.target) for n in graph.nodes if n.op == "call_function"}
        return own(*args), names


@pytest.mark.parametrize("length", [0, 3, 70])
@pytest.mark.parametrize(
    "func", [squared_norms, products, norms, mapped_norms, clipped]
)
def test_the_gradients_are_not_made(func, length):
    args = inputs(length)
    expected, _ = staged(func, "off", *args)
    out, names = staged(func, "force", *args)
    assert NORM in names
    assert (SUM in names) == (func is clipped)
    assert not names & GRADIENTS
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_many_small_gradients_are_not_made():
    w, _ = inputs(3)
    xs = torch.randn(300, 10, 24, device=DEVICE)
    expected, _ = staged(squared_norms, "off", w, xs)
    out, names = staged(squared_norms, "force", w, xs)
    assert NORM in names
    assert not names & GRADIENTS
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_dtype():
    args = inputs(3, torch.bfloat16)
    out, names = staged(squared_norms, "force", *args)
    assert NORM in names
    expected = gradients(*args).float().square().sum((1, 2))
    torch.testing.assert_close(out, expected.bfloat16(), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize(
    "func",
    [
        lambda w, xs: (gradients(w, xs), squared_norms(w, xs)),
        lambda w, xs: gradients(w, xs).square().sum((0, 1)),
        lambda w, xs: gradients(w, xs).square().sum(2),
        lambda w, xs: (gradients(w, xs) ** 3).sum((1, 2)),
        lambda w, xs: (gradients(w, xs) * xs[:, :1]).sum(0),
        lambda w, xs: torch.linalg.vector_norm(gradients(w, xs), 1, (1, 2)),
    ],
    ids=["returned", "other dims", "one dim", "cubes", "wide weights", "another norm"],
)
def test_other_uses_need_the_gradients(func):
    args = inputs(3)
    expected, _ = staged(func, "off", *args)
    out, names = staged(func, "force", *args)
    assert names & GRADIENTS
    assert NORM not in names
    assert SUM not in names
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_without_kernels_the_graph_is_left_alone():
    _, names = staged(clipped, "off", *inputs(3))
    assert not [name for name in names if name.startswith("jaxtorch.")]


def test_second_derivatives_go_through():
    w, xs = inputs(3)

    def total(w):
        return squared_norms(w, xs).sum()

    expected, _ = staged(jaxtorch.grad(total), "off", w)
    out, _ = staged(jaxtorch.grad(total), "force", w)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    w.requires_grad_()
    with jaxtorch.kernels_mode("force"):
        jaxtorch.jit(total)(w).backward()
    torch.testing.assert_close(w.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"groups": 2}])
def test_convolutions(settings):
    w = torch.randn(6, 4 // settings.get("groups", 1), 3, 3, device=DEVICE)
    xs = torch.randn(3, 4, 7, 6, device=DEVICE)

    def loss(w, x):
        return torch.nn.functional.conv2d(x[None], w, **settings).square().sum()

    def func(w, xs):
        return jaxtorch.vmap(jaxtorch.grad(loss), (None, 0))(w, xs)

    expected, _ = staged(func, "off", w, xs)
    out, names = staged(func, "force", w, xs)
    assert (CONVOLUTION in names) == ("groups" not in settings)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    with jaxtorch.kernels_mode("force"):
        torch.testing.assert_close(func(w, xs), expected, rtol=1e-4, atol=1e-4)
