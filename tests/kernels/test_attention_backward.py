"""The kernels of attention's gradient and of its second derivative."""

import pytest
import torch

from jaxtorch.kernels import attention_backward, attention_hessian
from jaxtorch.kernels.attention import attention_reference
from tests.kernels.harness import DTYPES, check, layouts, random
from tests.kernels.test_attention import MASKS, SCALE, SIZES, masked

NAMES = ("attention_backward", "attention_hessian")
CONFIGS = [
    (module.__name__.rpartition(".")[2], config)
    for module in (attention_backward, attention_hessian)
    for config in module.CONFIGS.values()
]


def draw(name, lead, queries, keys, dim, mask=None, causal=False, dtype=torch.float32):
    """Draw a point of psi, for the Hessian also a direction; ``lse`` is true."""
    rows = [queries, keys, keys, queries]
    point = [random(*lead, n, dim, dtype=dtype) for n in rows]
    statistics = [random(*lead, queries) for _ in range(4)]
    wide = [x.double() for x in point[:3]]
    statistics[0] = attention_reference(*wide, mask, causal, SCALE)[1].float()
    if name == "attention_backward":
        return *point, *statistics[:2]
    return *point, *[random(*lead, n, dim, dtype=dtype) for n in rows], *statistics


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_masks_and_dtypes(name, dtype, kind):
    mask, causal = masked(kind, (2, 2), 21, 37)
    args = draw(name, (2, 2), 21, 37, 20, mask, causal, dtype)
    check(name, *args, mask, causal, SCALE)


@pytest.mark.parametrize(("name", "config"), CONFIGS)
def test_configs(name, config):
    size = max(config.blocks.values())
    args = draw(name, (1,), size + 3, size + 5, 24, causal=True)
    check(name, *args, None, True, SCALE, config=config)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name, size):
    for causal in (False, True):
        check(name, *draw(name, *size, causal=causal), None, causal, SCALE)


@pytest.mark.parametrize("name", NAMES)
def test_any_strides(name):
    args = draw(name, (2, 3), 5, 6, 4)
    for alike in zip(*(layouts(x) for x in args), strict=True):
        check(name, *[x for _, x in alike], None, False, SCALE)


@pytest.mark.parametrize("name", NAMES)
def test_large_scores(name):
    q, k, *rest = draw(name, (2,), 21, 40, 16)
    q, k = q * 3, k * 3
    wide = [x.double() for x in (q, k, rest[0])]
    lse = attention_reference(*wide, None, False, SCALE)[1].float()
    rest[2 if name == "attention_backward" else 6] = lse
    check(name, q, k, *rest, None, False, SCALE)
