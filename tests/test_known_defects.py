"""Where torch.func of PyTorch 2.13 is wrong or refuses: what must hold here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from jaxtorch import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

DOUBLE = torch.float64


def doubles(*shape: int) -> Tensor:
    """Draw float64 numbers."""
    return torch.randn(*shape, dtype=DOUBLE)


def slopes(func: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the Jacobian by central differences."""
    step = 1e-6
    basis = torch.eye(x.numel(), dtype=DOUBLE).reshape(-1, *x.shape)
    columns = [(func(x + step * e) - func(x - step * e)) / (2 * step) for e in basis]
    out = torch.stack(columns, -1)
    return out.reshape(*out.shape[:-1], *x.shape)


def check_hessians(func: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare second derivatives of all mode pairs with differences of a gradient."""
    expected = slopes(grad(func), x)
    for second in (
        hessian(func),
        jacrev(jacrev(func)),
        jacfwd(jacfwd(func)),
        jacrev(jacfwd(func)),
        jacfwd(grad(func)),
    ):
        assert_close(second(x), expected, rtol=1e-5, atol=1e-6)


# 1. Derivatives of a linearization with respect to its point.


def test_linearize_is_differentiated_at_its_point() -> None:
    x = doubles(3)
    slope = lambda y: linearize(torch.sin, y)[1](torch.ones(3, dtype=DOUBLE))  # noqa: E731
    assert_close(grad(lambda y: slope(y).sum())(x), -x.sin())
    assert_close(jacrev(slope)(x), torch.diag(-x.sin()))
    assert_close(jvp(slope, (x,), (x,))[1], -x.sin() * x)
    assert_close(vmap(slope)(x.expand(2, 3)), x.cos().expand(2, 3))
    leaf = x.clone().requires_grad_()
    assert_close(torch.autograd.grad(slope(leaf).sum(), leaf)[0], -x.sin())


def test_linearize_runs_the_function_once() -> None:
    calls = []
    linearize(lambda x: (calls.append(1), x.sin())[1], torch.ones(2))
    assert calls == [1]


# 2. Fused kernels without a second derivative or a batching rule in PyTorch.


def test_attention() -> None:
    q, k, v = doubles(1, 2, 3, 2), doubles(1, 2, 3, 2), doubles(1, 2, 3, 2)
    loss = lambda q: F.scaled_dot_product_attention(q, k, v).square().sum()  # noqa: E731
    check_hessians(loss, q)
    many = doubles(3, 1, 2, 3, 2)
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.stack([torch.func.grad(loss)(e) for e in many])
    assert_close(vmap(grad(loss))(many), expected)


def test_cdist() -> None:
    x, y = doubles(3, 2), doubles(4, 2)
    check_hessians(lambda x: torch.cdist(x, y).square().sin().sum(), x)


def test_embedding_bag() -> None:
    weight = doubles(5, 2)
    index, offsets = torch.tensor([0, 3, 3, 1]), torch.tensor([0, 2])

    def loss(weight: Tensor) -> Tensor:
        return F.embedding_bag(index, weight, offsets, mode="mean").sin().sum()

    check_hessians(loss, weight)


@pytest.mark.eager(reason="the loss reads the lengths on the CPU")
def test_ctc_loss() -> None:
    logits = doubles(6, 1, 4)
    target, lengths = torch.tensor([[1, 2, 2]]), (torch.tensor([6]), torch.tensor([3]))
    loss = lambda x: F.ctc_loss(x.log_softmax(-1), target, *lengths)  # noqa: E731
    expected = slopes(loss, logits)
    assert_close(grad(loss)(logits), expected, rtol=1e-6, atol=1e-7)
    check_hessians(loss, logits)


def test_grid_sample_is_not_random() -> None:
    image, grid = doubles(2, 1, 1, 4, 4), doubles(1, 2, 2, 2) / 3
    func = lambda image: F.grid_sample(image, grid, align_corners=False)  # noqa: E731
    assert_close(vmap(func)(image), torch.stack([func(e) for e in image]))
    check_hessians(
        lambda grid: F.grid_sample(image[0], grid, align_corners=False).square().sum(),
        grid,
    )


# 3. Recurrent networks.


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks(kind: Any) -> None:
    net = kind(2, 3, batch_first=True).double()
    x = doubles(4, 5, 2)
    expected = torch.stack([net(e)[0] for e in x])
    assert_close(vmap(lambda e: net(e)[0])(x), expected)
    loss = lambda e: net(e)[0].square().sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[0].square().sum(), leaf)
    assert_close(vmap(grad(loss))(x), gradient)
    assert_close(hessian(loss)(x[0]), slopes(grad(loss), x[0]), rtol=1e-5, atol=1e-6)


# 5. The second derivative of layer norm in its input and its weight.


def test_layer_norm_in_input_and_weight() -> None:
    both = doubles(3, 4)

    def loss(both: Tensor) -> Tensor:
        x, weight, bias = both
        return F.layer_norm(x, (4,), weight, bias).sin().sum()

    check_hessians(loss, both)


def test_group_norm_and_batch_norm_in_input_and_weight() -> None:
    both = doubles(3, 4)

    def grouped(both: Tensor) -> Tensor:
        out = F.group_norm(both[:1], 2, both[1], both[2])
        return out.sin().sum()

    check_hessians(grouped, both)
    batch = doubles(5, 3)

    def batched(batch: Tensor) -> Tensor:
        out = F.batch_norm(batch[:3], None, None, batch[3], batch[4], training=True)
        return out.sin().sum()

    check_hessians(batched, batch)


# 6. dtypes of tangents of scalars.


def test_tangent_of_a_scalar_keeps_its_dtype() -> None:
    x = torch.tensor(0.5)
    for func in (
        lambda x: x * 2.0,
        lambda x: 2.0 * x,
        lambda x: x / 2.0,
        lambda x: x**2.0,
    ):
        assert jvp(func, (x,), (torch.ones(()),))[1].dtype is torch.float32
    got = vmap(jacfwd(lambda x: x.sin() * 2.0))(torch.ones(3))
    assert_close(got, torch.full((3,), 2.0) * torch.ones(3).cos())


# 8. Wrong values in a sweep of the operator database.


def test_roll_of_a_scalar() -> None:
    x = doubles(3)
    assert_close(
        vmap(lambda e: torch.roll(e, 1, 0) if e.dim() else torch.roll(e, 1))(x), x
    )


def test_gradient_of_select_scatter() -> None:
    x, y = doubles(3, 2), doubles(2)
    func = lambda x, y: (torch.select_scatter(x, y, 0, 1) ** 2).sum()  # noqa: E731
    a, b = grad(func, (0, 1))(x, y)
    expected = 2 * x
    expected[1] = 0
    assert_close((a, b), (expected, 2 * y))
    xs, ys = doubles(4, 3, 2), doubles(4, 2)
    expected = 2 * xs
    expected[:, 1] = 0
    assert_close(vmap(grad(func, (0, 1)))(xs, ys), (expected, 2 * ys))


def test_nested_index_fill() -> None:
    x, index = doubles(2, 3, 4), torch.tensor([0, 2])
    values = doubles(2)
    func = lambda x, v: torch.index_fill(x, 0, index, v)  # noqa: E731
    got = vmap(vmap(func, in_dims=(0, None)))(x, values)
    expected = x.clone()
    expected[..., index] = values[:, None, None]
    assert_close(got, expected)


def test_forward_mode_of_cholesky_inverse() -> None:
    x = doubles(3, 3).tril() + 3 * torch.eye(3, dtype=DOUBLE)
    t = doubles(3, 3).tril()
    step = 1e-6
    slope = torch.cholesky_inverse(x + step * t) - torch.cholesky_inverse(x - step * t)
    pushed = jvp(torch.cholesky_inverse, (x,), (t,))[1]
    assert_close(pushed, slope / (2 * step), rtol=1e-6, atol=1e-7)
    w = doubles(3, 3)
    (pulled,) = vjp(torch.cholesky_inverse, x)[1](w)
    assert_close((pushed * w).sum(), (pulled * t).sum())


# Extremal numerics.


@pytest.mark.parametrize("scale", [1e4, -1e4, 1e-30])
def test_losses_at_extreme_logits(scale: float) -> None:
    logits = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.5, 2.0]]) * scale
    target = torch.tensor([0, 2])
    functions = {
        "cross_entropy": lambda x: F.cross_entropy(x, target),
        "log_softmax": lambda x: x.log_softmax(1)[:, 0].sum(),
        "softmax": lambda x: x.softmax(1)[:, 0].sum(),
        "bce": lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(2, 3)),
        "logsumexp": lambda x: x.logsumexp((0, 1)),
        "softplus": lambda x: F.softplus(x).sum(),
    }
    for func in functions.values():
        leaf = logits.clone().requires_grad_()
        (expected,) = torch.autograd.grad(func(leaf), leaf)
        assert_close(grad(func)(logits), expected)
        _, pushed = jvp(func, (logits,), (torch.ones_like(logits),))
        assert_close(pushed, expected.sum(), rtol=1e-4, atol=1e-5)
        assert torch.isfinite(hessian(func)(logits)).all()


@pytest.mark.parametrize("at", [0.0, float("inf"), -float("inf"), float("nan")])
def test_special_values_as_in_torch_autograd(at: float) -> None:
    x = torch.tensor([at, 1.0])
    other = torch.tensor([0.0, 0.0])
    for func in (
        torch.exp,
        torch.sqrt,
        torch.log,
        torch.abs,
        torch.tanh,
        torch.sigmoid,
        torch.reciprocal,
        torch.norm,
        F.relu,
        lambda x: x**0.5,
        lambda x: x**2,
        lambda x: torch.where(x > 0, x, other),
        lambda x: torch.maximum(x, other),
        lambda x: x.clamp(0, 1),
        lambda x: F.mse_loss(x, other),
        lambda x: F.l1_loss(x, other),
        lambda x: x.amax(),
    ):
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(func(leaf).sum(), leaf)
        got = grad(lambda x, f=func: f(x).sum())(x)
        assert_close(got, expected, equal_nan=True)
        assert_close(vmap(func)(x.expand(2, 2)).shape[0], 2)
