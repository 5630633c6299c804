"""Sparse tensors inside transforms, against torch.autograd and dense arithmetic."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, hessian, jacfwd, jvp, vjp, vmap

X = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
Y = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(3, 2)
S = torch.tensor([[0.0, 2.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64).to_sparse()

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "there and back": lambda x: x.to_sparse().to_dense(),
    "all elements": lambda x: x.to_sparse().to_dense(masked_grad=False),
    "hybrid": lambda x: x.to_sparse(1).to_dense(),
    "mask": lambda x: x.sparse_mask(S).to_dense(),
    "times a number": lambda x: (x.to_sparse() * 2).to_dense(),
    "square": lambda x: (x.to_sparse() * x.to_sparse()).to_dense(),
    "sum of two": lambda x: (x.to_sparse() + S).to_dense(),
    "dense and sparse": lambda x: x + x.to_sparse(),
    "product": lambda x: x.to_sparse() @ Y,
    "product from the right": lambda x: Y @ x.to_sparse(),
    "sparse.mm": lambda x: torch.sparse.mm(x.to_sparse(), Y),
    "transpose": lambda x: x.to_sparse().t().to_dense(),
    "sum": lambda x: x.to_sparse().sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pull_back(name: str) -> None:
    func = FUNCTIONS[name]
    leaf = X.clone().requires_grad_()
    expected = func(leaf)
    cotangent = torch.randn_like(expected)
    value, pull = vjp(func, X)
    assert_close(value, expected.detach())
    assert value.layout is torch.strided
    assert_close(pull(cotangent)[0], torch.autograd.grad(expected, leaf, cotangent)[0])


def test_what_is_not_stored_has_no_derivative_of_any_order() -> None:
    def func(x: Tensor) -> Tensor:
        return x.to_sparse().to_dense().sin().sum()

    assert_close(grad(func)(X), torch.where(X != 0, X.cos(), 0.0))
    curved = torch.where(X != 0, -X.sin(), 0.0).flatten().diag()
    assert_close(hessian(func)(X).reshape(6, 6), curved)
    assert_close(vmap(hessian(func))(X[None]).reshape(6, 6), curved)


@pytest.mark.parametrize("dim", [0, 1])
def test_each_example_stores_its_own_elements(dim: int) -> None:
    def func(x: Tensor) -> Tensor:
        return (x.to_sparse() * 2).to_dense() + 1

    assert_close(vmap(func, dim, dim, strict=True)(X), 2 * X + 1)
    _, pull = vjp(vmap(func, dim, dim), X)
    assert_close(pull(X + 1)[0], torch.where(X != 0, 2 * X + 2, 0.0))


def test_sparse_results_and_tangents() -> None:
    out = vmap(lambda x: x.to_sparse())(X)
    assert_close(out, X.to_sparse())
    value, pull = vjp(lambda x: x.to_sparse(), X)
    assert_close(value, X.to_sparse())
    assert_close(pull(X.to_sparse())[0], X)
    value, pushed = jvp(lambda x: x.to_sparse(), (X,), (X + 1,))
    assert_close(value, X.to_sparse())
    assert_close(pushed, (X + 1).to_sparse())


def test_sparse_inputs() -> None:
    value, pull = vjp(lambda s: s.to_dense().sin(), S)
    assert value.layout is torch.strided
    assert_close(value, S.to_dense().sin())
    ones = torch.ones_like(value)
    assert_close(pull(ones)[0], (S.to_dense().cos() * ones).sparse_mask(S))


@pytest.mark.parametrize("inside", [False, True])
def test_a_constant_matrix(inside: bool) -> None:
    dense = torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    captured = dense.to_sparse()

    def func(x: Tensor) -> Tensor:
        made = torch.eye(2, dtype=x.dtype).to_sparse() + captured
        return torch.sparse.mm(made if inside else captured, x).sin()

    x = torch.randn(4, 2, 3, dtype=torch.float64)
    dense = torch.eye(2, dtype=x.dtype) + dense if inside else dense
    expected = (dense @ x).sin()
    assert_close(vmap(func, strict=True)(x), expected)
    assert_close(grad(lambda x: func(x).sum())(x[0]), dense.t() @ (dense @ x[0]).cos())
    rows = [jacfwd(lambda x: (dense @ x).sin())(own) for own in x]
    assert_close(vmap(jacfwd(func))(x), torch.stack(rows))
