"""Diagonals and traces under other transforms, in jit, and the memory they take."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import (
    divergence,
    functional_call,
    grad,
    hessian_diag,
    jacobian_bands,
    jacobian_diag,
    jacrev,
    jit,
    jvp,
    laplacian,
    vmap,
)
from tests.diagonal_cases import (
    WAYS,
    bands_of,
    coupled,
    field,
    flat_hessian,
    flat_jacobian,
    largest,
    mlp,
    randn,
    three,
    tridiagonal,
)
from tests.live_bytes import peak_bytes


@WAYS
def test_under_vmap(way: Any) -> None:
    xs = randn(3, 4)
    for transform, func in (
        (laplacian, coupled),
        (laplacian, three),
        (hessian_diag, coupled),
        (jacobian_diag, field),
        (divergence, field),
        (jacobian_bands, tridiagonal),
    ):
        one_by_one = torch.stack([transform(func)(x) for x in xs])
        assert_close(way(vmap(transform(func)))(xs), one_by_one)


DERIVATIVES = {
    "laplacian": (laplacian(coupled), lambda x: flat_hessian(coupled, x).trace()),
    "laplacians": (
        laplacian(three),
        lambda x: flat_hessian(three, x).diagonal(dim1=2, dim2=3).sum(2),
    ),
    "hessian_diag": (
        hessian_diag(coupled),
        lambda x: flat_hessian(coupled, x).diagonal(),
    ),
    "jacobian_diag": (
        jacobian_diag(field),
        lambda x: flat_jacobian(field, x).diagonal(),
    ),
    "divergence": (divergence(field), lambda x: flat_jacobian(field, x).trace()),
    "bands": (
        jacobian_bands(tridiagonal),
        lambda x: bands_of(tridiagonal, x, 1, 1),
    ),
}


@WAYS
@pytest.mark.parametrize("case", DERIVATIVES)
def test_derivatives_of_them(case: str, way: Any) -> None:
    ours, matrix = DERIVATIVES[case]
    x, v = randn(4), randn(4)
    pushed = way(lambda x, v: jvp(ours, (x,), (v,)))(x, v)
    assert_close(pushed, torch.func.jvp(matrix, (x,), (v,)))
    pulled = way(grad(lambda x: ours(x).sin().sum()))(x)
    assert_close(pulled, torch.func.grad(lambda x: matrix(x).sin().sum())(x))


@WAYS
def test_a_pinn_learns_through_the_laplacian(way: Any) -> None:
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double()
    params = {name: p.detach() for name, p in net.named_parameters()}
    points = randn(5, 3)

    def u(params: Any, x: Tensor) -> Tensor:
        return functional_call(net, params, x).squeeze(-1)

    def loss(params: Any) -> Tensor:
        return vmap(laplacian(u, 1), (None, 0))(params, points).square().mean()

    def by_matrix(params: Any) -> Tensor:
        def trace(x: Tensor) -> Tensor:
            call = lambda x: torch.func.functional_call(net, params, x).squeeze()  # noqa: E731
            return torch.func.hessian(call)(x).trace()

        return torch.func.vmap(trace)(points).square().mean()

    assert_close(way(grad(loss))(params), torch.func.grad(by_matrix)(params))


def test_no_matrix_is_held_in_chunks() -> None:
    x, matrix = torch.randn(1000), 4 * 1000 * 1000
    energy = lambda x: torch.tanh(x * x.roll(1)).sum()  # noqa: E731
    for transform, func in (
        (laplacian, energy),
        (hessian_diag, energy),
        (jacobian_diag, field),
        (divergence, field),
    ):
        assert peak_bytes(transform(func, chunk_size=10), x) < matrix / 5
        assert peak_bytes(transform(func), x) > matrix  # the count sees matrices


def test_jit_makes_no_matrix_of_elementwise_chains() -> None:
    x = torch.randn(4096)
    chain = lambda x: torch.sin(torch.tanh(x) * 2)  # noqa: E731
    energy = lambda x: chain(x).sum()  # noqa: E731
    for transform, func in (
        (jacobian_diag, chain),
        (divergence, chain),
        (hessian_diag, energy),
        (laplacian, energy),
    ):
        lowered = jit(transform(func)).lower(x)
        assert largest(lowered) == 4096
        assert lowered.peak_bytes < 8 * x.nbytes
    assert largest(jit(jacrev(chain)).lower(x)) == 4096**2  # the count sees matrices


@pytest.mark.parametrize("outputs", [1, 3])
def test_jit_reaches_the_forward_laplacian(outputs: int) -> None:
    """n tangents through two hidden layers, one second derivative, the value."""
    n, width = 64, 256
    network = mlp(n, width, width, width, outputs, dtype=torch.float32)
    tangents = 2 * n * width**2 * 2
    value_and_second = 2 * (2 * width**2 * 2) + 2 * (n * width + width * outputs)
    flops = jit(laplacian(network)).lower(torch.randn(n)).flops
    assert flops <= 1.15 * (tangents + value_and_second)
    assert flops > tangents


def test_staged_values_of_the_network() -> None:
    network, x = mlp(6, 16, 16, 2), randn(6)
    assert_close(jit(laplacian(network))(x), laplacian(network)(x))
    assert_close(
        laplacian(network)(x), flat_hessian(network, x).diagonal(0, 1, 2).sum(1)
    )
