"""Fourier transforms: linear maps along dims."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.fourier import ComplexTransform, HalfTransform, RealTransform
from jaxtorch.rules.batching import physical, rank_of, to_front
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten


def transform_batch(call: OpOverload) -> BatchRule:
    """Shift the dims behind the batch dim; MKL refuses an empty batch."""

    def batch(size: int, dims: Any, x: Tensor, own: Any, *args: Any) -> Any:
        if size == 0:
            one = x.new_zeros(x.shape[: dims[0]] + x.shape[dims[0] + 1 :])
            out = call(one, own, *args)
            return out.new_empty(0, *out.shape), 0
        rank = rank_of(x, dims[0])
        shifted = [physical(d, rank) for d in own]
        return call(to_front(x, dims[0]), shifted, *args), 0

    return batch


def c2c_linearize(wanted: Any, x: Tensor, dims: Any, scale: int, forward: bool) -> Any:
    """Complex to complex."""
    operator = ComplexTransform(dims, scale, forward)
    return operator.apply(x), (operator,)


def r2c_linearize(wanted: Any, x: Tensor, dims: Any, scale: int, onesided: bool) -> Any:
    """Real to complex."""
    length = x.shape[dims[-1]] if dims else 1
    operator = RealTransform(dims, scale, onesided, length)
    return operator.apply(x), (operator,)


def c2r_linearize(wanted: Any, x: Tensor, dims: Any, scale: int, length: int) -> Any:
    """Half of the frequencies to real."""
    operator = HalfTransform(dims, scale, length)
    return operator.apply(x), (operator,)


RECORDS = (
    Record(
        aten._fft_c2c.default, transform_batch(aten._fft_c2c.default), c2c_linearize
    ),
    Record(
        aten._fft_r2c.default, transform_batch(aten._fft_r2c.default), r2c_linearize
    ),
    Record(
        aten._fft_c2r.default, transform_batch(aten._fft_c2r.default), c2r_linearize
    ),
)
