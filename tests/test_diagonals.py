"""laplacian, hessian_diag, jacobian_diag, divergence, jacobian_bands."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import (
    divergence,
    functional_call,
    grad,
    hessian,
    hessian_diag,
    jacobian_bands,
    jacobian_diag,
    jacrev,
    jit,
    jvp,
    laplacian,
    vmap,
)
from jaxtorch.errors import ArgumentError, DataDependentError, UsageError
from tests.live_bytes import peak_bytes

DOUBLE = torch.float64
CHUNKS = pytest.mark.parametrize("chunk_size", [None, 1, 2, 4, 100])
WAYS = pytest.mark.parametrize("way", [lambda f: f, jit], ids=["eager", "jit"])


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def coupled(x: Tensor) -> Tensor:
    """Every entry of the Hessian differs from zero."""
    return torch.tanh(x.flatten().cumsum(0)).prod() + x.sin().sum() ** 2


def field(x: Tensor) -> Tensor:
    """Every entry of the Jacobian differs from zero."""
    return (x.sum() * x).sin() + x.flatten().cumsum(0).reshape(x.shape) ** 2


def three(x: Tensor) -> Tensor:
    """Several outputs, in two dims."""
    return torch.stack([coupled(x), x.prod(), x.exp().sum()]).reshape(3, 1)


def tridiagonal(x: Tensor) -> Tensor:
    """A residual of which each entry sees its neighbours."""
    padded = torch.nn.functional.pad(x, (1, 1))
    return x.sin() * padded[2:] ** 2 + padded[:-2].exp()


def flat_hessian(func: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``[*out, n, n]`` by torch.func."""
    full = torch.func.jacrev(torch.func.jacrev(func))(x)
    return full.reshape(*func(x).shape, x.numel(), x.numel())


def flat_jacobian(func: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``[n, n]`` by torch.func."""
    return torch.func.jacrev(func)(x).reshape(x.numel(), x.numel())


def bands_of(func: Any, x: Tensor, lower: int, upper: int) -> Tensor:
    """The bands entry by entry, from the matrix of torch.func."""
    dense, n = flat_jacobian(func, x), x.numel()
    zero = torch.zeros((), dtype=x.dtype)
    rows = [
        [dense[j - k, j] if 0 <= j - k < n else zero for j in range(n)]
        for k in range(upper, -lower - 1, -1)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def mlp(*sizes: int, dtype: torch.dtype = DOUBLE) -> Callable[[Tensor], Tensor]:
    """Return tanh layers of fixed weights."""
    layers = [
        (torch.randn(o, i, dtype=dtype) / i**0.5, torch.randn(o, dtype=dtype))
        for i, o in itertools.pairwise(sizes)
    ]

    def network(x: Tensor) -> Tensor:
        for weight, bias in layers[:-1]:
            x = torch.tanh(torch.nn.functional.linear(x, weight, bias))
        return torch.nn.functional.linear(x, *layers[-1])

    return network


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


def largest(lowered: Any) -> int:
    """Return the most elements of any tensor that a staged function computes."""
    return max(
        value.numel()
        for node in lowered.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor)
    )


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


@WAYS
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("widths", [(1, 1), (0, 0), (2, 1), (0, 2), (3, 4)])
def test_bands_equal_the_matrix(n: int, widths: tuple[int, int], way: Any) -> None:
    lower, upper = widths
    weight = randn(n, n).tril(upper).triu(-lower)
    func = lambda x: torch.sin(weight @ x)  # noqa: E731
    x = randn(n)
    got = way(jacobian_bands(func, lower, upper))(x)
    assert_close(got, bands_of(func, x, lower, upper))
    assert_close(jacobian_bands(func, lower, upper, check=True)(x), got)


def test_bands_of_other_shapes() -> None:
    x = randn(2, 3)
    func = lambda x: x.flatten().cumsum(0).diff(prepend=x.new_zeros(1)).reshape(2, 3)  # noqa: E731
    expected = torch.tensor([[0.0], [1.0], [0.0]], dtype=DOUBLE).expand(3, 6)
    assert_close(jacobian_bands(func)(x), expected)
    assert jacobian_bands(torch.sin, 2, 1, check=True)(randn(0)).shape == (4, 0)
    assert jacobian_bands(torch.sin)(randn()).shape == (3, 1)


def test_newton_by_a_banded_solver() -> None:
    n = 50
    source = torch.linspace(0, 3, n, dtype=DOUBLE)

    def residual(u: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(u, (1, 1))
        return padded[2:] - 2 * u + padded[:-2] - 0.1 * u**3 + source

    u = torch.zeros(n, dtype=DOUBLE)
    for _ in range(20):
        bands = jacobian_bands(residual)(u).numpy()
        u = u - torch.from_numpy(
            scipy.linalg.solve_banded((1, 1), bands, residual(u).numpy())
        )
    assert residual(u).abs().max() < 1e-10


def test_bands_take_as_many_directions_as_there_are_bands() -> None:
    x = torch.randn(4096)
    lowered = jit(jacobian_bands(tridiagonal)).lower(x)
    assert largest(lowered) == 3 * 4096
    assert peak_bytes(jacobian_bands(tridiagonal), x) < 40 * x.nbytes


def test_entries_outside_the_bands_are_found() -> None:
    x = randn(8)
    far = lambda x: tridiagonal(x) + 1e-3 * x.roll(3)  # noqa: E731
    jacobian_bands(far)(x)
    with pytest.raises(ArgumentError, match="outside of the bands"):
        jacobian_bands(far, check=True)(x)
    with pytest.raises(ArgumentError, match="outside of the bands"):
        jacobian_bands(tridiagonal, 1, 0, check=True)(x)
    jacobian_bands(tridiagonal, 2, 2, check=True)(x)
    checked = grad(lambda x: jacobian_bands(tridiagonal, check=True)(x).sum())(x)
    assert_close(checked, grad(lambda x: jacobian_bands(tridiagonal)(x).sum())(x))


@pytest.mark.parametrize("dtypes", [(torch.float32, DOUBLE), (DOUBLE, torch.float32)])
def test_check_allows_for_rounding(dtypes: Any) -> None:
    func = lambda x: torch.exp(3 * tridiagonal(x)).to(dtypes[1])  # noqa: E731
    got = jacobian_bands(func, check=True)(torch.randn(2000, dtype=dtypes[0]))
    assert got.dtype == dtypes[1]


def test_check_draws_no_number_of_the_users() -> None:
    state = torch.get_rng_state()
    jacobian_bands(tridiagonal, check=True)(torch.ones(4))
    assert torch.equal(torch.get_rng_state(), state)


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


def test_refused_bands() -> None:
    with pytest.raises(ArgumentError, match="upper should be 0 or greater, got -1"):
        jacobian_bands(torch.sin, 0, -1)
    with pytest.raises(UsageError, match="one differentiated tensor, got 2"):
        jacobian_bands(lambda x, y: (x, y), argnums=(0, 1))(randn(2), randn(2))
    for way, x in ((vmap, randn(2, 3)), (jit, randn(3))):
        with pytest.raises(DataDependentError):
            way(jacobian_bands(torch.sin, check=True))(x)
