"""Convolution as one trilinear form: the maps onto its three parts, and its operator.

``<conv(big, weight), small>`` is linear in each of its three parts. The map onto one
part for given other two is a convolution, a transposed convolution, or the weight
gradient. So each of the three is the transpose of the others, and derivatives of every
order need nothing else.
"""

import enum
from collections.abc import Sequence

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator

weight_kernel = torch.ops.aten.convolution_backward.default


class Part(enum.IntEnum):
    """The parts: ``small`` is the convolution of ``big`` with ``weight``."""

    BIG = 0
    WEIGHT = 1
    SMALL = 2


class ConvolutionForm:
    """The geometry of a convolution, and the three maps of its trilinear form.

    Attributes:
        stride, padding, dilation: one number for each spatial dim.
        groups: number of groups of channels.
        big_size: spatial size of ``big``, which the stride leaves open.
        weight_like: a tensor of the weight's shape [O, C / groups, *kernel].
    """

    __slots__ = (
        "stride",
        "padding",
        "dilation",
        "groups",
        "big_size",
        "small_size",
        "weight_like",
        "slack",
    )

    def __init__(
        self,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        big_size: Sequence[int],
        small_size: Sequence[int],
        weight_like: Tensor,
    ) -> None:
        rank = len(big_size)
        self.stride = full(stride, rank)
        self.padding = full(padding, rank)
        self.dilation = full(dilation, rank)
        self.groups = groups
        self.big_size = big_size
        self.small_size = small_size
        self.weight_like = weight_like
        self.slack = [
            b - ((s - 1) * step - 2 * pad + hole * (k - 1) + 1)
            for b, s, step, pad, hole, k in zip(
                big_size,
                small_size,
                self.stride,
                self.padding,
                self.dilation,
                weight_like.shape[2:],
                strict=True,
            )
        ]

    @property
    def surplus(self) -> list[int]:
        """How many positions the kernel has in ``big`` beyond those of ``small``.

        Only where a transposed convolution has an output padding of a stride or more.
        """
        return [e // s for e, s in zip(self.slack, self.stride, strict=True)]

    @property
    def overhangs(self) -> bool:
        """Whether there are such positions."""
        return any(self.surplus)

    def crop(self, small: Tensor) -> Tensor:
        """Cut off the positions that ``small`` does not have."""
        rank = len(self.slack)
        for dim, more in enumerate(self.surplus):
            if more:
                small = small.narrow(dim - rank, 0, self.small_size[dim])
        return small

    def extend(self, small: Tensor) -> Tensor:
        """Append zeros for the positions that ``small`` does not have."""
        pads = [side for more in reversed(self.surplus) for side in (0, more)]
        return torch.constant_pad_nd(small, pads) if any(pads) else small

    def folded(self, weight_like: Tensor, groups: int) -> "ConvolutionForm":
        """Return the same geometry for another weight and number of groups."""
        return ConvolutionForm(
            self.stride,
            self.padding,
            self.dilation,
            groups,
            self.big_size,
            self.small_size,
            weight_like,
        )

    def to_small(self, big: Tensor, weight: Tensor) -> Tensor:
        """Convolve ``big`` [N, C, *] with ``weight``; returns [N, O, *]."""
        small = torch.convolution(
            big,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
        )
        return self.crop(small)

    def to_big(self, small: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient with respect to ``big`` as a transposed convolution."""
        return torch.convolution(
            small,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            True,
            self.slack,
            self.groups,
        )

    def to_weight(self, big: Tensor, small: Tensor) -> Tensor:
        """Return the gradient with respect to ``weight``; only its shape is read."""
        out: Tensor = weight_kernel(
            self.extend(small),
            big,
            self.weight_like,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            [False, True, False],
        )[1]
        return out

    def evaluate(
        self, target: Part, source: Part, value: Tensor, fixed: Tensor
    ) -> Tensor:
        """Map onto ``target`` from ``source`` and the third part, ``fixed``."""
        if target is Part.SMALL:
            if source is Part.BIG:
                return self.to_small(value, fixed)
            return self.to_small(fixed, value)
        if target is Part.BIG:
            if source is Part.SMALL:
                return self.to_big(value, fixed)
            return self.to_big(fixed, value)
        if source is Part.BIG:
            return self.to_weight(value, fixed)
        return self.to_weight(fixed, value)


def full(setting: Sequence[int], rank: int) -> list[int]:
    """Repeat a setting that was given once for all spatial dims."""
    return list(setting) if len(setting) == rank else list(setting) * rank


class Convolution(LinearOperator):
    """The map of a convolution form from one part to another; the third is fixed."""

    __slots__ = ("form", "source", "target", "fixed")

    def __init__(
        self, form: ConvolutionForm, source: Part, target: Part, fixed: Tensor
    ) -> None:
        self.form = form
        self.source = source
        self.target = target
        self.fixed = fixed

    def apply(self, tangent: Tensor) -> Tensor:
        return self.form.evaluate(self.target, self.source, tangent, self.fixed)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return self.form.evaluate(self.source, self.target, cotangent, self.fixed)


class ChannelBroadcast(LinearOperator):
    """A bias [C] added to every position of [N, C, *]; the transpose sums."""

    __slots__ = ("out_shape",)

    def __init__(self, out_shape: torch.Size) -> None:
        self.out_shape = out_shape

    def apply(self, tangent: Tensor) -> Tensor:
        shape = [1] * len(self.out_shape)
        shape[1] = self.out_shape[1]
        return tangent.reshape(shape).expand(self.out_shape)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return torch.sum(cotangent, [0, *range(2, len(self.out_shape))])
