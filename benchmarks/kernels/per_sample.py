"""Per-sample gradients of linear layers, and their weighted sums: sizes and peers."""

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import per_sample

HALF, SINGLE = torch.bfloat16, torch.float32


def bmm(a: Tensor, g: Tensor) -> Tensor:
    """Multiply by cuBLAS."""
    return torch.bmm(g.mT, a)


def materialized_sum(a: Tensor, g: Tensor, s: Tensor) -> Tensor:
    """Make all gradients, then sum them: what PyTorch users do today."""
    return torch.einsum("boi,b->oi", torch.bmm(g.mT, a), s)


CASES = (
    Case(
        "per_sample_weight", "B 256, T 128, 1024 -> 1024",
        ((256, 128, 1024), (256, 128, 1024)), ((2, 9, 20), (2, 9, 24)),
        peers={"cuBLAS bmm": bmm}, configs=per_sample.WEIGHT_CONFIGS,
    ),
    Case(
        "per_sample_weight", "B 1024, no sequence, 1024 -> 1024",
        ((1024, 1, 1024), (1024, 1, 1024)), ((3, 1, 20), (3, 1, 24)),
        peers={"cuBLAS bmm": bmm},
    ),
    Case(
        "per_sample_weighted_sum", "B 256, T 128, 1024 -> 1024",
        ((256, 128, 1024), (256, 128, 1024), (256,)), ((2, 9, 20), (2, 9, 24), (2,)),
        peers={"materialized": materialized_sum},
    ),
    Case(
        "per_sample_weighted_sum", "B 4096, no sequence, 256 -> 256",
        ((4096, 1, 256), (4096, 1, 256), (4096,)), ((70, 1, 20), (70, 1, 24), (70,)),
        peers={"materialized": materialized_sum}, configs=per_sample.SUM_CONFIGS,
    ),
)  # fmt: skip


def weight_build(name: str, dtype: torch.dtype) -> Build:
    """Build a config of the gradients."""
    a, g = meta(64, 128, 512, dtype=dtype), meta(64, 128, 256, dtype=dtype)
    config = per_sample.WEIGHT_CONFIGS[name]
    return Build(
        f"weight, {name}, {str(dtype)[6:]}",
        lambda: per_sample.per_sample_weight(a, g, config),
        streams=True,
        multiplies=name != "short",
    )


def sum_build(name: str, dtype: torch.dtype) -> Build:
    """Build a config of the weighted sum."""
    a, g = meta(64, 128, 512, dtype=dtype), meta(64, 128, 256, dtype=dtype)
    config = per_sample.SUM_CONFIGS[name]
    return Build(
        f"sum, {name}, {str(dtype)[6:]}",
        lambda: per_sample.per_sample_weighted_sum(
            a, g, meta(64, dtype=SINGLE), config
        ),
        streams=True,
        multiplies=True,
    )


BUILDS = (
    weight_build("short", HALF),
    weight_build("small", HALF),
    weight_build("large", HALF),
    weight_build("float32 small", SINGLE),
    weight_build("float32 large", SINGLE),
    sum_build("small", HALF),
    sum_build("large", HALF),
    sum_build("float32 small", SINGLE),
    sum_build("float32 large", SINGLE),
)
