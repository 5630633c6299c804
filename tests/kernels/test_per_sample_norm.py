"""Kernels of the squared norms of per-sample gradients, by both routes."""

import pytest
import torch

from jaxtorch.errors import UsageError
from jaxtorch.kernels import per_sample_norm
from jaxtorch.kernels.per_sample import WEIGHT_CONFIGS
from tests.kernels.harness import DEVICE, DTYPES, check, layouts, random

GRAM = per_sample_norm.GRAM_CONFIGS
DIRECT = {n: c for n, c in WEIGHT_CONFIGS.items() if "BLOCK_T" in c.blocks}
NORM, EMBEDDING = "per_sample_squared_norm", "per_sample_embedding_squared_norm"
EMPTY = [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (1, 1, 1, 1), (2, 70, 0, 5)]


def pair(b, t, i, o, dtype=torch.float32):
    """Draw activations and cotangents."""
    return random(b, t, i, dtype=dtype), random(b, t, o, dtype=dtype)


def tokens(*shape):
    """Draw from a vocabulary of five."""
    return torch.randint(0, 5, shape, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 3, 70, 150])
def test_norm(length, dtype):
    by_rows = per_sample_norm.gram_is_cheaper(length, 70, 133)
    assert by_rows == (length < 80)
    out = check(NORM, *pair(2, length, 70, 133, dtype))
    assert out.dtype is torch.float32


@pytest.mark.parametrize("name", [*GRAM, *DIRECT])
def test_norm_configs(name):
    config = {**DIRECT, **GRAM}[name]
    blocks = config.blocks
    width = blocks.get("BLOCK_K", blocks.get("BLOCK_I")) + 3
    check(NORM, *pair(2, 2 * blocks["BLOCK_T"] + 3, width, width + 2), config=config)


@pytest.mark.parametrize("shape", EMPTY)
def test_norm_of_no_size(shape):
    check(NORM, *pair(*shape))


@pytest.mark.parametrize("length", [3, 20])
def test_norm_of_any_strides(length):
    for _, a in layouts(random(2, length, 6)):
        for _, g in layouts(random(2, length, 5)):
            check(NORM, a, g)


@pytest.mark.parametrize("length", [3, 20])
def test_norm_of_extreme_values(length):
    a, g = pair(3, length, 6, 5)
    a[0, 0, 0], a[1, 1, 1] = torch.inf, torch.nan
    a[2] *= 1e15
    out = check(NORM, a.abs(), g.abs())
    assert out[0] == torch.inf


def test_squares_do_not_overflow_in_half_precision():
    a, g = pair(2, 5, 6, 7, torch.float16)
    assert check(NORM, 100 * a, 100 * g).isfinite().all()


def test_the_places_of_a_triangle():
    """Every tile of the lower triangle is summed once."""
    ones = torch.ones(1, 16 * 6, 1, device=DEVICE)
    out = check(NORM, ones, ones, config=GRAM["short"])
    assert out.item() == (16 * 6) ** 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding_idx", [-1, 1, 3])
def test_embedding_norm(padding_idx, dtype):
    check(EMBEDDING, tokens(2, 21), random(2, 21, 70, dtype=dtype), padding_idx)


@pytest.mark.parametrize("name", GRAM)
def test_embedding_norm_configs(name):
    blocks = GRAM[name].blocks
    length = 2 * blocks["BLOCK_T"] + 3
    args = tokens(2, length), random(2, length, blocks["BLOCK_K"] + 3)
    check(EMBEDDING, *args, -1, config=GRAM[name])


def test_blocks_without_equal_tokens():
    different = torch.arange(40, device=DEVICE).reshape(2, 20)
    g = random(2, 20, 6)
    out = check(EMBEDDING, different, g, -1, config=GRAM["short"])
    torch.testing.assert_close(out, g.square().sum((1, 2)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1)])
def test_embedding_norm_of_no_size(shape):
    check(EMBEDDING, tokens(*shape[:2]), random(*shape))


def test_embedding_norm_of_any_strides():
    for _, g in layouts(random(2, 5, 6)):
        for _, own in layouts(tokens(2, 5).int()):
            check(EMBEDDING, own.long(), g)
            check(EMBEDDING, own, g)


def test_embedding_norm_of_extreme_values():
    own, g = tokens(2, 9), random(2, 9, 6).abs()
    g[0, 3, 1], g[1, 2, 2] = torch.inf, torch.nan
    check(EMBEDDING, own, g)


def test_complex_tensors_are_refused():
    x = torch.ones(1, 2, 3, dtype=torch.complex64)
    for name, args in (
        (NORM, (x, x)),
        (EMBEDDING, (tokens(1, 2).cpu(), x)),
        ("per_sample_weighted_sum", (x, x, x[:, 0, 0])),
    ):
        with pytest.raises(UsageError, match="complex"):
            getattr(torch.ops.jaxtorch, name)(*args)
