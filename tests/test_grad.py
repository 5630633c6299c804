"""grad, grad_and_value, value_and_grad: argnums, pytrees, aux, dtypes, control flow."""

import collections
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import jaxtorch
from jaxtorch import grad, grad_and_value, value_and_grad

needs_values = pytest.mark.eager(reason="Python reads the value of a tensor")

Point = collections.namedtuple("Point", ["x", "y"])


def reference(func: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients by torch.autograd."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(func(*leaves), leaves, materialize_grads=True)


def test_gradient_of_a_chain() -> None:
    x = torch.randn(3, 2)
    func = lambda x: (x.sin() * x.exp() + x**3).sum()  # noqa: E731
    assert_close(grad(func)(x), reference(func, x)[0])


def test_gradient_of_a_scalar() -> None:
    assert_close(grad(torch.sin)(torch.tensor(0.5)), torch.tensor(0.5).cos())


@pytest.mark.parametrize(
    "argnums",
    [0, 1, 2, -1, -3, (0,), (1,), (0, 2), (2, 0), (-1, 0), (0, 1, 2), (1, -3)],
)
def test_argnums(argnums: int | tuple[int, ...]) -> None:
    inputs = tuple(torch.randn(2) for _ in range(3))
    func = lambda x, y, z: (x * y.sin() * z.exp()).sum()  # noqa: E731
    every = reference(func, *inputs)
    got = grad(func, argnums)(*inputs)
    if isinstance(argnums, int):
        assert_close(got, every[argnums])
    else:
        assert type(got) is tuple
        assert_close(got, tuple(every[i] for i in argnums))


def test_pytree_arguments_keep_their_structure() -> None:
    tree = {"w": torch.randn(2), "p": Point(torch.randn(2), [torch.randn(2)])}
    func = lambda t: (t["w"] * t["p"].x * t["p"].y[0]).sum()  # noqa: E731
    got = grad(func)(tree)
    assert type(got["p"]) is Point
    assert type(got["p"].y) is list
    assert_close(got["w"], tree["p"].x * tree["p"].y[0])
    assert_close(got["p"].y[0], tree["w"] * tree["p"].x)


def test_ordered_dict_argument() -> None:
    tree = collections.OrderedDict(b=torch.ones(2), a=torch.zeros(2))
    got = grad(lambda t: (t["a"] * 2 + t["b"] * 3).sum())(tree)
    assert type(got) is collections.OrderedDict
    assert list(got) == ["b", "a"]


def test_unused_inputs_have_gradients_of_zeros() -> None:
    x, y = torch.randn(2), torch.randn(3)
    got = grad(lambda x, y: x.sum(), (0, 1))(x, y)
    assert_close(got, (torch.ones(2), torch.zeros(3)))
    assert_close(grad(lambda x: torch.zeros(()))(x), torch.zeros(2))
    assert_close(grad(lambda x: y.sum())(x), torch.zeros(2))


def test_integer_output_has_a_gradient_of_zeros() -> None:
    assert_close(grad(lambda x: torch.tensor(3))(torch.ones(2)), torch.zeros(2))


def test_keyword_arguments_are_not_differentiated() -> None:
    x, w = torch.randn(3), torch.randn(3)
    assert_close(grad(lambda x, *, w: (x * w).sum())(x, w=w), w)


def test_other_arguments_may_be_anything() -> None:
    x = torch.randn(3)
    got = grad(lambda x, how, n: (x * n).sum() if how == "times" else x.sum())(
        x, "times", 4
    )
    assert_close(got, torch.full((3,), 4.0))


def test_value() -> None:
    x = torch.randn(3)
    func = lambda x: x.square().sum()  # noqa: E731
    gradient, value = grad_and_value(func)(x)
    assert_close(gradient, 2 * x)
    assert_close(value, x.square().sum())
    assert_close(value_and_grad(func)(x), (value, gradient))


def test_value_and_grad_are_plain_tensors() -> None:
    gradient, value = grad_and_value(lambda x: x.sum())(torch.ones(2))
    assert type(gradient) is Tensor
    assert type(value) is Tensor


def test_aux() -> None:
    x = torch.randn(3)
    func = lambda x: (x.square().sum(), {"twice": x * 2, "n": (x + 1,)})  # noqa: E731
    gradient, aux = grad(func, has_aux=True)(x)
    assert_close(gradient, 2 * x)
    assert_close(aux["twice"], x * 2)
    assert type(aux["twice"]) is Tensor
    gradient, (value, aux) = grad_and_value(func, has_aux=True)(x)
    assert_close(value, x.square().sum())
    assert_close(aux["n"][0], x + 1)
    (value, aux), gradient = value_and_grad(func, has_aux=True)(x)
    assert_close(gradient, 2 * x)


def test_aux_stays_on_the_outer_level() -> None:
    x = torch.tensor(0.3, dtype=torch.float64)

    def aux_of_gradient(x: Tensor) -> Tensor:
        return grad(lambda y: (y.sin(), y.exp()), has_aux=True)(x)[1]

    assert_close(grad(aux_of_gradient)(x), x.exp())


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_higher_derivatives(order: int) -> None:
    x = torch.tensor(0.7, dtype=torch.float64)
    func: Any = torch.sin
    for _ in range(order):
        func = grad(func)
    cycle = [torch.sin, torch.cos, lambda x: -x.sin(), lambda x: -x.cos()]
    assert_close(func(x), cycle[order % 4](x))


def test_gradient_of_a_gradient_norm() -> None:
    x = torch.randn(3, dtype=torch.float64)
    func = lambda x: (x.exp() * x).sum()  # noqa: E731
    got = grad(lambda x: grad(func)(x).square().sum())(x)
    first, second = x.exp() * (x + 1), x.exp() * (x + 2)
    assert_close(got, 2 * first * second)


@needs_values
def test_control_flow_on_values() -> None:
    def func(x: Tensor) -> Tensor:
        while x.sum() < 10:
            x = x * 2
        return x.sum() if x[0] > 0 else -x.sum()

    assert_close(grad(func)(torch.ones(2)), torch.full((2,), 8.0))
    assert_close(grad(func)(torch.tensor([-1.0, 20.0])), -torch.ones(2))


@needs_values
def test_item_and_python_numbers() -> None:
    got = grad(lambda x: x.sum() * x[0].item() * int(x[1]) * float(x[0]))(
        torch.tensor([2.0, 3.0])
    )
    assert_close(got, torch.full((2,), 12.0))


@needs_values
def test_tensor_to_list_and_bool() -> None:
    x = torch.tensor([1.0, 2.0])
    got = grad(lambda x: x.sum() * sum(x.tolist()) * bool(x.any()))(x)
    assert_close(got, torch.full((2,), 3.0))


@needs_values
def test_text_of_values() -> None:
    x = torch.tensor([1.25, 2.0])
    seen = []
    got = grad(lambda x: (seen.append(f"{x[0]:.1f}"), x.sum())[1])(x)
    assert_close(got, torch.ones(2))
    assert seen == ["1.2"]


@needs_values
def test_boolean_mask_and_nonzero() -> None:
    x = torch.tensor([1.0, -2.0, 3.0])
    assert_close(
        grad(lambda x: x[x > 0].square().sum())(x), torch.tensor([2.0, 0.0, 6.0])
    )
    got = grad(lambda x: x[x.nonzero()[0]].sum())(x)
    assert_close(got, torch.tensor([1.0, 0.0, 0.0]))


def test_detach_cuts() -> None:
    x = torch.randn(3)
    assert_close(grad(lambda x: (x * x.detach()).sum())(x), x)


def test_detach_cuts_all_levels_above_it() -> None:
    x = torch.tensor(2.0)
    assert_close(grad(grad(lambda x: x**2 * x.detach()))(x), torch.tensor(4.0))


def test_float64_and_float16_keep_their_dtype() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        x = torch.ones(2, dtype=dtype)
        assert grad(lambda x: (x * x).sum())(x).dtype is dtype


def test_changes_of_dtype_inside() -> None:
    x = torch.randn(3)
    got = grad(lambda x: (x.double().sin() * x.half().float()).sum())(x)
    assert got.dtype is torch.float32
    x64 = x.double()
    assert_close(got, (x64.cos() * x64 + x64.sin()).float(), rtol=1e-2, atol=1e-2)


def test_complex_input() -> None:
    x = torch.randn(3, dtype=torch.complex128)
    func = lambda x: (x * x.conj()).real.sum() + (x**2).imag.sum()  # noqa: E731
    assert_close(grad(func)(x), reference(func, x)[0])


def test_gradient_of_a_module_through_captured_parameters() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(2, 3)
    func = lambda x: module(x).sum()  # noqa: E731
    assert_close(grad(func)(x).detach(), reference(func, x)[0])


def test_same_tensor_twice() -> None:
    x = torch.randn(3)
    assert_close(grad(lambda x, y: (x * y).sum(), (0, 1))(x, x), (x, x))


def test_views_and_reshapes() -> None:
    x = torch.randn(2, 6)

    def func(x: Tensor) -> Tensor:
        a, b = x.reshape(3, 4).split([1, 3])
        return (a.T @ b[:1] * x.view(-1)[:16].view(4, 4)[::1]).sum()

    func2 = lambda x: (x.T.reshape(3, 4)[1:, ::2].unsqueeze(0) ** 2).sum()  # noqa: E731
    assert_close(grad(func2)(x), reference(func2, x)[0])
    y = torch.randn(4, 6)
    func3 = lambda x: (x.view(-1)[:16].view(4, 4) * x[:, :4].mT).sum()  # noqa: E731
    assert_close(grad(func3)(y), reference(func3, y)[0])


def test_outputs_of_several_results() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    func = lambda x: x.max(1).values.sum() + x.sort(0).values[0].exp().sum()  # noqa: E731
    assert_close(grad(func)(x), reference(func, x)[0])


def test_loss_of_a_classifier() -> None:
    x, w = torch.randn(5, 3), torch.randn(4, 3)
    target = torch.tensor([0, 3, 1, 1, 2])
    func = lambda x, w: F.cross_entropy(x @ w.T, target)  # noqa: E731
    assert_close(grad(func, (0, 1))(x, w), reference(func, x, w))


def test_partial_and_name() -> None:
    def loss(scale: float, x: Tensor) -> Tensor:
        """Weigh."""
        return (x * scale).sum()

    assert_close(
        grad(functools.partial(loss, 3.0))(torch.ones(2)), torch.full((2,), 3.0)
    )
    assert grad(loss).__name__ == "loss"
    assert grad(loss).__doc__ == "Weigh."


def test_equals_torch_func() -> None:
    x = torch.randn(3, 3)
    func = lambda x: (x @ x.T).tanh().logsumexp((0, 1))  # noqa: E731
    assert_close(grad(func)(x), torch.func.grad(func)(x))
    mine, theirs = jaxtorch.hessian(func)(x), torch.func.hessian(func)(x)
    assert_close(mine, theirs)
