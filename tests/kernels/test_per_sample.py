"""Kernels of per-sample gradients of linear layers."""

import pytest
import torch

from jaxtorch.kernels import per_sample
from tests.kernels.harness import DTYPES, check, layouts, random

CONFIGS = per_sample.WEIGHT_CONFIGS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 3, 21])
def test_weight(length, dtype):
    check(
        "per_sample_weight",
        random(2, length, 70, dtype=dtype),
        random(2, length, 33, dtype=dtype),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_weight_configs(name):
    blocks = CONFIGS[name].blocks
    i, o = blocks["BLOCK_I"] + 3, blocks["BLOCK_O"] + 5
    check("per_sample_weight", random(2, 35, i), random(2, 35, o), config=CONFIGS[name])


@pytest.mark.parametrize(
    "shape",
    [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (1, 9, 1, 1)],  # B, T, I, O
)
def test_weight_of_no_size(shape):
    b, t, i, o = shape
    check("per_sample_weight", random(b, t, i), random(b, t, o))


@pytest.mark.parametrize("length", [2, 9])
def test_weight_of_any_strides(length):
    for _, a in layouts(random(2, length, 6)):
        for _, g in layouts(random(2, length, 5)):
            check("per_sample_weight", a, g)


def test_weight_of_extreme_values():
    a, g = random(2, 9, 6), random(2, 9, 5)
    a[0, 0, 0], a[0, 1, 1], a[1, 0, 0] = torch.inf, torch.nan, 1e38
    check("per_sample_weight", a, g)
