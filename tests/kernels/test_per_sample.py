"""Kernels of per-sample gradients of linear layers and of their weighted sum."""

import pytest
import torch

from jaxtorch.kernels import per_sample
from tests.kernels.harness import DTYPES, check, layouts, random

WEIGHT, SUM = per_sample.WEIGHT_CONFIGS, per_sample.SUM_CONFIGS
EMPTY = [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (1, 9, 1, 1)]  # B, T, I, O


def pair(b, t, i, o, dtype=torch.float32):
    """Draw activations and cotangents."""
    return random(b, t, i, dtype=dtype), random(b, t, o, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 3, 21])
def test_weight(length, dtype):
    check("per_sample_weight", *pair(2, length, 70, 33, dtype))


@pytest.mark.parametrize("name", WEIGHT)
def test_weight_configs(name):
    blocks = WEIGHT[name].blocks
    args = pair(2, 70, blocks["BLOCK_I"] + 3, blocks["BLOCK_O"] + 5)
    check("per_sample_weight", *args, config=WEIGHT[name])


@pytest.mark.parametrize(
    ("width", "dtype", "name"),
    [
        (64, torch.float16, "small"),
        (65, torch.bfloat16, "large"),
        (64, torch.float32, "float32 small"),
        (65, torch.float32, "float32 large"),
    ],
)
def test_the_choice_of_a_config(width, dtype, name):
    args = pair(1, 9, width, 65, dtype)
    assert per_sample.weight_config(*args) is WEIGHT[name]
    check("per_sample_weight", *args)


@pytest.mark.parametrize("shape", EMPTY)
def test_weight_of_no_size(shape):
    check("per_sample_weight", *pair(*shape))


@pytest.mark.parametrize("length", [2, 9])
def test_weight_of_any_strides(length):
    for _, a in layouts(random(2, length, 6)):
        for _, g in layouts(random(2, length, 5)):
            check("per_sample_weight", a, g)


@pytest.mark.parametrize("length", [2, 9])
def test_weight_of_extreme_values(length):
    a, g = pair(2, length, 6, 5)
    a[0, 0, 0], a[0, 1, 1], a[1, 0, 0] = torch.inf, torch.nan, 1e38
    check("per_sample_weight", a, g)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 3, 21])
def test_weighted_sum(length, dtype):
    check("per_sample_weighted_sum", *pair(3, length, 70, 33, dtype), random(3))


def test_weights_of_the_same_dtype():
    args = pair(3, 5, 6, 7, torch.bfloat16)
    check("per_sample_weighted_sum", *args, random(3, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", SUM)
def test_weighted_sum_configs(name):
    blocks = SUM[name].blocks
    args = pair(2, 70, blocks["BLOCK_I"] + 3, blocks["BLOCK_O"] + 5)
    check("per_sample_weighted_sum", *args, random(2), config=SUM[name])


def test_a_long_sum_is_split():
    """At least four blocks for each program."""
    check("per_sample_weighted_sum", *pair(70, 13, 6, 5), random(70))


def test_a_sum_of_many_tiles_is_not_split(monkeypatch):
    monkeypatch.setattr(per_sample, "PROGRAMS", 3)
    check("per_sample_weighted_sum", *pair(70, 13, 70, 70), random(70))


@pytest.mark.parametrize("shape", EMPTY)
def test_weighted_sum_of_no_size(shape):
    check("per_sample_weighted_sum", *pair(*shape), random(shape[0]))


def test_weighted_sum_of_any_strides():
    for _, a in layouts(random(2, 3, 6)):
        for _, g in layouts(random(2, 3, 5)):
            check("per_sample_weighted_sum", a, g, random(4)[::2])


def test_weighted_sum_of_extreme_values():
    a, g = pair(2, 9, 6, 5)
    a[0, 0, 0], a[0, 1, 1], a[1, 0, 2] = torch.inf, torch.nan, 1e38
    check("per_sample_weighted_sum", a, g, random(2))
    check("per_sample_weighted_sum", *pair(2, 9, 6, 5), random(2) * 0)
