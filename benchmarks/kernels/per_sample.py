"""Per-sample gradients of linear layers: sizes, peers, builds."""

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import per_sample

HALF, SINGLE = torch.bfloat16, torch.float32


def bmm(a: Tensor, g: Tensor) -> Tensor:
    """Multiply by cuBLAS."""
    return torch.bmm(g.mT, a)


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


BUILDS = (
    weight_build("short", HALF),
    weight_build("small", HALF),
    weight_build("large", HALF),
    weight_build("float32 small", SINGLE),
    weight_build("float32 large", SINGLE),
)
