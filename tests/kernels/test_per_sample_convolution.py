"""Kernels of per-sample gradients of convolutions, and of their squared norms."""

import pytest
import torch

from jaxtorch.kernels import per_sample_convolution
from tests.kernels.harness import DTYPES, check, layouts, random

CONFIGS = per_sample_convolution.CONFIGS
WEIGHT, NORM = "per_sample_convolution_weight", "per_sample_convolution_squared_norm"
PLAIN = ((3, 3), (1, 1), (1, 1), (1, 1))
GEOMETRIES = {
    "plain": PLAIN,
    "strided": ((3, 2), (2, 3), (1, 0), (1, 1)),
    "dilated": ((2, 3), (1, 1), (0, 2), (2, 1)),
    "pointwise": ((1, 1), (1, 1), (0, 0), (1, 1)),
    "padded beyond the image": ((2, 2), (1, 2), (3, 4), (1, 1)),
}


def pair(shape, outs, geometry, dtype=torch.float32):
    """Draw images [B, N, C, H, W], and cotangents of their convolution."""
    x = random(*shape, dtype=dtype)
    weight = torch.zeros(outs, shape[2], *geometry[0])
    y = torch.nn.functional.conv2d(
        torch.zeros(1, *shape[2:]), weight, None, *geometry[1:]
    )
    return x, random(*shape[:2], *y.shape[1:], dtype=dtype)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_geometries(name, geometry):
    check(name, *pair((2, 2, 3, 7, 5), 4, geometry), *geometry)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outs", [5, 70])
@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_dtypes(name, outs, dtype):
    out = check(name, *pair((2, 1, 9, 9, 8), outs, PLAIN, dtype), *PLAIN)
    assert out.dtype is (torch.float32 if name == NORM else dtype)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_configs(name, config):
    check(name, *pair((2, 1, 9, 9, 8), 133, PLAIN), *PLAIN, config=config)


@pytest.mark.parametrize("shape", [(0, 1, 2, 3, 3), (2, 0, 2, 3, 3), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_no_size(name, shape):
    x = random(*shape)
    check(name, x, random(*shape[:2], 4, *shape[3:]), *PLAIN)


@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_any_strides(name):
    x, g = pair((2, 1, 2, 3, 4), 3, PLAIN)
    for _, own in layouts(x):
        check(name, own, g, *PLAIN)
    for _, own in layouts(g):
        check(name, x, own, *PLAIN)


@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_extreme_values(name):
    x, g = (t.abs() for t in pair((3, 1, 2, 3, 4), 3, PLAIN))
    x[0, 0, 0, 0, 0], x[1, 0, 1, 2, 2] = torch.inf, torch.nan
    g[2] *= 1e15
    check(name, x, g, *PLAIN)


def test_the_derivative_of_a_convolution():
    x, g = pair((2, 2, 3, 7, 5), 4, PLAIN)
    weight = random(4, 3, 3, 3).requires_grad_()
    out = check(WEIGHT, x, g, *PLAIN)
    for own, image, cotangent in zip(out, x, g, strict=True):
        y = torch.nn.functional.conv2d(image, weight, None, *PLAIN[1:])
        torch.testing.assert_close(own, torch.autograd.grad(y, weight, cotangent)[0])
