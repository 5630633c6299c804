"""Squared norms of per-sample gradients, linear and embedding: sizes and peers."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import per_sample_norm
from jaxtorch.kernels.per_sample import WEIGHT_CONFIGS

HALF, SINGLE = torch.bfloat16, torch.float32


def materialized(a: Tensor, g: Tensor) -> Tensor:
    """Make all gradients, then their norms."""
    return torch.bmm(g.mT, a).float().square().sum((1, 2))


def tokens_and_rows(shape: Any, dtype: torch.dtype, device: str) -> Tensor:
    """Draw tokens of a vocabulary of 50257, or rows."""
    if len(shape) == 2:
        return torch.randint(0, 50257, shape, device=device)
    return torch.randn(shape, dtype=dtype, device=device)


CASES = (
    Case(
        "per_sample_squared_norm", "B 256, T 128, 2048 -> 2048",
        ((256, 128, 2048), (256, 128, 2048)), ((2, 9, 20), (2, 9, 24)),
        peers={"materialized": materialized}, configs=per_sample_norm.GRAM_CONFIGS,
    ),
    Case(
        "per_sample_squared_norm", "B 256, T 1024, 256 -> 256",
        ((256, 1024, 256), (256, 1024, 256)), ((2, 30, 20), (2, 30, 24)),
        peers={"materialized": materialized},
    ),
    Case(
        "per_sample_squared_norm", "B 4096, no sequence, 1024 -> 1024",
        ((4096, 1, 1024), (4096, 1, 1024)), ((3, 1, 20), (3, 1, 24)),
        peers={"materialized": materialized},
    ),
    Case(
        "per_sample_embedding_squared_norm", "B 64, T 512, width 1024",
        ((64, 512), (64, 512, 1024)), ((2, 9), (2, 9, 24)),
        make=tokens_and_rows,
    ),
)  # fmt: skip


SHORT = "sequences that short have so few rows"


def norm_build(name: str, dtype: torch.dtype) -> Build:
    """Build a config of either route."""
    a, g = meta(64, 128, 512, dtype=dtype), meta(64, 128, 256, dtype=dtype)
    config = {**WEIGHT_CONFIGS, **per_sample_norm.GRAM_CONFIGS}[name]
    return Build(
        f"norm, {name}, {str(dtype)[6:]}",
        lambda: per_sample_norm.per_sample_squared_norm(a, g, config),
        streams=True,
        multiplies=True,
        small=SHORT if "short" in name else None,
    )


def embedding_build(name: str, dtype: torch.dtype) -> Build:
    """Build a config of embeddings."""
    tokens, g = meta(64, 128, dtype=torch.int64), meta(64, 128, 256, dtype=dtype)
    config = per_sample_norm.GRAM_CONFIGS[name]
    return Build(
        f"embedding, {name}, {str(dtype)[6:]}",
        lambda: per_sample_norm.per_sample_embedding_squared_norm(
            tokens, g, config=config
        ),
        streams=True,
        multiplies=True,
        small=SHORT if "short" in name else None,
    )


BUILDS = (
    norm_build("short", HALF),
    norm_build("float32 short", SINGLE),
    norm_build("long", HALF),
    norm_build("float32 long", SINGLE),
    norm_build("small", HALF),
    norm_build("float32 small", SINGLE),
    norm_build("large", HALF),
    norm_build("float32 large", SINGLE),
    embedding_build("short", HALF),
    embedding_build("float32 short", SINGLE),
    embedding_build("long", HALF),
    embedding_build("float32 long", SINGLE),
)
