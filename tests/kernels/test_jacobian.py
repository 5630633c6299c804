"""Kernels of Jacobians, and the calls in whose place jit puts them."""

import pytest
import torch

import jaxtorch
from jaxtorch.kernels import jacobian
from jaxtorch.staging.passes.jacobian import LONGEST_SUM, lower_jacobians
from jaxtorch.staging.passes.pipeline import Work, clean_up, drop_dead_code
from tests.kernels.harness import DTYPES, check, layouts, random

PUSH, GRAM, DIAGONAL = (
    jacobian.PUSH_CONFIGS,
    jacobian.GRAM_CONFIGS,
    jacobian.DIAGONAL_CONFIGS,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outs", [3, 70])
def test_push(outs, dtype):
    t, w, d = random(5, 27, 33), random(33, outs), random(5, outs)
    check("push_layer", t.to(dtype), w.to(dtype), d.to(dtype))


@pytest.mark.parametrize("name", PUSH)
def test_push_configs(name):
    blocks = PUSH[name].blocks
    k, n = blocks["BLOCK_K"] + 3, blocks["BLOCK_N"] + 5
    t = random(3, blocks["BLOCK_R"] // 2, k)
    check("push_layer", t, random(k, n), random(3, n), config=PUSH[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (40, 70), (9, 140)])
def test_gram(shape, dtype):
    j, d = random(2, *shape, dtype=dtype), random(2, shape[0], dtype=dtype)
    out = check("weighted_gram", j, d)
    assert torch.equal(out, out.mT)
    check("gram_diagonal", j, d)


@pytest.mark.parametrize("name", GRAM)
def test_gram_configs(name):
    blocks = GRAM[name].blocks
    o, n = blocks["BLOCK_O"] + 3, 2 * blocks["BLOCK_N"] + 5
    check("weighted_gram", random(2, o, n), random(2, o), config=GRAM[name])


@pytest.mark.parametrize("name", DIAGONAL)
def test_diagonal_configs(name):
    blocks = DIAGONAL[name].blocks
    o, n = blocks["BLOCK_O"] + 3, blocks["BLOCK_N"] + 5
    check("gram_diagonal", random(2, o, n), random(2, o), config=DIAGONAL[name])


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("which", range(4))
def test_no_size(which, size):
    sizes = [3, 4, 5, 6]
    sizes[which] = size
    b, s, k, n = sizes
    check("push_layer", random(b, s, k), random(k, n), random(b, n))
    check("weighted_gram", random(b, s, n), random(b, s))
    check("gram_diagonal", random(b, s, n), random(b, s))


def test_any_strides():
    for (_, j), (_, w), (_, d), (_, o) in zip(
        layouts(random(3, 4, 6)),
        layouts(random(6, 5)),
        layouts(random(3, 5)),
        layouts(random(3, 4)),
        strict=True,
    ):
        check("push_layer", j, w, d)
        check("weighted_gram", j, o)
        check("gram_diagonal", j, o)


def test_extreme_values():
    t, w, d = random(3, 4, 6), random(6, 5), random(3, 5)
    t[0, 0, 0], t[0, 1, 1], t[1, 0, 0], d[2, 0] = torch.inf, torch.nan, 1e18, 0.0
    check("push_layer", t, w, d)
    check("weighted_gram", t, random(3, 4))
    check("gram_diagonal", t, random(3, 4))


X, W, V = (5, 20), (24, 20), (24, 24)


def jacobian_of(activation):
    def layers(x, w, v):
        return activation(activation(x @ w.T) @ v.T)

    return jaxtorch.vmap(jaxtorch.jacfwd(layers), (0, None, None))


def in_jit(func, *args):
    """Return the calls after the pass, which follows the cleaning up of a graph."""
    graph = jaxtorch.make_graph(func)(*args)
    clean_up(graph, Work(graph, "full", fold=False, kernels=True))
    lower_jacobians(graph)
    drop_dead_code(graph)
    return [str(n.target) for n in graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize(
    "activation",
    [
        torch.tanh,
        torch.sigmoid,
        torch.relu,
        torch.sin,
        torch.nn.functional.gelu,
        torch.nn.functional.softplus,
        torch.nn.functional.leaky_relu,
        torch.nn.functional.hardtanh,
        torch.nn.functional.hardswish,
    ],
    ids=lambda f: f.__name__,
)
def test_jit_pushes_through_layers(activation):
    func = jacobian_of(activation)
    args = random(*X), random(*W), random(*V)
    with jaxtorch.kernels_mode("off"):
        expected = func(*args)
        assert not [n for n in in_jit(func, *args) if "jaxtorch" in n]
    with jaxtorch.kernels_mode("force"):
        assert in_jit(func, *args).count("jaxtorch.push_layer.default") == 1
        # Loops in C would round what goes into a sine of large numbers differently.
        staged = jaxtorch.jit(func, backend="python")
        torch.testing.assert_close(staged(*args), expected)


def test_jit_of_one_sample():
    def layers(x, b, w, v):
        return torch.tanh(torch.tanh(x @ w.T + b) @ v.T)

    func = jaxtorch.jacfwd(layers)
    args = random(20), random(24), random(*W), random(*V)
    with jaxtorch.kernels_mode("force"):
        assert "jaxtorch.push_layer.default" in in_jit(func, *args)
        torch.testing.assert_close(jaxtorch.jit(func)(*args), func(*args))


def test_no_identity_is_multiplied():
    args = random(*X), random(*W), random(*V)
    with jaxtorch.kernels_mode("force"):
        names = in_jit(jacobian_of(torch.tanh), *args)
    assert "aten.eye.default" not in names
    assert len([n for n in names if "mm" in n]) == 2


def test_long_sums_stay_with_cublas():
    args = random(2, 3), random(LONGEST_SUM + 1, 3), random(4, LONGEST_SUM + 1)
    with jaxtorch.kernels_mode("force"):
        names = in_jit(jacobian_of(torch.tanh), *args)
    assert "jaxtorch.push_layer.default" not in names


@pytest.mark.parametrize(
    "func",
    [
        lambda j, d: j.mT @ (d[:, :, None] * j),
        lambda j, d: (j * d[:, :, None]).mT @ j,
        lambda j, d: (j.mT * d[:, None, :]) @ j,
        lambda j, d: j.mT @ j,
        lambda j, d: j.mT @ (j.mT * d[:, None, :]).mT,
    ],
    ids=["right", "left", "left turned", "no weights", "right turned"],
)
def test_jit_multiplies_halves(func):
    j, d = random(3, 9, 20), random(3, 9)
    with jaxtorch.kernels_mode("force"):
        assert "jaxtorch.weighted_gram.default" in in_jit(func, j, d)
        torch.testing.assert_close(jaxtorch.jit(func)(j, d), func(j, d))

    def diagonal(j, d):
        return torch.diagonal(func(j, d), 0, 1, 2)

    with jaxtorch.kernels_mode("force"):
        names = in_jit(diagonal, j, d)
        assert "jaxtorch.gram_diagonal.default" in names
        assert "jaxtorch.weighted_gram.default" not in names
        torch.testing.assert_close(jaxtorch.jit(diagonal)(j, d), diagonal(j, d))


@pytest.mark.parametrize(
    "func",
    [
        lambda j, d: j.mT @ (d[:, None, :] * j),
        lambda j, d: (j * d[:, :, None]).mT @ (j * d[:, :, None]),
        lambda j, d: j.mT @ j.flip(1),
        lambda j, d: j @ j,
    ],
    ids=["columns", "both", "another", "not transposed"],
)
def test_what_is_not_symmetric_stays(func):
    j, d = random(3, 20, 20), random(3, 20)
    with jaxtorch.kernels_mode("force"):
        assert "jaxtorch.weighted_gram.default" not in in_jit(func, j, d)
