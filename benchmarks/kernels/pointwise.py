"""Generated kernels of elementwise calls and of reductions of rows: sizes, builds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case
from jaxtorch.kernels import pointwise

HALF, SINGLE = torch.bfloat16, torch.float32

JVP_OF_SILU = (
    "v2 = sigmoid(v0); v3 = mul(v0, v2); v4 = sub(1.0, v2); v5 = mul(v0, v4); "
    "v6 = add(1.0, v5); v7 = mul(v2, v6); v8 = mul(v1, v7); "
    "return v3 like v0, v8 like v0"
)
GELU_TWICE = (
    "v1 = mul(v0, v0); v2 = mul(v0, 0.7071067811865476); v3 = erf(v2); "
    "v4 = add(1.0, v3); v5 = mul(0.5, v4); v6 = mul(v0, v5); v7 = mul(v1, -0.5); "
    "v8 = exp(v7); "
    "v9 = mul(v8, 0.3989422804014327); v10 = mul(v0, v9); v11 = add(v5, v10); "
    "v12 = sub(2.0, v1); v13 = mul(v9, v12); "
    "return v6 like v0, v11 like v0, v13 like v0"
)
SQUARES = "v1 = mul(v0, v0); v2 = sum(v1); return v2 like v0"
SOFTMAX = (
    "v1 = max(v0); v2 = sub(v0, v1); v3 = exp(v2); v4 = sum(v3); v5 = div(v3, v4); "
    "return v5 like v0"
)
SOFTMAX_TWICE = (
    "v4 = mul(v2, v0); v5 = sum(v4); v6 = sub(v2, v5); v7 = mul(v1, v6); "
    "v8 = mul(v1, v2); v9 = sum(v8); v10 = mul(v0, v9); v11 = sub(v7, v10); "
    "v12 = mul(v0, v3); v13 = sum(v12); v14 = sub(v3, v13); v15 = mul(v0, v14); "
    "v16 = add(v11, v15); return v16 like v0"
)
LAYER_NORM_JVP = (
    "v3 = count(); v4 = sum(v0); v5 = div(v4, v3); v6 = sub(v0, v5); v7 = mul(v6, v6); "
    "v8 = sum(v7); v9 = div(v8, v3); v10 = add(v9, 1e-05); v11 = rsqrt(v10); "
    "v12 = mul(v6, v11); v13 = mul(v12, v2); v14 = sum(v1); v15 = div(v14, v3); "
    "v16 = mul(v1, v12); v17 = sum(v16); v18 = div(v17, v3); v19 = mul(v12, v18); "
    "v20 = sub(v1, v15); v21 = sub(v20, v19); v22 = mul(v21, v11); v23 = mul(v22, v2); "
    "return v13 like v0, v23 like v0"
)
CROSS_ENTROPY = (
    "v2 = max(v0); v3 = sub(v0, v2); v4 = exp(v3); v5 = sum(v4); v6 = log(v5); "
    "v7 = sub(v3, v6); v8 = index(); v9 = eq(v8, v1); v10 = where(v9, v7, 0.0); "
    "v11 = sum(v10); v12 = neg(v11); v13 = exp(v7); v14 = where(v9, 1.0, 0.0); "
    "v15 = sub(v13, v14); return v12 like v0, v15 like v0"
)
"""The losses, and their gradients in the same pass."""


def labels(shape: Any, dtype: torch.dtype, device: str) -> Tensor:
    """Draw logits, or for a column classes."""
    if shape[-1] != 1:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randint(0, 20, tuple(shape), device=device)


def case(
    label: str,
    program: str,
    shapes: Any,
    tiny: Any,
    dims: tuple[int, ...] = (),
    dtype: torch.dtype = HALF,
    make: Callable[..., Tensor] = torch.randn,
) -> Case:
    """Make the case of a program."""
    rest = (program, dims)
    return Case("pointwise", label, shapes, tiny, dtype, rest, make=make, listed=True)


WIDE, TINY = (16384, 4096), (3, 20)
CASES = (
    case("silu and its jvp, 16384 x 4096", JVP_OF_SILU, (WIDE, WIDE), (TINY, TINY)),
    case("gelu and two derivatives, 16384 x 4096", GELU_TWICE, (WIDE,), (TINY,)),
    case("sum of squares of all, 16384 x 4096", SQUARES, (WIDE,), (TINY,), (0, 1)),
    case("softmax, 16384 x 4096", SOFTMAX, (WIDE,), (TINY,), (1,)),
    case("softmax, 2048 x 131072", SOFTMAX, ((2048, 131072),), (TINY,), (1,)),
    case(
        "softmax, jvp of vjp, 16384 x 4096", SOFTMAX_TWICE,
        (WIDE,) * 4, (TINY,) * 4, (1,),
    ),
    case(
        "layer norm and its jvp, 16384 x 4096", LAYER_NORM_JVP,
        (WIDE, WIDE, WIDE[1:]), (TINY, TINY, TINY[1:]), (1,),
    ),
    case(
        "cross entropy and its gradient, 8192 x 32000", CROSS_ENTROPY,
        ((8192, 32000), (8192, 1)), (TINY, (3, 1)), (1,), make=labels,
    ),
)  # fmt: skip


def build(
    label: str,
    program: str,
    *shapes: tuple[int, ...],
    dims: Any = (),
    dtype: Any = HALF,
) -> Build:
    """Build a program for operands of some shapes."""
    operands = [labels(shape, dtype, "meta") for shape in shapes]
    return Build(
        f"{label}, {str(dtype)[6:]}",
        lambda: pointwise.pointwise(operands, program, dims),
        streams=True,
    )


ROWS = (4096, 4096)
MISH = (
    "v1 = exp(v0); v2 = log1p(v1); v3 = tanh(v2); v4 = mul(v0, v3); return v4 like v0"
)
BUILDS = (
    build("mish", MISH, ROWS),
    build("silu and its jvp", JVP_OF_SILU, ROWS, ROWS),
    build("gelu twice", GELU_TWICE, ROWS, dtype=SINGLE),
    build("sum of all", SQUARES, ROWS, dims=(0, 1)),
    build("short rows, softmax", SOFTMAX, (4096, 1024), dims=(1,)),
    build("wide rows, softmax twice", SOFTMAX_TWICE, *[ROWS] * 4, dims=(1,)),
    build("wide rows, layer norm", LAYER_NORM_JVP, ROWS, ROWS, ROWS[1:], dims=(1,)),
    build("long rows, cross entropy", CROSS_ENTROPY, (512, 32000), (512, 1), dims=(1,)),
    build("long rows, softmax", SOFTMAX, (512, 131072), dims=(1,)),
)
