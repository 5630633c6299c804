"""jacrev, jacfwd, hessian: shapes, trees, aux, chunks, dtypes; mode against mode."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import hessian, jacfwd, jacrev, jvp, vmap

MODES = pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
PAIRS = pytest.mark.parametrize(
    "second",
    [
        hessian,
        lambda f: jacfwd(jacrev(f)),
        lambda f: jacrev(jacfwd(f)),
        lambda f: jacrev(jacrev(f)),
        lambda f: jacfwd(jacfwd(f)),
    ],
    ids=["hessian", "fwd-rev", "rev-fwd", "rev-rev", "fwd-fwd"],
)


def reference(func: Callable[..., Any], *inputs: Tensor) -> Any:
    """Return the Jacobian by torch.autograd."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.autograd.functional.jacobian(func, inputs)


@MODES
@pytest.mark.parametrize("in_shape", [(), (1,), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("out_shape", [(), (1,), (2, 2)])
def test_shape_is_out_then_in(
    jacobian: Any, in_shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> None:
    x = torch.randn(in_shape)
    w = torch.randn(out_shape)
    got = jacobian(lambda x: w * x.sin().sum())(x)
    assert got.shape == out_shape + in_shape
    assert_close(got, torch.tensordot(w, x.cos(), 0))


@MODES
def test_elementwise(jacobian: Any) -> None:
    x = torch.randn(4)
    assert_close(jacobian(torch.sin)(x), torch.diag(x.cos()))


@MODES
@pytest.mark.parametrize("argnums", [0, 1, -1, (0,), (1, 0), (0, 1)])
def test_argnums(jacobian: Any, argnums: Any) -> None:
    x, y = torch.randn(2), torch.randn(3)
    func = lambda x, y: torch.outer(x, y.sin())  # noqa: E731
    every = reference(func, x, y)
    got = jacobian(func, argnums)(x, y)
    if isinstance(argnums, int):
        assert_close(got, every[argnums])
    else:
        assert_close(got, tuple(every[i] for i in argnums))


@MODES
def test_trees_of_outputs_outside_and_inputs_inside(jacobian: Any) -> None:
    tree = {"a": torch.randn(2), "b": [torch.randn(3)]}
    got = jacobian(lambda t: (t["a"].exp(), {"s": t["a"].sum() * t["b"][0]}))(tree)
    first, second = got
    assert_close(first, {"a": torch.diag(tree["a"].exp()), "b": [torch.zeros(2, 3)]})
    assert_close(second["s"]["a"], tree["b"][0].unsqueeze(1).expand(3, 2))
    assert_close(second["s"]["b"][0], torch.eye(3) * tree["a"].sum())


@MODES
def test_several_arguments_and_outputs(jacobian: Any) -> None:
    x, y = torch.randn(2), torch.randn(2)
    got = jacobian(lambda x, y: (x * y, x.sum(), y), (0, 1))(x, y)
    assert_close(got[0], (torch.diag(y), torch.diag(x)))
    assert_close(got[1], (torch.ones(2), torch.zeros(2)))
    assert_close(got[2], (torch.zeros(2, 2), torch.eye(2)))


@MODES
def test_output_that_does_not_depend_on_the_input(jacobian: Any) -> None:
    y = torch.randn(2)
    assert_close(jacobian(lambda x: y)(torch.randn(3)), torch.zeros(2, 3))
    assert_close(jacobian(lambda x, y: y, 0)(torch.randn(3), y), torch.zeros(2, 3))


@MODES
def test_aux(jacobian: Any) -> None:
    x = torch.randn(3)
    got, aux = jacobian(lambda x: (x.sin(), {"c": x.cos()}), has_aux=True)(x)
    assert_close(got, torch.diag(x.cos()))
    assert type(aux["c"]) is Tensor
    assert_close(aux["c"], x.cos())


@MODES
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_aux_that_is_no_tensor(jacobian: Any, chunk_size: int | None) -> None:
    func = lambda x: (x.sin(), "name")  # noqa: E731
    assert (
        jacobian(func, has_aux=True, chunk_size=chunk_size)(torch.ones(3))[1] == "name"
    )


@MODES
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 6, 7, 100])
def test_chunks(jacobian: Any, chunk_size: int) -> None:
    x, y = torch.randn(2, 2), torch.randn(2)
    func = lambda x, y: (x @ y, (x * y).sin())  # noqa: E731
    got = jacobian(func, (0, 1), chunk_size=chunk_size)(x, y)
    assert_close(got, jacobian(func, (0, 1))(x, y))


def test_rows_one_by_one_need_no_batching_rule() -> None:
    calls = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * x

    x = torch.randn(3)
    got = jacrev(lambda x: (calls.append(1), x * x)[1], chunk_size=1)(x)
    assert_close(got, torch.diag(2 * x))
    assert calls == [1]


@MODES
def test_keyword_arguments(jacobian: Any) -> None:
    x = torch.randn(2)
    assert_close(jacobian(lambda x, scale: x * scale)(x, scale=3.0), torch.eye(2) * 3)


@MODES
def test_dtype_float64(jacobian: Any) -> None:
    x = torch.randn(2, dtype=torch.float64)
    assert jacobian(torch.sin)(x).dtype is torch.float64


def test_dtype_where_the_function_changes_it() -> None:
    x = torch.ones(2)
    assert jacrev(lambda x: x.double())(x).dtype is torch.float32
    assert jacfwd(lambda x: x.double())(x).dtype is torch.float64


@PAIRS
def test_second_derivatives(second: Any) -> None:
    x = torch.randn(3, dtype=torch.float64)
    func = lambda x: (x.exp() * x.roll(1).sin()).sum()  # noqa: E731
    expected = torch.autograd.functional.hessian(func, x)
    assert_close(second(func)(x), expected)


@PAIRS
def test_second_derivatives_of_a_vector(second: Any) -> None:
    x = torch.randn(2, dtype=torch.float64)
    func = lambda x: torch.stack([x.prod(), x[0] ** 3, x.sin().sum()])  # noqa: E731
    rows = [
        torch.autograd.functional.hessian(lambda x, i=i: func(x)[i], x)
        for i in range(3)
    ]
    assert_close(second(func)(x), torch.stack(rows))


def test_hessian_of_several_arguments() -> None:
    x, y = torch.randn(2), torch.randn(3)
    got = hessian(lambda x, y: x.sum() ** 2 * y.prod(), (0, 1))(x, y)
    expected = torch.autograd.functional.hessian(
        lambda x, y: x.sum() ** 2 * y.prod(), (x, y)
    )
    assert_close(got, expected)


def test_hessian_of_a_pytree() -> None:
    tree = {"w": torch.randn(2), "b": torch.randn(())}
    got = hessian(lambda t: (t["w"] ** 2).sum() * t["b"])(tree)
    assert_close(got["w"]["w"], torch.eye(2) * 2 * tree["b"])
    assert_close(got["w"]["b"], 2 * tree["w"])
    assert_close(got["b"]["w"], 2 * tree["w"])
    assert_close(got["b"]["b"], torch.zeros(()))


def test_hessian_with_aux() -> None:
    x = torch.randn(2)
    got, aux = hessian(lambda x: ((x**3).sum(), x + 1), has_aux=True)(x)
    assert_close(got, torch.diag(6 * x))
    assert_close(aux, x + 1)


def test_hessian_in_chunks() -> None:
    x = torch.randn(5)
    func = lambda x: x.sin().sum() ** 2  # noqa: E731
    assert_close(hessian(func, chunk_size=2)(x), hessian(func)(x))


def test_batched_jacobian_and_hessian() -> None:
    x = torch.randn(4, 3)
    assert_close(vmap(jacrev(torch.sin))(x), torch.diag_embed(x.cos()))
    assert_close(vmap(jacfwd(torch.sin))(x), torch.diag_embed(x.cos()))
    cubes = vmap(hessian(lambda x: (x**3).sum()))(x)
    assert_close(cubes, torch.diag_embed(6 * x))


def test_jvp_of_a_jacobian() -> None:
    x, v = torch.randn(3), torch.randn(3)
    got = jvp(jacrev(torch.sin), (x,), (v,))[1]
    assert_close(got, torch.diag(-x.sin() * v))


@MODES
def test_function_runs_as_often_as_needed(jacobian: Any) -> None:
    calls = []
    jacobian(lambda x: (calls.append(1), x * 2)[1])(torch.ones(3))
    assert calls == [1]


@MODES
def test_control_flow_on_values(jacobian: Any) -> None:
    x = torch.tensor([1.0, -1.0])
    if jacobian is jacrev:
        got = jacobian(lambda x: x * 2 if x[0] > 0 else x)(x)
        assert_close(got, torch.eye(2) * 2)
    else:
        got = jacobian(lambda x: torch.where(x[0] > 0, x * 2, x))(x)
        assert_close(got, torch.eye(2) * 2)


def test_equals_torch_func() -> None:
    x, w = torch.randn(3), torch.randn(2, 3)
    func = lambda x, w: torch.tanh(w @ x)  # noqa: E731
    for ours, theirs in ((jacrev, torch.func.jacrev), (jacfwd, torch.func.jacfwd)):
        assert_close(ours(func, (0, 1))(x, w), theirs(func, (0, 1))(x, w))
    got = hessian(func, (0, 1))(x, w)
    assert_close(got, torch.func.hessian(func, (0, 1))(x, w))
