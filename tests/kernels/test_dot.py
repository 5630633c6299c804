"""Kernels of dot products and norms of rows."""

import pytest
import torch

import jaxtorch
from jaxtorch.kernels import dot
from tests.kernels.harness import DEVICE, DTYPES, check, graph_of, layouts, random

CONFIGS = dot.CONFIGS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5, 70), (7, 1, 3), (2, 3, 2100)])
def test_dot(shape, dtype):
    b, m, n = shape
    check("rows_dot", random(b, m, n, dtype=dtype), random(b, n, dtype=dtype))
    check("rows_norm", random(b, n, dtype=dtype))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name):
    blocks = CONFIGS[name].blocks
    m, n = blocks["BLOCK_R"] + 1, blocks["BLOCK_N"] + 3
    check("rows_dot", random(2, m, n), random(2, n), config=CONFIGS[name])
    check("rows_norm", random(m, n), config=CONFIGS[name])


def test_long_rows_are_shared_by_programs(monkeypatch):
    monkeypatch.setattr(dot, "PROGRAMS", 6)
    length = 9 * CONFIGS["rows"].blocks["BLOCK_N"] + 5
    a, x = random(1, 2, length), random(1, length)
    check("rows_dot", a, x, config=CONFIGS["rows"])
    check("rows_norm", a[0].half(), config=CONFIGS["rows"])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1)])
def test_no_size(shape):
    b, m, n = shape
    check("rows_dot", random(b, m, n), random(b, n))
    check("rows_norm", random(b, n))


@pytest.mark.parametrize("length", [6, 40])
def test_any_strides(length):
    for _, a in layouts(random(2, 3, length)):
        check("rows_norm", a[:, 1])
        for _, x in layouts(random(2, length)):
            check("rows_dot", a, x)


def test_extreme_values():
    a, x = random(3, 4, 6), random(3, 6)
    a[0, 0, 0], a[0, 1, 1], a[1, 0, 0], x[2, 0] = torch.inf, torch.nan, 1e38, 0.0
    check("rows_dot", a, x)
    rows = torch.tensor([[torch.inf, 1], [torch.nan, 1], [0, 0], [3e4, 4e4]])
    check("rows_norm", rows.to(DEVICE))
    half = torch.full((1, 50), 4096.0, dtype=torch.float16, device=DEVICE)
    assert check("rows_norm", half).isfinite().all()


@pytest.mark.parametrize(
    ("func", "shapes", "kernel"),
    [
        (torch.dot, ((4, 70), (4, 70)), "rows_dot"),
        (torch.mv, ((4, 5, 70), (4, 70)), "rows_dot"),
        (lambda a, x: a.mT @ x, ((4, 70, 5), (4, 70)), "rows_dot"),
        (lambda a, x: a @ x, ((4, 5, 70), (4, 70, 1)), "rows_dot"),
        (lambda x, a: x @ a, ((4, 1, 70), (4, 70, 5)), "rows_dot"),
        (lambda a, x: torch.linalg.norm(a) * x, ((4, 5, 7), (4, 7)), "rows_norm"),
    ],
    ids=["dot", "mv", "transposed", "column", "row", "norm"],
)
def test_reached_by_vmap(func, shapes, kernel):
    args = [random(*s) for s in shapes]
    mapped = jaxtorch.vmap(func)
    with jaxtorch.kernels_mode("off"):
        expected = mapped(*args)
    with jaxtorch.kernels_mode("force"):
        assert f"jaxtorch.{kernel}.default" in graph_of(mapped, *args)
        torch.testing.assert_close(mapped(*args), expected)
