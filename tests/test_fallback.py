"""Operators without a rule: the loop, decompositions, custom operators."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jvp, vmap
from jaxtorch.errors import DataDependentError, MissingRuleError

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


@pytest.fixture(scope="module")
def cube() -> Iterator[Any]:
    """A custom operator with a derivative for torch.autograd and no batching rule."""

    @torch.library.custom_op("jaxtorch_test_fallback::cube", mutates_args=())
    def cube(x: Tensor, scale: float) -> Tensor:
        return x * x * x * scale

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1]

    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * 3 * x * x * ctx.scale, None

    cube.register_autograd(backward, setup_context=setup_context)
    return cube


@pytest.mark.parametrize("in_dim", [0, 1])
def test_custom_operator_under_vmap(cube: Any, in_dim: int) -> None:
    x = torch.randn(2, 2)
    out = vmap(lambda x: cube(x, 2.0), in_dims=in_dim, out_dims=in_dim)(x)
    assert type(out) is Tensor
    assert_close(out, 2 * x**3)


def test_custom_operator_under_two_maps(cube: Any) -> None:
    x = torch.randn(2, 3, 4)
    out = vmap(vmap(lambda x: cube(x, 2.0)), in_dims=1, out_dims=1)(x)
    assert type(out) is Tensor
    assert_close(out, 2 * x**3)


def test_custom_operator_under_vmap_and_torch_autograd(cube: Any) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    out = vmap(lambda x: cube(x, 2.0))(x)
    assert type(out) is Tensor
    (got,) = torch.autograd.grad(out.sum(), x)
    assert_close(got, 6 * x**2)


def test_custom_operator_of_a_captured_parameter(cube: Any) -> None:
    w = torch.randn(3, requires_grad=True)
    x = torch.randn(2, 3)
    out = vmap(lambda x: x * cube(w, 2.0))(x)
    (got,) = torch.autograd.grad(out.sum(), w)
    assert_close(got, 6 * w**2 * x.sum(0))


def test_loop_over_an_empty_batch_is_refused(cube: Any) -> None:
    with pytest.raises(MissingRuleError, match="batch is empty"):
        vmap(lambda x: cube(x, 2.0))(torch.ones(0, 3))


def test_loop_over_several_outputs_and_lists() -> None:
    library = torch.library.Library("jaxtorch_test_lists", "DEF")
    library.define("ends(Tensor[] xs, Tensor? y) -> (Tensor, Tensor)")
    library.impl("ends", lambda xs, y: (xs[0] + 1, xs[-1] * 2), "CPU")
    ends = torch.ops.jaxtorch_test_lists.ends
    x, y = torch.randn(3, 2), torch.randn(2)
    first, last = vmap(lambda x: ends([x, y], None))(x)
    assert_close(first, x + 1)
    assert_close(last, (y * 2).expand(3, 2))


def test_loop_of_results_of_other_shapes_is_refused() -> None:
    library = torch.library.Library("jaxtorch_test_shapes", "DEF")
    library.define("positive(Tensor x) -> Tensor")
    library.impl("positive", lambda x: x[x > 0], "CPU")
    positive = torch.ops.jaxtorch_test_shapes.positive
    with pytest.raises((DataDependentError, RuntimeError)):
        vmap(positive)(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))


def test_strict_refuses_the_loop_of_an_outer_map(cube: Any) -> None:
    inner = vmap(lambda x: cube(x, 2.0))
    with pytest.raises(MissingRuleError, match="strict=True"):
        vmap(inner, strict=True)(torch.ones(2, 2, 2))


def test_decomposition_that_writes_what_it_made() -> None:
    x = torch.randn(2, 3)
    flipped = lambda x: torch.block_diag(x.reshape(1, 3), x[:1].reshape(1, 1))  # noqa: E731
    expected = torch.stack([flipped(e) for e in x])
    assert_close(vmap(flipped)(x), expected)
    _, pushed = jvp(flipped, (x[0],), (x[1],))
    assert_close(pushed, flipped(x[1]))
    assert_close(grad(lambda x: flipped(x).sum())(x[0]), torch.tensor([2.0, 1.0, 1.0]))
