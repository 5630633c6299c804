"""In-place operations and views: handles, aliases, and what the caller sees."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacfwd, jacrev, jit, jvp, vjp, vmap
from jaxtorch.errors import MutationError


def through(transform: str, func: Any, x: Tensor) -> Tensor:
    """Return the values of ``func`` at ``x`` through one transform."""
    if transform == "vmap":
        return vmap(func)(x.expand(2, *x.shape).clone())[1]
    if transform == "jvp":
        return jvp(func, (x.clone(),), (torch.ones_like(x),))[0]
    return vjp(func, x.clone())[0]


def fresh(x: Tensor) -> Tensor:
    y = torch.zeros(3)
    y += x
    return y


def fresh_row(x: Tensor) -> Tensor:
    y = torch.zeros(2, 3)
    y[1] = x
    y[0, 1:] = x[:2]
    return y


def fresh_column(x: Tensor) -> Tensor:
    y = torch.ones(3, 4)
    y[:, 1].mul_(x)
    y.t()[2].copy_(x)
    return y


def view_of_view(x: Tensor) -> Tensor:
    y = torch.zeros(6)
    z = y.view(2, 3)
    z[1] += x
    z.select(0, 0)[0:2].fill_(2)
    return y


def write_then_read_an_old_view(x: Tensor) -> Tensor:
    y = x.clone()
    head = y[:2]
    y.mul_(3)
    return torch.cat([head, y])


def write_through_a_view_then_read_the_base(x: Tensor) -> Tensor:
    y = x * 1
    y.view(3, 1).squeeze(1).neg_()
    return y


def two_views(x: Tensor) -> Tensor:
    y = x.clone()
    a, b = y[:2], y[1:]
    a += 1
    b *= 10
    a -= 5
    return torch.cat([a, b, y])


def diagonal(x: Tensor) -> Tensor:
    y = torch.zeros(3, 3)
    y.diagonal().copy_(x)
    y.diagonal(1).add_(x[0])
    return y


def transposed_in_place(x: Tensor) -> Tensor:
    y = torch.zeros(3, 2) + x.unsqueeze(1)
    y.t_()
    y.unsqueeze_(0)
    y[0, 0] = 7
    return y.squeeze_(0)


def expanded_copy(x: Tensor) -> Tensor:
    y = torch.empty(2, 3)
    y.copy_(x)
    return y.relu_()


def chain(x: Tensor) -> Tensor:
    return x.clone().add_(1).mul_(2).exp_().clamp_(max=5).sub_(x)


def index_put(x: Tensor) -> Tensor:
    y = torch.zeros(5)
    y[torch.tensor([4, 0, 3])] = x
    y.index_add_(0, torch.tensor([1, 1, 2]), x)
    return y


def masked(x: Tensor) -> Tensor:
    y = x.clone()
    y[torch.tensor([True, False, True])] = 9.0
    y.masked_fill_(y > 5, 4.0)
    return y


def swapped(x: Tensor) -> Tensor:
    y = x.clone()
    y[0], y[1] = y[1].clone(), y[0].clone()
    return y


def unbound(x: Tensor) -> Tensor:
    y = torch.zeros(3, 2)
    for i, row in enumerate(y.unbind(0)):
        row.add_(x[i])
    first, second = y.split(1, dim=1)
    first.zero_()
    left, right = y.chunk(2, dim=1)
    right.neg_()
    return y


def filled(x: Tensor) -> Tensor:
    y = x.clone()
    y.fill_(3.0)
    y[1] = x[0]
    y[2:].zero_()
    return y


def set_by_out_of_place(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:] = x
    y[...] += 1
    return y


def augmented(x: Tensor) -> Tensor:
    total = torch.zeros(())
    for e in x:
        total += e * e
    return total


PROGRAMS = [
    fresh,
    fresh_row,
    fresh_column,
    view_of_view,
    write_then_read_an_old_view,
    write_through_a_view_then_read_the_base,
    two_views,
    diagonal,
    transposed_in_place,
    expanded_copy,
    chain,
    index_put,
    masked,
    swapped,
    unbound,
    filled,
    set_by_out_of_place,
    augmented,
]
EACH = pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)


def in_float64(program: Any) -> Any:
    """Let a program make its own tensors in float64."""

    def call(x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        try:
            return program(x)
        finally:
            torch.set_default_dtype(torch.float32)

    return call


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Compare with central differences."""
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def slopes(func: Any, x: Tensor) -> Tensor:
    """Return the Jacobian by central differences."""
    step = 1e-6
    columns = [
        (func(x + step * e) - func(x - step * e)) / (2 * step)
        for e in torch.eye(x.numel(), dtype=x.dtype)
    ]
    return torch.stack(columns, -1)


@EACH
@pytest.mark.parametrize("transform", ["vmap", "jvp", "vjp"])
def test_values(transform: str, program: Any) -> None:
    x = torch.randn(3)
    assert_close(through(transform, program, x), program(x.clone()))


@EACH
def test_batched_values(program: Any) -> None:
    x = torch.randn(4, 3)
    expected = torch.stack([program(e.clone()) for e in x])
    assert_close(vmap(program)(x.clone()), expected)
    assert_close(vmap(program, in_dims=1)(x.t().clone()), expected)


@EACH
def test_derivatives(program: Any) -> None:
    x = torch.randn(3, dtype=torch.float64)
    func = in_float64(program)
    expected = slopes(func, x)
    assert_near(jacrev(func)(x.clone()), expected)
    assert_near(jacfwd(func)(x.clone()), expected)
    batched = vmap(jacrev(func))(x.expand(2, 3).clone())
    assert_near(batched, torch.stack([expected, expected]))
    assert_near(jacrev(jacfwd(func))(x.clone()), slopes(jacrev(func), x))


def test_write_into_a_mapped_input_is_seen_by_the_caller() -> None:
    for in_dim in (0, 1):
        x = torch.randn(2, 2)
        before = x.clone()
        out = vmap(lambda a: a.mul_(2), in_dims=in_dim)(x)
        assert_close(x, before * 2)
        assert_close(out, (before * 2).movedim(in_dim, 0))


def test_write_into_a_view_of_a_mapped_input_is_seen_by_the_caller() -> None:
    x = torch.ones(2, 3)

    def func(a: Tensor) -> Tensor:
        a[1:].add_(1)
        return a.sum()

    assert_close(vmap(func)(x), torch.full((2,), 5.0))
    assert_close(x, torch.tensor([[1.0, 2.0, 2.0]] * 2))


@pytest.mark.parametrize("transform", ["vjp", "jvp", "grad"])
def test_write_into_an_input_of_a_derivative_is_seen_by_the_caller(
    transform: str,
) -> None:
    x = torch.ones(3)
    func = lambda a: (a.mul_(2) * 3).sum()  # noqa: E731
    if transform == "vjp":
        value, pull = vjp(func, x)
        (got,) = pull(torch.ones(()))
    elif transform == "jvp":
        value, got = jvp(func, (x,), (torch.ones(3),))
    else:
        got = grad(func)(x)
    assert_close(got.sum(), torch.tensor(18.0))
    assert_close(x, torch.full((3,), 2.0))


def test_write_inside_two_maps_is_seen_by_the_caller() -> None:
    x = torch.ones(2, 3)
    vmap(vmap(lambda a: a.add_(1)))(x)
    assert_close(x, torch.full((2, 3), 2.0))


def test_write_of_a_shared_value_into_a_mapped_input() -> None:
    x = torch.zeros(2, 3)
    out = vmap(lambda a: a.copy_(torch.arange(3.0)))(x)
    assert_close(out, torch.arange(3.0).expand(2, 3))
    assert_close(x, torch.arange(3.0).expand(2, 3))


@pytest.mark.parametrize("transform", ["vmap", "jvp", "vjp"])
def test_write_into_a_captured_tensor_is_refused(transform: str) -> None:
    captured = torch.zeros(3)
    with pytest.raises(MutationError, match="captured from outside"):
        through(transform, lambda x: captured.add_(x), torch.ones(3))
    assert_close(captured, torch.zeros(3))


@pytest.mark.parametrize("transform", ["vmap", "jvp", "vjp"])
def test_write_into_a_view_of_a_captured_tensor_is_refused(transform: str) -> None:
    captured = torch.zeros(2, 3)

    def func(x: Tensor) -> Tensor:
        captured[0] = x
        return x

    with pytest.raises(MutationError, match="captured from outside"):
        through(transform, func, torch.ones(3))
    assert_close(captured, torch.zeros(2, 3))


def test_write_of_plain_values_into_a_captured_tensor_happens_once() -> None:
    count = torch.zeros(())
    vmap(lambda x: (count.add_(1), x)[1])(torch.ones(5))
    grad(lambda x: (count.add_(1), x.sum())[1])(torch.ones(5))
    assert_close(count, torch.tensor(2.0))


@pytest.mark.parametrize("staged", [False, True])
def test_write_of_a_constant_into_a_captured_tensor(staged: bool) -> None:
    seen = torch.zeros(2, 3)

    def func(x: Tensor) -> Tensor:
        seen[0].add_(x.detach())
        seen[1] = torch.ones(3).mul_(2)
        return (x * x).sum()

    x = torch.arange(3.0)
    call = grad(func)
    assert_close((jit(call) if staged else call)(x), 2 * x)
    assert_close(seen, torch.stack([x, torch.full((3,), 2.0)]))
    value, pushed = jvp(func, (x,), (x,))
    assert_close((value, pushed), (x.square().sum(), 2 * x.square().sum()))
    assert_close(seen[0], 2 * x)
    with pytest.raises(MutationError, match="captured from outside"):
        vmap(grad(func))(x.expand(2, 3))


def test_write_of_an_inner_value_into_an_outer_handle_is_refused() -> None:
    def outer(x: Tensor) -> Tensor:
        made_outside = torch.zeros(())
        return grad(lambda y: (made_outside.add_(y), y.sum())[1])(x)

    with pytest.raises(MutationError):
        vmap(outer)(torch.ones(3))


def test_write_of_a_larger_result_is_refused() -> None:
    with pytest.raises((MutationError, RuntimeError), match="shape"):
        vmap(lambda x: torch.zeros(3).add_(x))(torch.ones(2, 4, 3))


def test_input_mapped_twice_is_not_shared_between_names() -> None:
    x = torch.ones(2, 3)
    out = vmap(lambda a, b: a.clone().add_(b))(x, x)
    assert_close(out, torch.full((2, 3), 2.0))
    assert_close(x, torch.ones(2, 3))


def test_detach_shares_values_and_not_derivatives() -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 2
        z = y.detach()
        z.add_(1)
        return (y * x).sum()

    x = torch.randn(3)
    leaf = x.clone().requires_grad_()
    y = leaf * 2
    value = vjp(func, x)[0]
    y.detach().add_(1)
    assert_close(value, (y * leaf).sum().detach())


@pytest.mark.eager(reason="jit refuses torch.autograd's derivative of such a write")
@pytest.mark.parametrize("in_dim", [0, 1])
def test_write_into_a_detached_alias_at_another_batch_dim(in_dim: int) -> None:
    def func(x: Tensor, scale: Tensor) -> Tensor:
        y = x * 2
        y.detach().copy_(scale)
        return (y * x).sum()

    x = torch.randn(2, 2, dtype=torch.float64)
    scale = torch.randn(2, 2, dtype=torch.float64)
    mapped = vmap(func, in_dims=(in_dim, 0))
    expected = scale.movedim(0, in_dim) + 2 * x
    assert_close(grad(lambda x: mapped(x, scale).sum())(x), expected)
    leaf = x.clone().requires_grad_()
    (got,) = torch.autograd.grad(mapped(leaf, scale).sum(), leaf)
    assert_close(got, expected)


def test_write_under_no_grad_keeps_the_derivative() -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 2
        with torch.no_grad():
            y.add_(10)
        return y.sum()

    assert_close(vjp(func, torch.ones(2))[0], torch.tensor(24.0))
    assert_close(grad(func)(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.eager(reason="jit refuses torch.autograd's derivative of such a write")
@pytest.mark.parametrize("batched", [False, True])
def test_write_under_no_grad_keeps_the_derivatives_of_every_level(
    batched: bool,
) -> None:
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def func(x: Tensor) -> Tensor:
        y = (w if batched else x) * 2
        with torch.no_grad():
            y.mul_(x if batched else 3)
        return (y**3).sum()

    x = torch.randn(2, 3, dtype=torch.float64)
    if batched:
        (got,) = torch.autograd.grad(vmap(func)(x).sum(), w)
        assert_close(got, (3 * (2 * w * x) ** 2 * 2).sum(0))
        assert_close(grad(func)(x[0]), torch.zeros(3, dtype=torch.float64))
    else:
        assert_close(grad(func)(x[0]), 3 * (6 * x[0]) ** 2 * 2)
        second = torch.diag(6 * (6 * x[0]) * 4)
        assert_close(jacrev(grad(func))(x[0]), second)
        assert_close(vmap(jacrev(grad(func)))(x)[0], second)
        assert_close(vmap(grad(func))(x), 3 * (6 * x) ** 2 * 2)


def test_view_that_is_read_again_under_no_grad_keeps_its_derivative() -> None:
    def func(x: Tensor) -> Tensor:
        y = x.clone()
        view = y[:1]
        y.mul_(3)
        with torch.no_grad():
            constant = view.sum()
        return view.sum() * constant

    assert_close(grad(func)(torch.ones(2)), torch.tensor([9.0, 0.0]))


def test_view_that_was_taken_under_no_grad_stays_a_constant() -> None:
    def func(x: Tensor) -> Tensor:
        y = x.clone()
        with torch.no_grad():
            view = y[:1]
        y.mul_(3)
        return view.sum() * y.sum()

    assert_close(grad(func)(torch.ones(2)), torch.tensor([9.0, 9.0]))


@pytest.mark.parametrize(
    "write",
    [
        lambda y: y.pow_(3),
        lambda y: y.square_(),
        lambda y: y.float_power_(3),
        lambda y: y.ldexp_(torch.ones(3)),
        lambda y: y.polygamma_(1),
    ],
)
def test_writes_whose_twin_has_another_signature(write: Any) -> None:
    x = torch.rand(3, dtype=torch.float64) + 1
    func = lambda x: write(x.clone())  # noqa: E731
    expected = torch.autograd.functional.jacobian(func, x)
    for own in (jacrev(func), jacfwd(func)):
        assert_close(own(x), expected)
    assert_close(vmap(func)(x.unsqueeze(0)), func(x).unsqueeze(0))


def restrided(x: Tensor) -> Tensor:
    """Transpose and squeeze views and bases of views in place, then write to them."""
    y = x.clone()
    row = y[0]
    y.t_()
    row.add_(1)
    y[0].mul_(3)
    tail = y[1:]
    tail.t_()
    tail.add_(1)
    row.mul_(2)
    y.unsqueeze_(0)
    tail.neg_()
    y.squeeze_().sin_()
    return torch.cat([y.reshape(-1), row, tail.reshape(-1)])


def test_in_place_views_of_views_and_their_bases() -> None:
    x = torch.rand(2, 3, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(restrided, x)
    assert_close(jacrev(restrided)(x), expected)
    assert_close(jacfwd(restrided)(x), expected)
    assert_close(vmap(restrided)(x.unsqueeze(0))[0], restrided(x))
    assert_close(jit(restrided)(x), restrided(x))


def test_outer_results_with_several_outputs_can_be_written() -> None:
    x = torch.rand(2, 4, dtype=torch.float64)

    def shifted(a: Tensor, b: Tensor) -> Tensor:
        y = a.sort().values
        y += b
        return y

    def tangent(a: Tensor, b: Tensor) -> Tensor:
        return jvp(lambda b: shifted(a, b), (b,), (b,))[1]

    assert_close(vmap(tangent)(x, x + 1), x + 1)
    assert_close(jit(tangent)(x, x + 1), x + 1)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_diagonal_is_filled_whatever_the_strides(dim: int) -> None:
    x = torch.rand(3, 3, 3, dtype=torch.float64)
    filled = lambda x: x.clone().fill_diagonal_(7.0)  # noqa: E731
    expected = torch.stack([filled(row) for row in x.unbind(dim)])
    assert_close(vmap(filled, dim)(x), expected)
    mask = 1 - torch.eye(3, dtype=torch.float64)
    slopes = vmap(grad(lambda x: filled(x).sum()), dim)(x)
    assert_close(slopes, mask.expand(3, 3, 3))


def test_a_write_under_no_grad_keeps_the_derivative_of_the_tangent() -> None:
    x = torch.rand(3, dtype=torch.float64) + 1

    def normed(x: Tensor) -> Tensor:
        norm = (x * x).sum()
        with torch.no_grad():
            norm.clamp_min_(1e-8)
        return x / norm

    slope = lambda f: lambda x: jvp(f, (x,), (x,))[1].sum()  # noqa: E731
    plain = lambda x: x / (x * x).sum()  # noqa: E731
    assert_close(grad(slope(normed))(x), grad(slope(plain))(x))
