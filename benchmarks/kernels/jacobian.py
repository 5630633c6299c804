"""Tangents through layers, and products of Jacobians: sizes, peers, builds."""

import torch
from torch import Tensor

from benchmarks.kernels.cases import Build, Case, meta
from jaxtorch.kernels import jacobian
from jaxtorch.kernels.language import Config

HALF, SINGLE = torch.bfloat16, torch.float32


def einsum(j: Tensor, d: Tensor) -> Tensor:
    """Multiply as users write it."""
    return torch.einsum("boi,bo,boj->bij", j, d, j)


CASES = (
    Case(
        "push_layer", "B 256, 128 tangents, 256 -> 256",
        ((256, 128, 256), (256, 256), (256, 256)), ((3, 5, 20), (20, 24), (3, 24)),
        SINGLE, configs=jacobian.PUSH_CONFIGS,
    ),
    Case(
        "push_layer", "B 256, 128 tangents, 512 -> 512",
        ((256, 128, 512), (512, 512), (256, 512)), ((3, 5, 20), (20, 24), (3, 24)),
        configs=jacobian.PUSH_CONFIGS,
    ),
    Case(
        "weighted_gram", "B 256, 512 x 512",
        ((256, 512, 512), (256, 512)), ((2, 20, 70), (2, 20)),
        peers={"einsum": einsum}, configs=jacobian.GRAM_CONFIGS,
    ),
    Case(
        "weighted_gram", "B 4096, 128 x 64",
        ((4096, 128, 64), (4096, 128)), ((2, 9, 20), (2, 9)), SINGLE,
        peers={"einsum": einsum}, configs=jacobian.GRAM_CONFIGS,
    ),
    Case(
        "gram_diagonal", "B 256, 512 x 512",
        ((256, 512, 512), (256, 512)), ((2, 20, 70), (2, 20)), SINGLE,
        configs=jacobian.DIAGONAL_CONFIGS,
    ),
)  # fmt: skip


def push(name: str, dtype: torch.dtype) -> Build:
    """Build a config of the layer."""
    t, w = meta(64, 128, 256, dtype=dtype), meta(256, 256, dtype=dtype)
    d = meta(64, 256, dtype=dtype)
    return Build(
        f"push, {name}, {str(dtype)[6:]}",
        lambda: jacobian.push_layer(t, w, d, jacobian.PUSH_CONFIGS[name]),
        streams=True,
        multiplies=True,
    )


def gram(label: str, config: Config, dtype: torch.dtype, multiplies: bool) -> Build:
    """Build a config of the product or of its diagonal."""
    j, d = meta(64, 256, 256, dtype=dtype), meta(64, 256, dtype=dtype)
    call = jacobian.weighted_gram if multiplies else jacobian.gram_diagonal
    turned = j.mT if label == "columns" else j
    return Build(
        f"{label}, {str(dtype)[6:]}",
        lambda: call(turned, d, config),
        streams=True,
        multiplies=multiplies,
    )


BUILDS = (
    push("narrow", HALF),
    push("wide", HALF),
    push("float32", SINGLE),
    gram("small", jacobian.GRAM_CONFIGS["small"], HALF, True),
    gram("large", jacobian.GRAM_CONFIGS["large"], HALF, True),
    gram("float32", jacobian.GRAM_CONFIGS["float32"], SINGLE, True),
    gram("rows", jacobian.DIAGONAL_CONFIGS["rows"], SINGLE, False),
    gram("columns", jacobian.DIAGONAL_CONFIGS["columns"], HALF, False),
)
