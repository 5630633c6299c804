"""Kernels of small, skinny and shared matrix products."""

import pytest
import torch

import jaxtorch
from jaxtorch.kernels import matmul
from jaxtorch.rules.fast import MANY
from tests.kernels.harness import DTYPES, check, graph_of, layouts, random

SMALL, SHARED = matmul.SMALL_CONFIGS, matmul.SHARED_CONFIGS
SHAPES = [(5, 7, 3), (17, 20, 9), (40, 50, 70), (4, 70, 40), (70, 4, 40), (130, 20, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_small(shape, dtype):
    m, n, k = shape
    check("small_bmm", random(9, m, k, dtype=dtype), random(9, k, n, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiny", (13, 11, 15)),
        ("quarter", (35, 33, 35)),
        ("square", (67, 61, 35)),
        ("float32 square", (67, 61, 35)),
        ("rows", (17, 131, 35)),
        ("columns", (131, 17, 35)),
    ],
)
def test_small_configs(name, shape):
    m, n, k = shape
    check("small_bmm", random(9, m, k), random(9, k, n), config=SMALL[name])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiny", (16, 16, 16)),
        ("quarter", (17, 5, 3)),
        ("quarter", (5, 5, 17)),
        ("square", (40, 33, 2)),
        ("rows", (8, 70, 8)),
        ("columns", (70, 16, 8)),
    ],
)
def test_the_config_of_a_shape(name, shape):
    config = matmul._small_config(*shape, torch.float16)
    assert config is SMALL[name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [3, 70])
def test_shared(columns, dtype):
    x, w = random(5, 27, 33, dtype=dtype), random(33, columns, dtype=dtype)
    check("shared_bmm", x, w)


@pytest.mark.parametrize("name", SHARED)
def test_shared_configs(name):
    blocks = SHARED[name].blocks
    k = blocks["BLOCK_K"] + 3
    x, w = random(3, blocks["BLOCK_R"] // 2, k), random(k, blocks["BLOCK_N"] + 5)
    check("shared_bmm", x, w, config=SHARED[name])


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("others", [3, 20])
def test_no_size(which, size, others):
    sizes = [others] * 4
    sizes[which] = size
    b, m, n, k = sizes
    check("small_bmm", random(b, m, k), random(b, k, n))
    check("shared_bmm", random(b, m, k), random(k, n))


@pytest.mark.parametrize("length", [6, 20])
def test_any_strides(length):
    for _, a in layouts(random(3, 4, length)):
        for _, b in layouts(random(3, length, 5)):
            check("small_bmm", a, b)
            check("shared_bmm", a, b[0])


@pytest.mark.parametrize("length", [6, 20])
def test_extreme_values(length):
    a, b = random(3, 4, length), random(3, length, 5)
    a[0, 0, 0], a[0, 1, 1], a[1, 0, 0], b[2, 0] = torch.inf, torch.nan, 1e38, 0.0
    check("small_bmm", a, b)
    check("shared_bmm", a, b[2])


def left_shared(x, w):
    return jaxtorch.vmap(lambda x: w @ x)(x)


@pytest.mark.parametrize(
    ("func", "shapes", "kernel"),
    [
        (jaxtorch.vmap(torch.mm), ((MANY, 3, 4), (MANY, 4, 5)), "small_bmm"),
        (
            jaxtorch.grad(lambda a, b: jaxtorch.vmap(torch.mm)(a, b).square().sum()),
            ((MANY, 3, 4), (MANY, 4, 5)),
            "small_bmm",
        ),
        (
            jaxtorch.vmap(torch.bmm, (1, None)),
            ((MANY, 3, 2, 4), (MANY, 4, 5)),
            "small_bmm",
        ),
        (left_shared, ((4, 20, 5), (7, 20)), "shared_bmm"),
    ],
    ids=["mm", "gradient", "bmm", "shared"],
)
def test_reached_by_transforms(func, shapes, kernel):
    args = [random(*s) for s in shapes]
    with jaxtorch.kernels_mode("off"):
        expected = func(*args)
    with jaxtorch.kernels_mode("force"):
        assert f"jaxtorch.{kernel}.default" in graph_of(func, *args)
        torch.testing.assert_close(func(*args), expected)


def test_rows_at_one_distance_stay_one_product():
    x, w = random(4, 5, 20), random(20, 7)
    with jaxtorch.kernels_mode("force"):
        names = graph_of(jaxtorch.vmap(torch.mm, (0, None)), x, w)
    assert not [name for name in names if "bmm" in name]
