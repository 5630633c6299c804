"""Per-sample gradients of convolutions, and their squared norms: sizes and peers."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import per_sample_convolution

GEOMETRY = ((3, 3), (1, 1), (1, 1), (1, 1))
LARGE = ((256, 1, 64, 32, 32), (256, 1, 64, 32, 32))
SMALL = ((2, 1, 3, 5, 4), (2, 1, 4, 5, 4))


def grouped(
    x: Tensor, g: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """Let each sample be a group of channels of one convolution of cuDNN."""
    size, _, channels = x.shape[:3]
    weight = x.new_empty(size * g.shape[2], channels, *kernel)
    _, out, _ = torch.ops.aten.convolution_backward(
        g.movedim(1, 0).flatten(1, 2), x.movedim(1, 0).flatten(1, 2), weight, None,
        stride, padding, dilation, False, (0, 0), size, (False, True, False),
    )  # fmt: skip
    return out.unflatten(0, (size, -1))


def norms_of_grouped(*args: Any) -> Tensor:
    """Make all gradients by a grouped convolution, then their norms."""
    return grouped(*args).float().square().sum((1, 2, 3, 4))


CASES = (
    Case(
        "per_sample_convolution_weight", "B 256, 64 -> 64 channels, 3 x 3 on 32 x 32",
        LARGE, SMALL, rest=GEOMETRY,
        peers={"cuDNN, grouped": grouped}, configs=per_sample_convolution.CONFIGS,
    ),
    Case(
        "per_sample_convolution_squared_norm",
        "B 256, 64 -> 64 channels, 3 x 3 on 32 x 32",
        LARGE, SMALL, rest=GEOMETRY,
        peers={"cuDNN, grouped": norms_of_grouped},
    ),
)  # fmt: skip


def build(name: str, dtype: torch.dtype, squared: bool = False) -> Build:
    """Build a config."""
    x, g = (meta(*shape, dtype=dtype) for shape in LARGE)
    config = per_sample_convolution.CONFIGS[name]
    launcher = per_sample_convolution.per_sample_convolution_weight
    if squared:
        launcher = per_sample_convolution.per_sample_convolution_squared_norm
    return Build(
        f"{'norm' if squared else 'weight'}, {name}, {str(dtype)[6:]}",
        lambda: launcher(x, g, *GEOMETRY, config=config),
        multiplies=True,
    )


BUILDS = (
    build("few", torch.bfloat16),
    build("many", torch.bfloat16),
    build("float32", torch.float32),
    build("few", torch.bfloat16, squared=True),
    build("many", torch.bfloat16, squared=True),
    build("float32", torch.float32, squared=True),
)
