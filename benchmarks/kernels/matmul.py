"""Small, skinny and shared matrix products: sizes, peers, builds."""

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import matmul

HALF, SINGLE = torch.bfloat16, torch.float32


def folded(x: Tensor, w: Tensor) -> Tensor:
    """Fold the rows, by a copy if they are strided, and multiply by cuBLAS."""
    return (x.reshape(-1, x.shape[2]) @ w).unflatten(0, x.shape[:2])


def beside(shape: tuple[int, ...], **options: object) -> Tensor:
    """Draw a stack whose rows lie beside each other, as those of a transposed one."""
    if len(shape) == 2:
        return torch.randn(shape, **options)
    return torch.randn(shape[0], shape[2], shape[1], **options).mT


CASES = (
    Case(
        "small_bmm", "B 65536, 8 x 8 x 8",
        ((65536, 8, 8), (65536, 8, 8)), ((9, 5, 7), (9, 7, 6)), SINGLE,
    ),
    Case(
        "small_bmm", "B 16384, 32 x 32 x 32",
        ((16384, 32, 32), (16384, 32, 32)), ((2, 20, 9), (2, 9, 30)), SINGLE,
        configs={k: matmul.SMALL_CONFIGS[k] for k in ("quarter", "float32 square")},
    ),
    Case(
        "small_bmm", "B 4096, 64 x 64 x 64",
        ((4096, 64, 64), (4096, 64, 64)), ((2, 40, 9), (2, 9, 50)),
        configs={k: matmul.SMALL_CONFIGS[k] for k in ("quarter", "square")},
    ),
    Case(
        "small_bmm", "B 2048, 4 x 64 x 1024",
        ((2048, 4, 64), (2048, 64, 1024)), ((2, 4, 9), (2, 9, 70)),
        configs={k: matmul.SMALL_CONFIGS[k] for k in ("rows", "square")},
    ),
    Case(
        "shared_bmm", "B 8192, 16 columns, 512 -> 512",
        ((8192, 16, 512), (512, 512)), ((3, 5, 20), (20, 24)),
        peers={"copy and cuBLAS": folded}, configs=matmul.SHARED_CONFIGS, make=beside,
    ),
)  # fmt: skip


def small(name: str, dtype: torch.dtype, m: int, n: int, k: int) -> Build:
    """Build a config of the small products."""
    a, b = meta(4096, m, k, dtype=dtype), meta(4096, k, n, dtype=dtype)
    return Build(
        f"{name}, {str(dtype)[6:]}",
        lambda: matmul.small_bmm(a, b, matmul.SMALL_CONFIGS[name]),
        streams=True,
        multiplies=True,
        small="that small are the matrices" if min(m, 64) < 64 else None,
    )


def shared(name: str, dtype: torch.dtype) -> Build:
    """Build a config of the shared product, of rows that lie beside each other."""
    x, w = meta(512, 256, 64, dtype=dtype).mT, meta(256, 256, dtype=dtype)
    return Build(
        f"{name}, {str(dtype)[6:]}",
        lambda: matmul.shared_bmm(x, w, matmul.SHARED_CONFIGS[name]),
        streams=True,
        multiplies=True,
    )


BUILDS = (
    small("tiny", HALF, 16, 16, 16),
    small("tiny", SINGLE, 16, 16, 16),
    small("quarter", HALF, 32, 32, 32),
    small("quarter", SINGLE, 32, 32, 32),
    small("square", HALF, 64, 64, 64),
    small("float32 square", SINGLE, 64, 64, 64),
    small("rows", SINGLE, 16, 512, 64),
    small("columns", SINGLE, 512, 16, 64),
    shared("narrow", HALF),
    shared("wide", HALF),
    shared("float32 narrow", SINGLE),
    shared("float32 wide", SINGLE),
)
