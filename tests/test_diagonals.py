"""laplacian, hessian_diag, jacobian_diag, divergence: values, trees, aux, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import (
    divergence,
    hessian,
    hessian_diag,
    jacobian_bands,
    jacobian_diag,
    laplacian,
    vmap,
)
from jaxtorch.errors import ArgumentError, UsageError
from tests.diagonal_cases import (
    CHUNKS,
    DOUBLE,
    WAYS,
    coupled,
    field,
    flat_hessian,
    flat_jacobian,
    randn,
    three,
)


@WAYS
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("func", [coupled, three])
def test_second_derivatives_equal_the_matrix(func: Any, shape: Any, way: Any) -> None:
    x = randn(*shape)
    diagonal = flat_hessian(func, x).diagonal(dim1=-2, dim2=-1)
    assert_close(way(laplacian(func))(x), diagonal.sum(-1))
    expected = diagonal.reshape(func(x).shape + shape)
    assert_close(way(hessian_diag(func))(x), expected)


@WAYS
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
def test_first_derivatives_equal_the_matrix(shape: Any, way: Any) -> None:
    x = randn(*shape)
    diagonal = flat_jacobian(field, x).diagonal()
    assert_close(way(jacobian_diag(field))(x), diagonal.reshape(shape))
    assert_close(way(divergence(field))(x), diagonal.sum())


@pytest.mark.parametrize("transform", [laplacian, hessian_diag, divergence])
def test_of_no_elements(transform: Any) -> None:
    func = torch.sin if transform is divergence else lambda x: x.sin().sum()
    got = transform(func)(randn(0))
    assert_close(got, randn(0) if transform is hessian_diag else torch.zeros_like(got))


def test_laplacian_of_radial_functions() -> None:
    x = randn(5)
    assert_close(laplacian(lambda x: x.norm())(x), 4 / x.norm())
    assert_close(
        laplacian(lambda x: x.norm() ** -3)(x), torch.tensor(0.0, dtype=DOUBLE)
    )


def test_against_finite_differences() -> None:
    x, h = randn(4), 1e-4
    steps = h * torch.eye(4, dtype=DOUBLE)
    second = [(coupled(x + e) - 2 * coupled(x) + coupled(x - e)) / h**2 for e in steps]
    assert_close(hessian_diag(coupled)(x), torch.stack(second), atol=1e-5, rtol=1e-5)
    first = [((field(x + e) - field(x - e)) @ e) / (2 * h**2) for e in steps]
    assert_close(jacobian_diag(field)(x), torch.stack(first), atol=1e-6, rtol=1e-6)


def test_a_plane_wave_has_complex_values() -> None:
    x, k = randn(3), randn(3)
    wave = lambda x: torch.exp(1j * (k @ x))  # noqa: E731
    assert_close(laplacian(wave)(x), -(k @ k) * wave(x))
    waves = lambda x: torch.exp(1j * k * x)  # noqa: E731
    assert_close(divergence(waves)(x), (1j * k * waves(x)).sum())


@pytest.mark.parametrize("transform", [laplacian, hessian_diag])
def test_linear_and_constant_functions_have_zeros(transform: Any) -> None:
    x, w = randn(3), randn(3)
    shape = () if transform is laplacian else (3,)
    zeros = torch.zeros(shape, dtype=DOUBLE)
    assert_close(transform(lambda x: w @ x)(x), zeros)
    assert_close(transform(lambda x: w.sum())(x), zeros)


def test_output_in_another_dtype() -> None:
    x = torch.randn(3)
    got = laplacian(lambda x: (x.double() ** 3).sum())(x)
    assert_close(got, 6 * x.double().sum())


@CHUNKS
def test_chunks(chunk_size: int | None) -> None:
    x = randn(5)
    options = {"chunk_size": chunk_size}
    for transform in (laplacian, hessian_diag):
        assert_close(transform(three, **options)(x), transform(three)(x))
    for transform in (jacobian_diag, divergence):
        assert_close(transform(field, **options)(x), transform(field)(x))


TREE = {"a": randn(2), "b": [randn(2, 2)]}


def of_tree(tree: Any) -> Tensor:
    return tree["a"].prod() * tree["b"][0].sin().sum() ** 2


def tree_field(tree: Any) -> Any:
    inside = tree["b"][0].sum()
    return {"a": tree["a"] ** 2 * inside, "b": [tree["b"][0].exp() * tree["a"].sum()]}


def test_trees() -> None:
    full = hessian(of_tree)(TREE)
    a = full["a"]["a"].diagonal()
    b = full["b"][0]["b"][0].reshape(4, 4).diagonal()
    assert_close(hessian_diag(of_tree)(TREE), {"a": a, "b": [b.reshape(2, 2)]})
    assert_close(laplacian(of_tree)(TREE), a.sum() + b.sum())
    got = jacobian_diag(tree_field)(TREE)
    a = 2 * TREE["a"] * TREE["b"][0].sum()
    b = TREE["b"][0].exp() * TREE["a"].sum()
    assert_close(got, {"a": a, "b": [b]})
    assert_close(divergence(tree_field)(TREE), a.sum() + b.sum())


def test_tree_of_outputs() -> None:
    x = randn(3)
    both = lambda x: {"s": coupled(x), "v": three(x)}  # noqa: E731
    expected = {"s": laplacian(coupled)(x), "v": laplacian(three)(x)}
    assert_close(laplacian(both)(x), expected)
    expected = {"s": hessian_diag(coupled)(x), "v": hessian_diag(three)(x)}
    assert_close(hessian_diag(both)(x), expected)


def test_argnums() -> None:
    x, y = randn(3), randn(3)
    func = lambda x, y: (x * y.sin()).sum() ** 2 + x.prod()  # noqa: E731
    by_x, by_y = (torch.func.hessian(func, i)(x, y).diagonal() for i in (0, 1))
    assert_close(hessian_diag(func, (1, 0))(x, y), (by_y, by_x))
    assert_close(hessian_diag(func, -1)(x, y), by_y)
    assert_close(laplacian(func, (0, 1))(x, y), by_x.sum() + by_y.sum())
    pair = lambda x, y: (x * y, x.sum() * y)  # noqa: E731
    assert_close(jacobian_diag(pair, (0, 1))(x, y), (y, x.sum().expand(3)))
    assert_close(divergence(lambda x, y: x * y, 1)(x, y), x.sum())


def test_keyword_arguments() -> None:
    func = lambda x, scale: scale * (x**2).sum()  # noqa: E731
    assert_close(laplacian(func)(torch.ones(2), scale=3.0), torch.tensor(12.0))


@CHUNKS
@pytest.mark.parametrize("transform", [laplacian, hessian_diag])
@pytest.mark.parametrize("func", [coupled, three])
def test_aux_of_second(func: Any, transform: Any, chunk_size: int | None) -> None:
    x = randn(3)
    with_aux = lambda x: (func(x), {"value": x.cos(), "name": 3})  # noqa: E731
    got, aux = transform(with_aux, has_aux=True, chunk_size=chunk_size)(x)
    assert_close(got, transform(func)(x))
    assert_close(aux, {"value": x.cos(), "name": 3})


@pytest.mark.parametrize("transform", [jacobian_diag, divergence])
def test_aux_of_first(transform: Any) -> None:
    x = randn(3)
    got, aux = transform(lambda x: (field(x), x.cos()), has_aux=True)(x)
    assert_close(got, transform(field)(x))
    assert_close(aux, x.cos())


def test_first_derivatives_run_the_function_once() -> None:
    calls = []
    func = lambda x: (calls.append(1), x * 2 if x[0] > 0 else x)[1]  # noqa: E731
    jacobian_diag(func, chunk_size=1)(torch.ones(3))
    divergence(func)(torch.ones(3))
    jacobian_bands(func)(torch.ones(3))
    assert len(calls) == 3


def test_randomness() -> None:
    x = randn(4)
    noisy = lambda x: (torch.rand_like(x).detach() * x**2).sum()  # noqa: E731
    torch.manual_seed(0)
    got = hessian_diag(noisy, randomness="same")(x)
    torch.manual_seed(0)
    assert_close(got, 2 * torch.rand_like(x))
    with pytest.raises(RuntimeError, match="randomness"):
        hessian_diag(noisy)(x)


ERRORS = {
    "vector to scalar": lambda: divergence(torch.sum)(randn(3)),
    "other shape": lambda: jacobian_diag(lambda x: x[:2])(randn(3)),
    "under vmap": lambda: vmap(jacobian_diag(lambda x: x[:2]))(randn(4, 3)),
    "other shape, bands": lambda: jacobian_bands(lambda x: x[:2])(randn(3)),
    "other keys": lambda: divergence(lambda t: {"b": t["a"]})({"a": randn(2)}),
    "other order of keys": lambda: divergence(lambda t: {"b": t["b"], "a": t["a"]})(
        {"a": randn(2), "b": randn(2)}
    ),
    "a tuple of one": lambda: divergence(lambda x: (x,))(randn(2)),
    "one of two": lambda: divergence(lambda x, y: x, (0, 1))(randn(2), randn(2)),
}


@pytest.mark.parametrize("case", ERRORS)
def test_outputs_must_have_the_form_of_the_inputs(case: str) -> None:
    with pytest.raises(
        UsageError, match=r"square Jacobian(.|\n)*Fix: return one tensor"
    ):
        ERRORS[case]()


@pytest.mark.parametrize("transform", [laplacian, hessian_diag, divergence])
def test_refused_inputs(transform: Any) -> None:
    with pytest.raises(UsageError, match="expected real inputs"):
        transform(torch.sin)(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(UsageError, match="has dtype"):
        transform(torch.sin)(torch.ones(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="out of range"):
        transform(torch.sin, 1)(torch.ones(2))
    with pytest.raises(UsageError, match="to be tensors, got int"):
        transform(lambda x: 3)(torch.ones(2))
    with pytest.raises(ArgumentError, match="chunk_size"):
        transform(torch.sin, chunk_size=0)
