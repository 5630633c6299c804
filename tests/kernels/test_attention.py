"""Attention and its tangent, and what all kernels of attention share."""

import pytest
import torch

from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.attention import CONFIGS, TANGENT_CONFIGS
from jaxtorch.kernels.attention_tiles import lay_out
from tests.kernels.harness import DTYPES, check, layouts, random

SCALE = 0.3
MASKS = ("none", "causal", "bool", "additive", "both")
NAMES = {"attention": 3, "attention_tangent": 6}
SIZES = [
    ((0, 3), 5, 6, 4), ((2,), 0, 6, 4), ((2,), 5, 0, 4),
    ((1, 1), 1, 1, 1), ((), 17, 3, 16),
]  # fmt: skip
"""Leading dims, queries, keys, features."""


def masked(kind, lead, queries, keys):
    """Return a mask and whether it is causal; some queries may look at nothing."""
    mask = None
    if kind == "bool":
        mask = random(queries, keys) > -0.5
        mask[queries // 2] = False
    elif kind in ("additive", "both"):
        mask = random(*lead[:1], *[1] * len(lead[1:]), queries, keys)
        mask = torch.where(mask > 0.8, -torch.inf, mask)
        mask[..., 1, :] = -torch.inf
    return mask, kind in ("causal", "both")


def draw(count, lead, queries, keys, dim, dtype=torch.float32):
    """Draw (q, k, v) and, of six, their tangents."""
    rows = [queries, keys, keys] * (count // 3)
    return [random(*lead, n, dim, dtype=dtype) for n in rows]


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_masks_and_dtypes(name, dtype, kind):
    mask, causal = masked(kind, (2, 3), 21, 37)
    check(name, *draw(NAMES[name], (2, 3), 21, 37, 20, dtype), mask, causal, SCALE)


@pytest.mark.parametrize("config", CONFIGS)
def test_configs(config):
    own = CONFIGS[config]
    queries, keys = own.blocks["BLOCK_M"] + 3, 2 * own.blocks["BLOCK_N"] + 5
    args = draw(3, (1,), queries, keys, 24)
    check("attention", *args, None, True, SCALE, config=own)


@pytest.mark.parametrize("config", TANGENT_CONFIGS)
def test_configs_of_the_tangent(config):
    own = TANGENT_CONFIGS[config]
    queries, keys = own.blocks["BLOCK_M"] + 3, 2 * own.blocks["BLOCK_N"] + 5
    args = draw(6, (1,), queries, keys, 24)
    check("attention_tangent", *args, None, True, SCALE, config=own)


@pytest.mark.parametrize(
    ("dim", "dtype"), [(16, torch.float32), (65, torch.bfloat16), (256, torch.float16)]
)
@pytest.mark.parametrize("name", NAMES)
def test_features(name, dim, dtype):
    check(name, *draw(NAMES[name], (1,), 19, 33, dim, dtype), None, False, dim**-0.5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name, size):
    for causal in (False, True):
        check(name, *draw(NAMES[name], *size), None, causal, SCALE)


def test_any_strides():
    q, k, v = draw(3, (2, 3), 5, 6, 4)
    mask = masked("additive", (2, 3), 5, 6)[0].expand(2, 3, 5, 6)
    for (_, q1), (_, k1), (_, v1), (_, m1) in zip(
        layouts(q), layouts(k), layouts(v), layouts(mask), strict=True
    ):
        check("attention", q1, k, v1, m1, False, SCALE)
        check("attention", q, k1, v, mask, False, SCALE)


def test_operands_that_broadcast_are_not_copied():
    """Heads that lie beside each other, and keys that all examples share."""
    q = random(4, 7, 3, 8).transpose(1, 2)
    k = random(3, 6, 8).expand(4, 3, 6, 8)
    mask = random(7, 6)
    layout = lay_out((q, k), mask, (4, 3, 7, 6))
    pointers = [operand[0].data_ptr() for operand in layout.operands]
    assert pointers == [x.data_ptr() for x in (q, k, mask)]
    check("attention", q, k, k, mask, False, SCALE)


def test_many_leading_dims():
    q = random(2, 3, 2, 2, 5, 4).permute(3, 0, 2, 1, 4, 5)
    k = random(2, 1, 3, 6, 4).expand(2, 2, 2, 3, 6, 4)
    check("attention", q, k, k, random(2, 1, 3, 1, 6), False, SCALE)


def test_extreme_scores():
    q, k, v = draw(3, (2,), 21, 40, 16)
    check("attention", q * 1e4, k * 1e4, v, None, False, 1.0)
    q[0, 3, 2], k[1, 5, 1], v[0, 7, 0] = torch.nan, torch.nan, torch.inf
    check("attention", q, k, v, None, True, SCALE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda q, k, v, m: (q.double(), k.double(), v.double(), m), "dtype"),
        (lambda q, k, v, m: (q, k, v[..., :4], m), "values of other features"),
        (lambda q, k, v, m: (q, k[:1], v[:1], m), "leading dims"),
        (lambda q, k, v, m: (q, k, v, m[:3]), "mask that does not broadcast"),
        (lambda q, k, v, m: (q, k, v, m.double()), "dtype of the mask"),
    ],
)
def test_what_is_not_supported(change, why):
    q, k, v = draw(3, (2,), 5, 6, 8)
    mask = random(5, 6)
    supports = OPERATORS["attention"].supports
    assert supports(q, k, v, mask, False, SCALE)
    assert not supports(*change(q, k, v, mask), False, SCALE), why


def test_heads_that_are_too_wide():
    supports = OPERATORS["attention"].supports
    assert supports(*draw(3, (2,), 5, 6, 256, torch.float16), None, False, SCALE)
    assert not supports(*draw(3, (2,), 5, 6, 257, torch.float16), None, False, SCALE)
    assert not supports(*draw(3, (2,), 5, 6, 129), None, False, SCALE)
