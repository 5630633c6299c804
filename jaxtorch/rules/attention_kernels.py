"""The operators of kernels/attention*.py: batching rules and derivatives of all orders.

First and second derivatives are made of the same operators and take O(L) memory, but
for those by a mask, and for the tangent of a tangent. These and the third derivatives
are written with the matrix of weights.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch.kernels.attention_tiles import scores_tangent, weights
from jaxtorch.linear.broadcast import sum_to
from jaxtorch.linear.cast import cast_to
from jaxtorch.linear.joint import Joint
from jaxtorch.linear.operator import General
from jaxtorch.rules.batching import batched_at_front, pad_rank, to_front
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.record import BatchRule, Record

Parts = Sequence[Tensor | None]
"""Tangents or cotangents; None is a zero."""


class Settings(NamedTuple):
    """What all of the operators take last."""

    mask: Tensor | None
    causal: bool
    scale: float


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


def filled(parts: Parts, like: Sequence[Tensor]) -> list[Tensor]:
    """Put zeros, of which one is kept in memory, in the place of None."""
    return [
        x.new_zeros(()).expand(x.shape) if part is None else part
        for part, x in zip(parts, like, strict=True)
    ]


def only(place: int, part: Tensor, count: int) -> list[Tensor | None]:
    """Return ``count`` parts of which the others are zero."""
    parts: list[Tensor | None] = [None] * count
    parts[place] = part
    return parts


def wanted_count(wanted: Any) -> int:
    """Count the inputs that are differentiated."""
    return sum(1 for w in wanted if w)


def leading_batch(call: Callable[..., Any]) -> BatchRule:
    """Put the batch dim before the leading dims; unbatched operands are not repeated."""

    def batch(size: int, dims: Any, *args: Any) -> Any:
        *tensors, mask, causal, scale = args
        own = [
            batched_at_front(x, d, size) for x, d in zip(tensors, dims, strict=False)
        ]
        if dims[-3] is not None:
            mask = pad_rank(to_front(mask, dims[-3]), tensors_rank(own))
        return call(*own, mask, causal, scale), 0

    return batch


def tensors_rank(tensors: Sequence[Tensor]) -> int:
    """Return the number of dims of an example's queries."""
    return tensors[0].dim() - 1


def rest_of(c: Any, g: Any, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cotangent of ``out`` and ``delta = sum c out - g``."""
    if c is None:
        return filled([None], [out])[0], -g
    delta = torch.sum(c.to(lse.dtype) * out.to(lse.dtype), -1)
    return c, delta if g is None else delta - g


def masks(matrix: Tensor, own: Any) -> Tensor:
    """Return the cotangent of the mask for that of the scores [*, L, S]."""
    return cast_to(sum_to(matrix, own.mask.shape), own.mask.dtype)


def any_part(parts: Parts) -> bool:
    """Tell whether any part is not zero."""
    return any(part is not None for part in parts)


class Jet(NamedTuple):
    """Scores and ``a = c v^T - delta`` with their derivatives along two directions.

    Attributes:
        p: the weights ``exp(s - lse)``.
        a: what they are multiplied with in ``psi``.
        e, f: the derivatives of ``s - lse`` along the first and the second direction.
        ef: its second derivative.
        ae, af, aef: the same of ``a``.
    """

    p: Tensor
    a: Tensor
    e: Tensor
    f: Tensor
    ef: Tensor
    ae: Tensor
    af: Tensor
    aef: Tensor


def product(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x y^T``, in single precision at least."""
    return torch.matmul(x.to(dtype), y.to(dtype).mT)


def jet(
    points: Sequence[Tensor], first: Sequence[Tensor], second: Any, own: Settings
) -> Jet:
    """Expand along two directions of (q, k, v, c, lse, delta).

    The second may have a seventh part, of the mask, which may be all that it has.
    """
    q, k, v, c, lse, delta = points
    x, y = first, filled(second[:6], points)
    p = weights(q, k, lse, *own)
    t = p.dtype
    f = scores_tangent(q, k, y[0], y[1], own.scale) - y[4].unsqueeze(-1)
    if len(second) > 6:
        f = f + second[6]
    return Jet(
        p,
        product(c, v, t) - delta.unsqueeze(-1),
        scores_tangent(q, k, x[0], x[1], own.scale) - x[4].unsqueeze(-1),
        f,
        scores_tangent(x[0], x[1], y[0], y[1], own.scale),
        product(x[3], v, t) + product(c, x[2], t) - x[5].unsqueeze(-1),
        product(y[3], v, t) + product(c, y[2], t) - y[5].unsqueeze(-1),
        product(x[3], y[2], t) + product(y[3], x[2], t),
    )


def third_by_scores(j: Jet) -> Tensor:
    """Return how ``p a`` moves along both directions."""
    return j.p * ((j.e * j.f + j.ef) * j.a + j.e * j.af + j.f * j.ae + j.aef)


def third(
    points: Sequence[Tensor], first: Sequence[Tensor], second: Any, own: Settings
) -> list[Tensor]:
    """Return the third derivative of ``psi`` along two directions: six cotangents.

    By the product rule from ``psi``'s gradient: ``scale w k``, ``scale w^T q``,
    ``p^T c``, ``p v``, ``-sum w`` and ``-sum p``, with ``w = p a``.
    """
    j = jet(points, first, second, own)
    x, y = first, filled(second[:6], points)
    t = j.p.dtype
    p = (j.p * (j.e * j.f + j.ef), j.p * j.e, j.p * j.f)
    w = (
        third_by_scores(j),
        j.p * (j.e * j.a + j.ae) * own.scale,
        j.p * (j.f * j.a + j.af) * own.scale,
    )
    scaled = (w[0] * own.scale, *w[1:])

    def along(m: Sequence[Tensor], place: int, flip: bool) -> Tensor:
        parts = points[place], y[place], x[place]
        total = sum(
            torch.matmul(own.mT if flip else own, part.to(t))
            for own, part in zip(m, parts, strict=True)
        )
        return torch.as_tensor(total).to(points[place].dtype)

    return [
        along(scaled, 1, False),
        along(scaled, 0, True),
        along(p, 3, True),
        along(p, 2, False),
        -torch.sum(w[0], -1),
        -torch.sum(p[0], -1),
    ]


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
    """``dlse = sum p ds``, ``dout = p (ds - dlse) v + p dv``; see attention_backward."""
    own, points = Settings(mask, causal, scale), (q, k, v)
    out, lse = attention(q, k, v, own)

    def pull(cotangent: Any) -> Any:
        c, delta = rest_of(*cotangent, out, lse)
        return backward((*points, c, lse, delta), own)

    def to_mask(cotangent: Any) -> Any:
        c, delta = rest_of(*cotangent, out, lse)
        return masks(by_scores((*points, c, lse, delta), own), own)

    joint = Joint(pull, wanted_count(wanted[:3]))
    operators = [
        General(
            lambda t, i=i: tangent(points, only(i, t, 3), own)[2:],
            lambda cotangent, i=i: joint.part(cotangent, i),
        )
        for i in range(3)
    ]
    by_mask = General(lambda t: push_scores(points, t, lse, own), to_mask)
    return (out, lse), (*operators, by_mask)


def push_scores(
    points: Sequence[Tensor], t: Tensor, lse: Tensor, own: Settings
) -> tuple[Tensor, Tensor]:
    """Return how ``out`` and ``lse`` move where the scores move by ``t``."""
    q, k, v = points
    p = weights(q, k, lse, *own)
    dlse = torch.sum(p * t, -1, True)
    dout = torch.matmul(p * (t - dlse), v.to(p.dtype))
    return dout.to(v.dtype), dlse.squeeze(-1)


def by_scores(points: Sequence[Tensor], own: Settings) -> Tensor:
    """Return the gradient of ``psi`` by the scores [*, L, S]."""
    q, k, v, c, lse, delta = points
    p = weights(q, k, lse, *own)
    return p * (product(c, v, p.dtype) - delta.unsqueeze(-1))


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
    moved = [
        o.apply(t) for o, t in zip(operators, tangents, strict=False) if t is not None
    ]
    return outs, tuple(
        functools.reduce(operator.add, parts) for parts in zip(*moved, strict=True)
    )


# attention_backward: the gradient of psi by q, k, v


def attention_backward_linearize(wanted: Any, *args: Any) -> Any:
    """The Hessian of psi, from all six into (q, k, v); transposed the other way."""
    points, own = args[:6], Settings(*args[6:])

    def pull(cotangent: Any) -> Any:
        return hessian(points, (*cotangent, None, None, None), own)

    def by_mask(t: Tensor) -> Any:
        j = jet(points, points_zero(points), [None] * 6 + [t], own)
        return from_scores(points, j.p * j.f * j.a, j.p * j.f, own)

    def to_mask(cotangent: Any) -> Any:
        move = filled((*cotangent, None, None, None), points)
        j = jet(points, move, [None] * 6, own)
        return masks(j.p * (j.e * j.a + j.ae), own)

    joint = Joint(pull, wanted_count(wanted[:6]))
    operators = [
        General(
            lambda t, i=i: hessian(points, only(i, t, 6), own)[:3],
            lambda cotangent, i=i: joint.part(cotangent, i),
        )
        for i in range(6)
    ]
    return backward(points, own), (*operators, General(by_mask, to_mask))


def points_zero(points: Sequence[Tensor]) -> list[Tensor]:
    """Return the direction that moves nothing."""
    return filled([None] * len(points), points)


def from_scores(
    points: Sequence[Tensor], w: Tensor, p: Tensor, own: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient by (q, k, v) for ``w``, that by the scores, and weights."""
    q, k, _, c = (x.to(p.dtype) for x in points[:4])
    w = w * own.scale
    outs = torch.matmul(w, k), torch.matmul(w.mT, q), torch.matmul(p.mT, c)
    gq, gk, gv = (x.to(points[0].dtype) for x in outs)
    return gq, gk, gv


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
    places = (0, 1, 2, 3, 8, 9), (4, 5, 6, 7, 10, 11)
    bent = Joint(
        lambda cotangent: third(points, moves, filled(cotangent, points), own),
        wanted_count([wanted[i] for i in places[0]]),
    )
    flat = Joint(
        lambda cotangent: hessian(points, cotangent, own),
        wanted_count([wanted[i] for i in places[1]]),
    )
    operators: list[Any] = [None] * 12
    for i in range(6):
        operators[places[0][i]] = General(
            lambda t, i=i: third(points, moves, only(i, t, 6), own),
            lambda cotangent, i=i: bent.part(cotangent, i),
        )
        operators[places[1][i]] = General(
            lambda t, i=i: hessian(points, only(i, t, 6), own),
            lambda cotangent, i=i: flat.part(cotangent, i),
        )

    def to_mask(cotangent: Any) -> Any:
        matrix = third_by_scores(jet(points, moves, cotangent, own))
        return masks(matrix, own)

    by_mask = General(lambda t: third(points, moves, [None] * 6 + [t], own), to_mask)
    return hessian(points, moves, own), (*operators, by_mask)


# attention_tangent: attention and its derivative along a direction


def attention_tangent_linearize(wanted: Any, *args: Any) -> Any:
    """The derivative of a directional derivative.

    ``sum c dout + g dlse`` is how ``sum c out + g lse`` moves along the direction, so
    its gradient by the point is how a gradient moves: the Hessian of ``psi``.
    """
    points, moves, own = args[:3], args[3:6], Settings(*args[6:])
    out, lse, dout, dlse = tangent(points, moves, own)

    def bent(c: Any, g: Any) -> Any:
        c, delta = rest_of(c, g, out, lse)
        ddelta = torch.sum(c.to(lse.dtype) * dout.to(lse.dtype), -1)
        return (*points, c, lse, delta), (*moves, None, dlse, ddelta)

    def pull(cotangent: Any) -> Any:
        parts: list[Any] = [None] * 6
        if any_part(cotangent[:2]):
            c, delta = rest_of(*cotangent[:2], out, lse)
            parts[:3] = backward((*points, c, lse, delta), own)
        if any_part(cotangent[2:]):
            point, move = bent(*cotangent[2:])
            second = hessian(point, move, own)[:3]
            parts[3:] = backward(point, own)
            parts[:3] = [
                b if a is None else a + b for a, b in zip(parts, second, strict=False)
            ]
        return parts

    def to_mask(cotangent: Any) -> Any:
        total: Any = None
        if any_part(cotangent[:2]):
            c, delta = rest_of(*cotangent[:2], out, lse)
            total = by_scores((*points, c, lse, delta), own)
        if any_part(cotangent[2:]):
            point, move = bent(*cotangent[2:])
            j = jet(point, filled(move, point), [None] * 6, own)
            second = j.p * (j.e * j.a + j.ae)
            total = second if total is None else total + second
        return masks(total, own)

    def push_point(t: Tensor, place: int) -> Any:
        move = only(place, t, 3)
        first = tangent(points, move, own)[2:]
        return (*first, *second_tangent(points, moves, move, None, lse, own))

    def push_mask(t: Tensor) -> Any:
        first = push_scores(points, t, lse, own)
        return (*first, *second_tangent(points, moves, [None] * 3, t, lse, own))

    joint = Joint(pull, wanted_count(wanted[:6]))
    operators = [
        General(
            lambda t, i=i: (
                push_point(t, i)
                if i < 3
                else (None, None, *tangent(points, only(i - 3, t, 3), own)[2:])
            ),
            lambda cotangent, i=i: joint.part(cotangent, i),
        )
        for i in range(6)
    ]
    return (out, lse, dout, dlse), (*operators, General(push_mask, to_mask))


def second_tangent(
    points: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Parts,
    mask: Tensor | None,
    lse: Tensor,
    own: Settings,
) -> tuple[Tensor, Tensor]:
    """Return how ``dout`` and ``dlse`` move along a second direction, and the mask's.

    With ``e`` and ``f`` the two moves of the scores less their means under ``p``, the
    weights move by ``p f``, and ``p e`` by ``p (e f + g)`` with ``g`` centered too.
    """
    q, k, v = points
    second = filled(second, points)
    p = weights(q, k, lse, *own)
    ds = scores_tangent(q, k, first[0], first[1], own.scale)
    es = scores_tangent(q, k, second[0], second[1], own.scale)
    if mask is not None:
        es = es + mask
    pe = p * (ds - torch.sum(p * ds, -1, True))
    pf = p * (es - torch.sum(p * es, -1, True))
    both = scores_tangent(second[0], second[1], first[0], first[1], own.scale)
    moved = pf * ds + p * both
    dlse = torch.sum(moved, -1, True)
    slope = moved - pf * torch.sum(p * ds, -1, True) - p * dlse
    dout = (
        torch.matmul(slope, v.to(p.dtype))
        + torch.matmul(pe, second[2].to(p.dtype))
        + torch.matmul(pf, first[2].to(p.dtype))
    )
    return dout.to(v.dtype), dlse.squeeze(-1)


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
