"""Resampling: linear maps between planes of different size, by kernels in pairs.

Upsampling in all modes, columns of patches (im2col), sliding windows, pixel shuffles.
Sampling at the points of a grid is in grid.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.reindex import Reindex
from jaxtorch.rules.batching import physical, rank_of, to_front
from jaxtorch.rules.planes import example, fold, planes_batch, unfold
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def upsample_pair(
    forward: OpOverload, backward: OpOverload, rank: int
) -> tuple[Record, Record]:
    """Make the records of an upsampling and of its transpose.

    They are ``forward(x, output_size, *args)`` and
    ``backward(grad, output_size, input_size, *args)``.
    """

    def linearize(wanted: Any, x: Tensor, output_size: Any, *args: Any) -> Any:
        kernel_args = (output_size, x.shape, *args)
        operator = Reindex(forward, (output_size, *args), backward, kernel_args)
        return forward(x, output_size, *args), (operator,)

    def backward_linearize(
        wanted: Any, grad: Tensor, output_size: Any, input_size: Any, *args: Any
    ) -> Any:
        kernel_args = (output_size, input_size, *args)
        operator = Reindex(backward, kernel_args, forward, (output_size, *args))
        return backward(grad, *kernel_args), (operator,)

    def backward_batch(
        size: int,
        dims: Any,
        grad: Tensor,
        output_size: Any,
        input_size: Any,
        *args: Any,
    ) -> Any:
        folded = fold(grad, dims[0], size, rank)
        sizes = [size * input_size[0], *input_size[1:]]
        out = backward(folded, output_size, sizes, *args)
        return unfold(out, grad, dims[0], size, rank), 0

    return (
        Record(forward, planes_batch(forward, rank), linearize),
        Record(backward, backward_batch, backward_linearize),
    )


def im2col_linearize(
    wanted: Any, x: Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Copying patches to columns; the transpose adds the columns back (col2im)."""
    args = (kernel, dilation, padding, stride)
    back = (x.shape[-2:], *args)
    operator = Reindex(aten.im2col.default, args, aten.col2im.default, back)
    return aten.im2col.default(x, *args), (operator,)


def col2im_linearize(
    wanted: Any, x: Tensor, output_size: Any, *args: Any
) -> tuple[Tensor, Any]:
    """Adding columns to the patches they stand for; the transpose is im2col."""
    operator = Reindex(
        aten.col2im.default, (output_size, *args), aten.im2col.default, args
    )
    return aten.col2im.default(x, output_size, *args), (operator,)


def unfold_batch(
    size: int, dims: Any, x: Tensor, dim: int, length: int, step: int
) -> tuple[Tensor, int]:
    """Shift the dim behind the batch dim; a number is a dim of size one."""
    rank = rank_of(x, dims[0])
    if rank == 0:
        return x.unsqueeze(1).unfold(1, length, step).select(1, 0), 0
    return to_front(x, dims[0]).unfold(physical(dim, rank), length, step), 0


def unfold_linearize(wanted: Any, x: Tensor, *args: Any) -> tuple[Tensor, Any]:
    """Windows of a dim; the transpose adds them back where they were taken."""
    overload = aten.unfold_backward.default
    operator = Reindex(Tensor.unfold, args, overload, (x.shape, *args))
    return x.unfold(*args), (operator,)


def unfold_backward_batch(
    size: int,
    dims: Any,
    grad: Tensor,
    input_sizes: Any,
    dim: int,
    length: int,
    step: int,
) -> tuple[Tensor, int]:
    """Shift the dim behind the batch dim."""
    grad = to_front(grad, dims[0])
    if not input_sizes:
        return grad.sum(1), 0
    own = physical(dim, len(input_sizes))
    sizes = [size, *input_sizes]
    return aten.unfold_backward.default(grad, sizes, own, length, step), 0


def unfold_backward_linearize(
    wanted: Any, grad: Tensor, input_sizes: Any, *args: Any
) -> tuple[Tensor, Any]:
    """Adding windows back; the transpose takes the windows ``x.unfold(*args)``."""
    overload = aten.unfold_backward.default
    operator = Reindex(overload, (input_sizes, *args), Tensor.unfold, args)
    return overload(grad, input_sizes, *args), (operator,)


def shuffle_record(overload: OpOverload, inverse: OpOverload) -> Record:
    """Make the record of a pixel shuffle, whose transpose is its inverse."""

    def batch(size: int, dims: Any, x: Tensor, factor: int) -> tuple[Tensor, int]:
        if size == 0:
            out = overload(example(x, dims[0]), factor)
            return out.new_empty(0, *out.shape), 0
        return overload(to_front(x, dims[0]), factor), 0

    def linearize(wanted: Any, x: Tensor, factor: int) -> Any:
        operator = Reindex(overload, (factor,), inverse, (factor,))
        return overload(x, factor), (operator,)

    return Record(overload, batch, linearize)


def channel_shuffle_decompose(x: Tensor, groups: int) -> Tensor:
    """Read the channels [groups, C / groups] in the other order."""
    sizes = (groups, x.shape[1] // groups)
    return torch.unflatten(x, 1, sizes).transpose(1, 2).flatten(1, 2)


def lanczos_pair() -> tuple[Record, ...]:
    """Make the records of Lanczos resampling, which older PyTorch lacks."""
    forward = getattr(aten, "_upsample_lanczos2d_aa", None)
    if forward is None:
        return ()
    return upsample_pair(
        forward.default, aten._upsample_lanczos2d_aa_backward.default, 2
    )


RECORDS = (
    *lanczos_pair(),
    *upsample_pair(
        aten.upsample_nearest1d.default, aten.upsample_nearest1d_backward.default, 1
    ),
    *upsample_pair(
        aten.upsample_nearest2d.default, aten.upsample_nearest2d_backward.default, 2
    ),
    *upsample_pair(
        aten.upsample_nearest3d.default, aten.upsample_nearest3d_backward.default, 3
    ),
    *upsample_pair(
        aten._upsample_nearest_exact1d.default,
        aten._upsample_nearest_exact1d_backward.default,
        1,
    ),
    *upsample_pair(
        aten._upsample_nearest_exact2d.default,
        aten._upsample_nearest_exact2d_backward.default,
        2,
    ),
    *upsample_pair(
        aten._upsample_nearest_exact3d.default,
        aten._upsample_nearest_exact3d_backward.default,
        3,
    ),
    *upsample_pair(
        aten.upsample_linear1d.default, aten.upsample_linear1d_backward.default, 1
    ),
    *upsample_pair(
        aten.upsample_bilinear2d.default, aten.upsample_bilinear2d_backward.default, 2
    ),
    *upsample_pair(
        aten.upsample_trilinear3d.default, aten.upsample_trilinear3d_backward.default, 3
    ),
    *upsample_pair(
        aten.upsample_bicubic2d.default, aten.upsample_bicubic2d_backward.default, 2
    ),
    *upsample_pair(
        aten._upsample_bilinear2d_aa.default,
        aten._upsample_bilinear2d_aa_backward.default,
        2,
    ),
    *upsample_pair(
        aten._upsample_bicubic2d_aa.default,
        aten._upsample_bicubic2d_aa_backward.default,
        2,
    ),
    Record(aten.im2col.default, planes_batch(aten.im2col.default, 2), im2col_linearize),
    Record(aten.col2im.default, planes_batch(aten.col2im.default, 1), col2im_linearize),
    Record(aten.unfold.default, unfold_batch, unfold_linearize),
    Record(
        aten.unfold_backward.default, unfold_backward_batch, unfold_backward_linearize
    ),
    shuffle_record(aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
    shuffle_record(aten.pixel_unshuffle.default, aten.pixel_shuffle.default),
    Record(aten.channel_shuffle.default, decompose=channel_shuffle_decompose),
)
