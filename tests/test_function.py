"""torch.autograd.Function under the transforms, in both of its forms."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.testing import assert_close

from jaxtorch import grad, hessian, jacfwd, jacrev, jit, jvp, linearize, vjp, vmap
from jaxtorch.errors import UsageError
from jaxtorch.transforms.function import ORIGINAL

Apply = Callable[..., Any]
Base: Any = torch.autograd.Function


class Combined(Base):
    """The old form; saves an intermediate result. Its derivative is the double."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: float, y: Tensor) -> Tensor:
        e = x.exp()
        ctx.save_for_backward(e, y, x)
        ctx.k = k
        return e * y * k

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        e, y, x = ctx.saved_tensors
        assert ctx.needs_input_grad[1] is False
        return 2 * cotangent * x.exp() * y * ctx.k, None, 2 * cotangent * e * ctx.k


class Split(Base):
    """The new form, with setup_context."""

    @staticmethod
    def forward(x: Tensor, k: float, y: Tensor) -> Tensor:
        return x.exp() * y * k

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, k, y = inputs
        ctx.save_for_backward(x, y, output)
        ctx.save_for_forward(x, y, output)
        ctx.k = k

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        x, y, _ = ctx.saved_tensors
        return (
            2 * cotangent * x.exp() * y * ctx.k,
            None,
            2 * cotangent * x.exp() * ctx.k,
        )


class WithJvp(Split):
    """With a jvp; batched by mapping its staticmethods."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None, dy: Tensor) -> Tensor:
        x, y, _out = ctx.saved_tensors
        return 2 * x.exp() * ctx.k * (dx * y + dy)


class WithVmap(Split):
    """With a batching rule that notes its calls."""

    calls: list[Any] = []  # noqa: RUF012

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, k: float, y: Tensor) -> Any:
        WithVmap.calls.append((info.batch_size, info.randomness, in_dims))
        x, y = (
            a if d is None else a.movedim(d, 0)
            for a, d in ((x, in_dims[0]), (y, in_dims[2]))
        )
        return WithVmap.apply(x, k, y), 0


CASES = pytest.mark.parametrize("cls", [Combined, Split, WithJvp, WithVmap])


def true(x: Tensor, y: Tensor) -> Tensor:
    """Return what the Functions return, summed."""
    return (x.exp() * y * 3).sum()


def summed(cls: Any) -> Apply:
    """Return a Function as a scalar function."""
    return lambda x, y: cls.apply(x, 3.0, y).sum()


def data() -> tuple[Tensor, Tensor]:
    """Return two float64 tensors of shape [4, 3]."""
    torch.manual_seed(0)
    return torch.randn(2, 4, 3, dtype=torch.float64).unbind()


def double(tree: Any) -> Any:
    """Return twice a tensor, or a tuple of them."""
    return 2 * tree if isinstance(tree, Tensor) else tuple(double(t) for t in tree)


@CASES
def test_first_derivatives(cls: Any) -> None:
    x, y = data()
    func = summed(cls)
    assert_close(grad(func, (0, 1))(x, y), double(grad(true, (0, 1))(x, y)))
    assert_close(jvp(func, (x, y), (y, x))[1], 2 * jvp(true, (x, y), (y, x))[1])
    assert_close(linearize(func, x, y)[1](y, x), jvp(func, (x, y), (y, x))[1])
    out, pull = vjp(lambda x: cls.apply(x, 3.0, y), x)
    assert_close(pull(out)[0], 2 * out * out)
    assert_close(jacrev(func)(x, y), 2 * jacrev(true)(x, y))


@CASES
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (-1, 0)])
def test_vmap_in_both_orders(cls: Any, in_dims: Any) -> None:
    x, y = data()
    x = x[0] if in_dims[0] is None else x.T if in_dims[0] == -1 else x
    y = y[0] if in_dims[1] is None else y
    func = summed(cls)
    assert_close(vmap(func, in_dims)(x, y), vmap(true, in_dims)(x, y))
    assert_close(
        vmap(grad(func, (0, 1)), in_dims)(x, y),
        double(vmap(grad(true, (0, 1)), in_dims)(x, y)),
    )
    both = lambda f: lambda x, y: vmap(f, in_dims)(x, y).sum()  # noqa: E731
    assert_close(grad(both(func), (0, 1))(x, y), double(grad(both(true), (0, 1))(x, y)))
    tangents = x.cos(), y.sin()
    assert_close(
        jvp(both(func), (x, y), tangents)[1], 2 * jvp(both(true), (x, y), tangents)[1]
    )


@CASES
def test_second_derivatives_as_torch_autograd(cls: Any) -> None:
    x, y = data()
    func = summed(cls)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(func(leaf, y), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    for transform in (
        hessian,
        lambda f: jacrev(jacrev(f)),
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jit(hessian(f)),
    ):
        assert_close(vmap(transform(func))(x, y), torch.diag_embed(second))
    assert_close(jit(grad(func))(x, y), first.detach())
    got = torch.autograd.grad(vmap(grad(func))(leaf, y).sum(), leaf)[0]
    assert_close(got, second)
    assert_close(
        torch.autograd.grad(vmap(func)(leaf, y).sum(), leaf)[0], first.detach()
    )


def test_the_vmap_staticmethod_is_used_inside_and_outside_of_grad() -> None:
    x, y = data()
    for transform in (vmap(summed(WithVmap)), vmap(grad(summed(WithVmap)))):
        WithVmap.calls.clear()
        transform(x, y)
        assert WithVmap.calls == [(4, "error", (0, None, 0))]


def test_straight_through_and_reversed_gradients() -> None:
    class Round(Base):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            return cotangent

    class Reverse(Base):
        @staticmethod
        def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
            ctx.scale = scale
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Any:
            return -ctx.scale * cotangent, None

    x = data()[0]
    ones = torch.ones_like(x)
    assert_close(grad(lambda x: Round.apply(x).sum())(x), ones)
    assert_close(vmap(grad(lambda x: (Round.apply(x) ** 2).sum()))(x), 2 * x.round())
    assert_close(vmap(grad(lambda x: Reverse.apply(x, 0.5).sum()))(x), -0.5 * ones)


@pytest.mark.eager(reason="NumPy reads the values of a tensor")
def test_numpy_inside_runs_on_plain_values() -> None:
    class Sort(Base):
        @staticmethod
        def forward(x: Tensor) -> Any:
            order = torch.from_numpy(x.numpy().argsort())
            return x[order], order

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.mark_non_differentiable(output[1])
            ctx.save_for_backward(output[1])

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor, _: Any) -> Tensor:
            (order,) = ctx.saved_tensors
            return torch.zeros_like(cotangent).scatter(0, order, cotangent)

    x = data()[0].flatten()
    weights = torch.arange(12.0, dtype=torch.float64)
    func = lambda x: (Sort.apply(x)[0] ** 2 * weights).sum()  # noqa: E731
    expected = grad(lambda x: (x.sort()[0] ** 2 * weights).sum())
    assert_close(grad(func)(x), expected(x))
    assert_close(jacrev(grad(func))(x), jacrev(expected)(x))


def test_several_outputs_unused_outputs_and_wrong_counts() -> None:
    class Two(Base):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            ctx.set_materialize_grads(False)
            return x.sin(), x.cos()

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            assert b is None
            return a

    class Wrong(Two):
        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            return a, a

    x = data()[0]
    assert_close(grad(lambda x: Two.apply(x)[0].sum())(x), torch.ones_like(x))
    with pytest.raises(UsageError, match="incorrect number of gradients"):
        grad(lambda x: Wrong.apply(x)[0].sum())(x)


def test_a_broadcast_gradient_is_reduced() -> None:
    class Add(Base):
        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
            return x + y

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Any:
            return cotangent, cotangent

    x, y = data()
    assert_close(grad(lambda y: Add.apply(x, y).sum())(y[0]), torch.full_like(y[0], 4))
    rows = vmap(grad(lambda x, y: Add.apply(x, y).sum(), 1), (0, None))(
        x[:, None], y[0]
    )
    assert_close(rows, torch.ones_like(x))


class Double(Base):
    """Writes into its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return 2 * cotangent


def test_a_dirty_input_takes_over_the_result() -> None:
    def func(x: Tensor) -> Tensor:
        y = x.sin()
        z = Double.apply(y)
        assert z is y
        return (y**2).sum()

    x = data()[0]
    expected = grad(lambda x: 4 * (x.sin() ** 2).sum())(x)
    assert_close(grad(func)(x), expected)
    assert_close(vmap(grad(func))(x), expected)


def test_once_differentiable_is_refused_twice() -> None:
    class Once(Base):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            return cotangent * ctx.saved_tensors[0].cos()

    x = data()[0][0]
    func = lambda x: Once.apply(x).sum()  # noqa: E731
    assert_close(grad(func)(x), x.cos())
    with pytest.raises(UsageError, match="once_differentiable"):
        jacrev(grad(func))(x)


def test_both_ways_of_batching_are_refused() -> None:
    class Both(WithVmap):
        generate_vmap_rule = True

    x, y = data()
    with pytest.raises(UsageError, match="generate_vmap_rule"):
        vmap(summed(Both))(x, y)


def test_captured_tensors_stay_tracked() -> None:
    x, y = data()
    y.requires_grad_()
    got = torch.autograd.grad(grad(summed(Split))(x, y).sum(), y)
    assert_close(got[0], 2 * 3 * x.exp())
    inside = lambda x: (x * Split.apply(y, 3.0, y)).sum()  # noqa: E731
    got = torch.autograd.grad(vmap(inside)(x).sum(), y)
    assert_close(got, torch.autograd.grad(inside(x.sum(0)), y))


def is_replaced() -> bool:
    """Tell whether torch's apply is another one now."""
    return torch.autograd.Function.__dict__["apply"] is not ORIGINAL


def test_apply_is_replaced_only_while_a_level_is_open() -> None:
    seen = []
    assert not is_replaced()
    vmap(lambda x: seen.append(is_replaced()) or x)(torch.ones(3))
    assert seen == [True]
    assert not is_replaced()
    with pytest.raises(ZeroDivisionError):
        vmap(lambda x: x * (1 // 0))(torch.ones(3))
    assert not is_replaced()


def test_another_thread_keeps_torchs_own_apply() -> None:
    """While this thread has a level open the other one has none, and torch records."""
    x, y = data()
    leaf = x.clone().requires_grad_()
    results: list[Tensor] = []

    def other() -> None:
        results.extend(torch.autograd.grad(summed(Combined)(leaf, y), leaf))

    def func(x: Tensor, y: Tensor) -> Tensor:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return summed(Combined)(x, y)  # type: ignore[no-any-return]

    assert_close(grad(func)(x, y), results[0] if results else double(grad(true)(x, y)))
    assert_close(results[0], 2 * grad(true)(x, y))
    assert not is_replaced()
