"""The operators of kernels/attention*.py: batching rules and derivatives of all orders.

First and second derivatives are made of the same operators and take O(L) memory, but
for the tangent of a tangent and for derivatives by a mask: see attention_jets.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import sum_to
from jaxtorch.linear.cast import cast_to
from jaxtorch.linear.joint import Joint
from jaxtorch.linear.operator import General, LinearOperator
from jaxtorch.rules.attention_jets import (
    Parts,
    Settings,
    by_scores,
    filled,
    from_scores,
    push_scores,
    second_by_scores,
    second_tangent,
    third,
    third_by_scores,
)
from jaxtorch.rules.batching import batched_at_front, pad_rank, to_front
from jaxtorch.rules.fast import KERNELS, weights
from jaxtorch.rules.record import BatchRule, Record


def attention(q: Tensor, k: Tensor, v: Tensor, own: Settings) -> Any:
    """Call the operator: ``out`` and ``lse``."""
    return KERNELS.attention.default(q, k, v, *own)


def tangent(points: Sequence[Tensor], moves: Parts, own: Settings) -> Any:
    """Call the operator for (q, k, v): ``out``, ``lse`` and their tangents."""
    return KERNELS.attention_tangent.default(*points, *filled(moves, points), *own)


def backward(points: Sequence[Tensor], own: Settings) -> Any:
    """Call the operator for (q, k, v, c, lse, delta): the gradient by (q, k, v)."""
    return KERNELS.attention_backward.default(*points, *own)


def hessian(points: Sequence[Tensor], moves: Parts, own: Settings) -> Any:
    """Call the operator for (q, k, v, c, lse, delta): its gradient's derivative."""
    moves = filled(moves, points)
    return KERNELS.attention_hessian.default(
        *points[:4], *moves[:4], *points[4:], *moves[4:], *own
    )


def only(place: int, part: Tensor, count: int) -> list[Tensor | None]:
    """Return ``count`` parts of which the others are zero."""
    parts: list[Tensor | None] = [None] * count
    parts[place] = part
    return parts


def operators_of(
    push: Callable[[int, Tensor], Any], pull: Callable[[Any], Any], wanted: Any
) -> list[LinearOperator]:
    """Return an operator for each input that is wanted or not; one call pulls for all.

    ``push(place, tangent)`` moves one input.
    """
    joint = Joint(pull, sum(1 for w in wanted if w))

    def operator_of(place: int) -> LinearOperator:
        return General(lambda t: push(place, t), lambda c: joint.part(c, place))

    return [operator_of(place) for place in range(len(wanted))]


def leading_batch(call: Callable[..., Any]) -> BatchRule:
    """Put the batch dim in front; what has none gets one of stride 0."""

    def batch(size: int, dims: Any, *args: Any) -> Any:
        *tensors, mask, causal, scale = args
        own = [
            batched_at_front(x, d, size) for x, d in zip(tensors, dims, strict=False)
        ]
        if dims[-3] is not None:
            mask = pad_rank(to_front(mask, dims[-3]), own[0].dim() - 1)
        return call(*own, mask, causal, scale), 0

    return batch


def with_delta(
    points: Sequence[Tensor], cotangent: Any, out: Tensor, lse: Tensor
) -> tuple[Tensor, ...]:
    """Return the point of ``psi`` for the cotangents of ``out`` and ``lse``."""
    c, g = cotangent
    if c is None:
        return (*points, *filled([None], [out]), lse, -g)
    delta = torch.sum(c.to(lse.dtype) * out.to(lse.dtype), -1)
    return (*points, c, lse, delta if g is None else delta - g)


def masks(matrix: Tensor, own: Any) -> Tensor:
    """Return the cotangent of the mask for that of the scores [*, L, S]."""
    return cast_to(sum_to(matrix, own.mask.shape), own.mask.dtype)


def added(parts: Any, others: Any) -> Any:
    """Add parts to others, of which some may be zero."""
    pairs = zip(parts, others, strict=True)
    return [b if a is None else a if b is None else a + b for a, b in pairs]


def any_part(parts: Parts) -> bool:
    """Tell whether any part is not zero."""
    return any(part is not None for part in parts)


# attention


def attention_linearize(
    wanted: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Any:
    """``dlse = sum p ds`` and ``dout = p (ds - dlse) v + p dv``, with weights ``p``."""
    own, points = Settings(mask, causal, scale), (q, k, v)
    out, lse = attention(q, k, v, own)

    def push(place: int, t: Tensor) -> Any:
        return tangent(points, only(place, t, 3), own)[2:]

    def pull(cotangent: Any) -> Any:
        return backward(with_delta(points, cotangent, out, lse), own)

    def to_mask(cotangent: Any) -> Any:
        return masks(by_scores(with_delta(points, cotangent, out, lse), own), own)

    by_mask = General(lambda t: push_scores(points, t, lse, own), to_mask)
    return (out, lse), (*operators_of(push, pull, wanted[:3]), by_mask)


def attention_push(
    tangents: Parts,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Any:
    """Outputs and tangents in one pass."""
    own, points = Settings(mask, causal, scale), (q, k, v)
    if tangents[3] is not None:
        return pushed_apart(attention_linearize, tangents, *points, *own)
    out, lse, dout, dlse = tangent(points, tangents[:3], own)
    return (out, lse), (dout, dlse)


def pushed_apart(linearize: Callable[..., Any], tangents: Parts, *args: Any) -> Any:
    """Push each tangent through its own operator and add."""
    outs, operators = linearize([t is not None for t in tangents], *args)
    pairs = zip(operators, tangents, strict=False)
    moved = [operator.apply(t) for operator, t in pairs if t is not None]
    return outs, tuple(functools.reduce(added, moved))


# attention_backward: the gradient of psi by q, k, v


def attention_backward_linearize(wanted: Any, *args: Any) -> Any:
    """The Hessian of psi, from all six into (q, k, v); transposed the other way."""
    points, own = args[:6], Settings(*args[6:])

    def push(place: int, t: Tensor) -> Any:
        return hessian(points, only(place, t, 6), own)[:3]

    def pull(cotangent: Any) -> Any:
        return hessian(points, (*cotangent, None, None, None), own)

    def by_mask(t: Tensor) -> Any:
        p = weights(points[0], points[1], points[4], *own)
        return from_scores(points, by_scores(points, own) * t, p * t, own)

    def to_mask(cotangent: Any) -> Any:
        moves = filled((*cotangent, None, None, None), points)
        return masks(second_by_scores(points, moves, own), own)

    operators = operators_of(push, pull, wanted[:6])
    return backward(points, own), (*operators, General(by_mask, to_mask))


def attention_backward_push(tangents: Parts, *args: Any) -> Any:
    """One Hessian for all tangents."""
    points, own = args[:6], Settings(*args[6:])
    if tangents[6] is not None:
        return pushed_apart(attention_backward_linearize, tangents, *args)
    return backward(points, own), hessian(points, tangents[:6], own)[:3]


# attention_hessian: linear in the direction and its own transpose


def attention_hessian_linearize(wanted: Any, *args: Any) -> Any:
    """By the direction the Hessian itself; by the point the third derivative."""
    points, moves = (*args[:4], *args[8:10]), (*args[4:8], *args[10:12])
    own = Settings(*args[12:])
    bent = operators_of(
        lambda place, t: third(points, moves, only(place, t, 6), own),
        lambda cotangent: third(points, moves, filled(cotangent, points), own),
        (*wanted[:4], *wanted[8:10]),
    )
    flat = operators_of(
        lambda place, t: hessian(points, only(place, t, 6), own),
        lambda cotangent: hessian(points, cotangent, own),
        (*wanted[4:8], *wanted[10:12]),
    )
    by_mask = General(
        lambda t: third(points, moves, [None] * 6 + [t], own),
        lambda cotangent: masks(third_by_scores(points, moves, cotangent, own), own),
    )
    operators = *bent[:4], *flat[:4], *bent[4:], *flat[4:], by_mask
    return hessian(points, moves, own), operators


# attention_tangent: attention and its derivative along a direction


def attention_tangent_linearize(wanted: Any, *args: Any) -> Any:
    """The derivative of a directional derivative.

    ``sum c dout + g dlse`` is how ``sum c out + g lse`` moves along the direction, so
    its gradient by the point is how a gradient moves: the Hessian of ``psi``.
    """
    points, moves, own = args[:3], args[3:6], Settings(*args[6:])
    out, lse, dout, dlse = tangent(points, moves, own)

    def bent(cotangent: Any) -> Any:
        point = with_delta(points, cotangent, out, lse)
        ddelta = torch.sum(point[3].to(lse.dtype) * dout.to(lse.dtype), -1)
        return point, filled((*moves, None, dlse, ddelta), point)

    def push(place: int, t: Tensor) -> Any:
        if place >= 3:
            return None, None, *tangent(points, only(place - 3, t, 3), own)[2:]
        along = only(place, t, 3)
        first = tangent(points, along, own)[2:]
        return (*first, *second_tangent(points, moves, along, None, lse, own))

    def push_mask(t: Tensor) -> Any:
        first = push_scores(points, t, lse, own)
        return (*first, *second_tangent(points, moves, [None] * 3, t, lse, own))

    def pull(cotangent: Any) -> Any:
        by_point: Any = [None] * 3
        by_move: Any = by_point
        if any_part(cotangent[:2]):
            by_point = backward(with_delta(points, cotangent[:2], out, lse), own)
        if any_part(cotangent[2:]):
            point, along = bent(cotangent[2:])
            by_move = backward(point, own)
            by_point = added(by_point, hessian(point, along, own)[:3])
        return (*by_point, *by_move)

    def to_mask(cotangent: Any) -> Any:
        total: Any = None
        if any_part(cotangent[:2]):
            total = by_scores(with_delta(points, cotangent[:2], out, lse), own)
        if any_part(cotangent[2:]):
            point, along = bent(cotangent[2:])
            second = second_by_scores(point, along, own)
            total = second if total is None else total + second
        return masks(total, own)

    operators = operators_of(push, pull, wanted[:6])
    return (out, lse, dout, dlse), (*operators, General(push_mask, to_mask))


def record(
    call: Any, linearize: Callable[..., Any], push: Callable[..., Any] | None = None
) -> Record:
    """Make the record of an operator."""
    return Record(call, leading_batch(call), linearize, push=push)


RECORDS = (
    record(KERNELS.attention.default, attention_linearize, attention_push),
    record(
        KERNELS.attention_backward.default,
        attention_backward_linearize,
        attention_backward_push,
    ),
    record(KERNELS.attention_hessian.default, attention_hessian_linearize),
    record(KERNELS.attention_tangent.default, attention_tangent_linearize),
)
