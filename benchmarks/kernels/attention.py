"""Attention and its tangent: sizes, peers, builds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels.attention import attention, attention_tangent

HALF, SINGLE = torch.bfloat16, torch.float32
SCALE = 0.125


def forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    """Call torch's fused kernel, which has neither statistics nor tangents."""
    causal = rest[-2]
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=SCALE)


FORWARD = {"SDPA, forward only": forward}


def drawn(shape: Sequence[int], dtype: torch.dtype, device: Any) -> Tensor:
    """Draw matrices; statistics [B, H, L] are of single precision, about ``lse``."""
    if len(shape) == 4:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randn(shape, dtype=SINGLE, device=device) + math.log(shape[-1])


def case(
    operator: str,
    matrices: int,
    statistics: int,
    length: int,
    dim: int,
    causal: bool,
    dtype: torch.dtype = HALF,
    peers: Any = (),
) -> Case:
    """Make a case of one sequence of 16 heads."""
    sizes = (1, 16, length, dim), (1, 2, 19, 8)
    full, tiny = ([s] * matrices + [s[:-1]] * statistics for s in sizes)
    label = f"H 16, L {length}, D {dim}{', causal' if causal else ''}"
    return Case(
        operator,
        label if dtype is HALF else f"{label}, float32",
        full,
        tiny,
        dtype,
        rest=(None, causal, SCALE),
        peers=dict(peers),
        make=drawn,
    )


CASES = (
    case("attention", 3, 0, 4096, 64, True, peers=FORWARD),
    case("attention", 3, 0, 4096, 128, False, peers=FORWARD),
    case("attention_tangent", 6, 0, 4096, 64, True, peers=FORWARD),
    case("attention_tangent", 6, 0, 4096, 128, False, peers=FORWARD),
    case("attention_tangent", 6, 0, 2048, 64, True, SINGLE, peers=FORWARD),
)


def build(
    launcher: Callable[..., Any], matrices: int, statistics: int, dim: int,
    dtype: torch.dtype, causal: bool = True, mask: Tensor | None = None,
    small: str | None = None,
) -> Build:  # fmt: skip
    """Build the config that each target takes."""
    shape = 1, 16, 1024, dim
    args = [meta(*shape, dtype=dtype) for _ in range(matrices)]
    args += [meta(*shape[:-1], dtype=SINGLE) for _ in range(statistics)]
    kind = "" if mask is None else ", mask" if causal else ", mask, not causal"
    return Build(
        f"{launcher.__name__}, D {dim}, {str(dtype)[6:]}{kind}",
        lambda: launcher(*args, mask, causal, SCALE),
        streams=True,
        multiplies=True,
        small=small,
    )


MASK = meta(1024, 1024)
FULL = "the results of 64 rows do not fit into the registers"


def builds(*call: Any, small: str | None = None) -> tuple[Build, ...]:
    """Build a config without a mask, and with one, which takes more registers."""
    settings: Any = ((True, None), (True, MASK), (False, MASK))
    return tuple(build(*call, causal, mask, small) for causal, mask in settings)


BUILDS = (
    *builds(attention, 3, 0, 64, HALF),
    *builds(attention, 3, 0, 128, HALF),
    *builds(attention, 3, 0, 256, HALF),
    *builds(attention, 3, 0, 64, SINGLE),
    *builds(attention, 3, 0, 128, SINGLE, small=FULL),
    *builds(attention_tangent, 6, 0, 64, HALF),
    *builds(attention_tangent, 6, 0, 128, HALF),
    *builds(attention_tangent, 6, 0, 256, HALF, small=FULL),
    *builds(attention_tangent, 6, 0, 64, SINGLE, small=FULL),
)
