"""Dot products and norms of rows: sizes, peers, builds."""

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import dot

HALF, SINGLE = torch.bfloat16, torch.float32


def bmm(a: Tensor, x: Tensor) -> Tensor:
    """Multiply by cuBLAS."""
    return torch.bmm(a, x.unsqueeze(2)).squeeze(2)


def product(a: Tensor, x: Tensor) -> Tensor:
    """Multiply, then sum, as a rule without a kernel does for rows."""
    return torch.sum(a * x.unsqueeze(1), 2)


def square(x: Tensor) -> Tensor:
    """Square, sum, take the root."""
    return x.square().sum(1).sqrt()


CASES = (
    Case(
        "rows_dot", "B 4096, 256 x 256",
        ((4096, 256, 256), (4096, 256)), ((3, 5, 70), (3, 70)),
        SINGLE, peers={"cuBLAS bmm": bmm}, configs=dot.CONFIGS,
    ),
    Case(
        "rows_dot", "rows of 1024, B 131072",
        ((131072, 1, 1024), (131072, 1024)), ((5, 1, 40), (5, 40)),
        peers={"multiply and sum": product}, configs=dot.CONFIGS,
    ),
    Case(
        "rows_norm", "B 64, rows of 4 Mi", ((64, 1 << 22),), ((3, 70),),
        SINGLE, peers={"square, sum, root": square}, configs=dot.CONFIGS,
    ),
)  # fmt: skip


def build(name: str, dtype: torch.dtype, *shape: int) -> Build:
    """Build a config of the products."""
    a, x = meta(*shape, dtype=dtype), meta(shape[0], shape[2], dtype=dtype)
    return Build(
        f"{name}, {str(dtype)[6:]}",
        lambda: dot.rows_dot(a, x, dot.CONFIGS[name]),
        streams=True,
    )


BUILDS = (
    build("rows", HALF, 64, 128, 512),
    build("rows", SINGLE, 64, 128, 512),
    build("long", HALF, 4096, 1, 8192),
    build("columns", SINGLE, 64, 128, 32),
    Build(
        "columns beside each other, float32",
        lambda: dot.rows_dot(
            meta(64, 512, 128, dtype=SINGLE).mT, meta(64, 512, dtype=SINGLE)
        ),
        streams=True,
    ),
    Build(
        "norm, long, float32",
        lambda: dot.rows_norm(meta(4096, 8192, dtype=SINGLE)),
        streams=True,
    ),
)
