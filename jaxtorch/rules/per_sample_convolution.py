"""The operators of kernels/per_sample_convolution.py: batching and derivatives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.operator import General
from jaxtorch.linear.rows import RowDot
from jaxtorch.rules.batching import batched_at_front, to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import Record

aten = torch.ops.aten
weight: Any = KERNELS.per_sample_convolution_weight.default
squared_norm: Any = KERNELS.per_sample_convolution_squared_norm.default
Geometry = Sequence[Sequence[int]]


def per_sample_convolution_weight_batch(
    size: int, dims: Any, x: Tensor, g: Tensor, *geometry: Any
) -> Any:
    """Fold the batch into the samples, or into the channels of the batched operand."""
    if dims[0] is None:
        wide = g.movedim(dims[1], 2)
        out = weight(x, wide.flatten(2, 3), *geometry)
        return torch.unflatten(out, 1, wide.shape[2:4]), 1
    if dims[1] is None:
        wide = x.movedim(dims[0], 2)
        out = weight(wide.flatten(2, 3), g, *geometry)
        return torch.unflatten(out, 2, wide.shape[2:4]), 2
    x, g = to_front(x, dims[0]), to_front(g, dims[1])
    out = weight(x.flatten(0, 1), g.flatten(0, 1), *geometry)
    return torch.unflatten(out, 0, x.shape[:2]), 0


def to_images(c: Tensor, x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """Pull ``c`` [B, O, C, KH, KW] back to the images: convolve ``g`` transposed."""
    kernel, stride, padding, dilation = geometry
    rows = g.movedim(1, 2).flatten(2)
    columns = torch.bmm(c.flatten(2).mT, rows)
    columns = torch.unflatten(columns, 2, (g.shape[1], -1)).movedim(2, 1)
    size = x.shape[3:]
    out = aten.col2im.default(
        columns.flatten(0, 1), size, kernel, dilation, padding, stride
    )
    return torch.unflatten(out, 0, g.shape[:2])


def to_cotangents(c: Tensor, x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """Pull ``c`` [B, O, C, KH, KW] back to ``g``: convolve the images."""
    kernel, stride, padding, dilation = geometry
    columns: Tensor = aten.im2col.default(
        x.flatten(0, 1), kernel, dilation, padding, stride
    )
    columns = torch.unflatten(columns, 0, x.shape[:2]).movedim(1, 2).flatten(2)
    out = torch.bmm(c.flatten(2), columns)
    return torch.unflatten(out, 2, (g.shape[1], *g.shape[3:])).movedim(2, 1)


def per_sample_convolution_weight_linearize(
    wanted: Any, x: Tensor, g: Tensor, *geometry: Any
) -> Any:
    """The gradient is bilinear in images and cotangents."""
    return weight(x, g, *geometry), (
        wanted[0]
        and General(
            lambda t: weight(t, g, *geometry), lambda c: to_images(c, x, g, geometry)
        ),
        wanted[1]
        and General(
            lambda t: weight(x, t, *geometry),
            lambda c: to_cotangents(c, x, g, geometry),
        ),
    )


def per_sample_convolution_squared_norm_batch(
    size: int, dims: Any, x: Tensor, g: Tensor, *geometry: Any
) -> Any:
    """Fold the batch into the samples."""
    x = batched_at_front(x, dims[0], size)
    g = batched_at_front(g, dims[1], size)
    out = squared_norm(x.flatten(0, 1), g.flatten(0, 1), *geometry)
    return torch.unflatten(out, 0, x.shape[:2]), 0


def per_sample_convolution_squared_norm_linearize(
    wanted: Any, x: Tensor, g: Tensor, *geometry: Any
) -> Any:
    """``d|G|^2 = 2 <G, dG>``, pulled back to each argument."""
    out = squared_norm(x, g, *geometry)

    def doubled() -> Tensor:
        return 2 * weight(x, g, *geometry)  # type: ignore[no-any-return]

    return out, (
        wanted[0] and RowDot(lambda: to_images(doubled(), x, g, geometry), out.dtype),
        wanted[1]
        and RowDot(lambda: to_cotangents(doubled(), x, g, geometry), out.dtype),
    )


RECORDS = (
    Record(
        KERNELS.per_sample_convolution_weight.default,
        per_sample_convolution_weight_batch,
        per_sample_convolution_weight_linearize,
    ),
    Record(
        KERNELS.per_sample_convolution_squared_norm.default,
        per_sample_convolution_squared_norm_batch,
        per_sample_convolution_squared_norm_linearize,
    ),
)
