"""torch.autocast inside a transformed function, and around one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from jaxtorch import (
    checkpoint,
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacrev,
    jit,
    jvp,
    vjp,
    vmap,
)

Function = Callable[..., Any]


def bfloat16() -> Any:
    """Return the context that computes products in bfloat16."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Return two weights and a batch."""
    torch.manual_seed(0)
    return torch.randn(8, 4) * 0.5, torch.randn(1, 8) * 0.5, torch.randn(6, 4)


def loss(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
    """Return a loss whose products run in bfloat16."""
    with bfloat16():
        hidden = torch.tanh(first @ x)
        assert (first @ x).dtype is torch.bfloat16
        return (second @ hidden).float().square().sum()


def by_torch(first: Tensor, second: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients by torch.autograd."""
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    return torch.autograd.grad(loss(*leaves, x), leaves)


def test_grad_is_that_of_torch_autograd() -> None:
    first, second, batch = data()
    got = grad(loss, (0, 1))(first, second, batch[0])
    assert all(g.dtype is torch.float32 for g in got)
    assert_close(got, by_torch(first, second, batch[0]))


@pytest.mark.parametrize("transform", [grad, jacrev], ids=["grad", "jacrev"])
def test_vmap_equals_the_loop(transform: Function) -> None:
    first, second, batch = data()
    rows = vmap(transform(loss, (0, 1)), (None, None, 0))(first, second, batch)
    loop = [by_torch(first, second, x) for x in batch]
    for got, expected in zip(rows, zip(*loop, strict=True), strict=True):
        assert_close(got, torch.stack(expected), rtol=2e-2, atol=2e-2)
    assert rows[0].dtype is torch.float32


def test_second_derivatives() -> None:
    first, second, batch = data()
    got = hessian(loss, 1)(first, second, batch[0])
    with bfloat16():
        hidden = torch.tanh(first @ batch[0]).float()
    assert_close(got[0, :, 0], 2 * torch.outer(hidden, hidden), rtol=2e-2, atol=2e-2)


def test_the_pullback_needs_no_autocast_and_ignores_one() -> None:
    first, second, batch = data()
    _, pull = vjp(lambda f, s: loss(f, s, batch[0]), first, second)
    outside = pull(torch.ones(()))
    with bfloat16():
        inside = pull(torch.ones(()))
    assert_close(outside, by_torch(first, second, batch[0]))
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype is b.dtype
        assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_jvp_and_jit() -> None:
    first, second, batch = data()
    out, tangent = jvp(lambda f: loss(f, second, batch[0]), (first,), (first,))
    gradient = by_torch(first, second, batch[0])[0]
    assert_close(tangent, (gradient * first).sum(), rtol=3e-2, atol=3e-2)
    assert_close(out, loss(first, second, batch[0]))
    staged = jit(grad_and_value(loss))(first, second, batch[0])
    assert_close(staged, grad_and_value(loss)(first, second, batch[0]))


def test_autocast_around_the_transform() -> None:
    first, second, batch = data()

    def plain(first: Tensor, second: Tensor, x: Tensor) -> Tensor:
        return (second @ torch.tanh(first @ x)).float().square().sum()

    with bfloat16():
        got = grad(plain, (0, 1))(first, second, batch[0])
        rows = vmap(grad(plain), (None, None, 0))(first, second, batch)
    assert_close(got, by_torch(first, second, batch[0]), rtol=2e-2, atol=2e-2)
    assert_close(rows[0], got[0], rtol=2e-2, atol=2e-2)


def test_a_module_and_a_checkpoint() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    params = {k: p.detach() for k, p in net.named_parameters()}
    batch = torch.randn(6, 4)

    def func(way: Function) -> Function:
        def loss(params: Any, x: Tensor) -> Tensor:
            with bfloat16():
                out = way(lambda p, x: functional_call(net, p, (x,)))(params, x)
                assert out.dtype is torch.bfloat16
            return out.float().square().sum()  # type: ignore[no-any-return]

        return loss

    got = vmap(grad(func(checkpoint)), (None, 0))(params, batch)
    expected = vmap(grad(func(lambda f: f)), (None, 0))(params, batch)
    assert_close(got, expected)
    with bfloat16():
        out = net(batch[0])
    leaves = list(net.parameters())
    loop = torch.autograd.grad(out.float().square().sum(), leaves)
    assert_close([g[0] for g in got.values()], list(loop), rtol=2e-2, atol=2e-2)
