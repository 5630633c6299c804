"""Attention's derivatives written with the matrix of weights [*, L, S]. No operator.

They serve where no kernel does: derivatives by a mask, the tangent of a tangent, and
third derivatives. ``psi`` is that of kernels/attention_backward.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch.rules.fast import scores_tangent, weights

Parts = Sequence[Tensor | None]
"""Tangents or cotangents; None is a zero."""


class Settings(NamedTuple):
    """What all of the operators take last."""

    mask: Tensor | None
    causal: bool
    scale: float


def filled(parts: Parts, like: Sequence[Tensor]) -> list[Tensor]:
    """Put zeros, of which one is kept in memory, in the place of None."""
    return [
        x.new_zeros(()).expand(x.shape) if part is None else part
        for part, x in zip(parts, like, strict=True)
    ]


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


def moved_twice(j: Jet) -> Tensor:
    """Return how ``p a`` moves along both directions."""
    return j.p * ((j.e * j.f + j.ef) * j.a + j.e * j.af + j.f * j.ae + j.aef)


def third_by_scores(
    points: Sequence[Tensor], first: Sequence[Tensor], second: Parts, own: Settings
) -> Tensor:
    """Return the third derivative of ``psi`` by the scores and along two directions."""
    return moved_twice(jet(points, first, second, own))


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
        moved_twice(j),
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


def from_scores(
    points: Sequence[Tensor], w: Tensor, p: Tensor, own: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient by (q, k, v) for ``w``, that by the scores, and weights."""
    q, k, _, c = (x.to(p.dtype) for x in points[:4])
    w = w * own.scale
    outs = torch.matmul(w, k), torch.matmul(w.mT, q), torch.matmul(p.mT, c)
    gq, gk, gv = (x.to(points[0].dtype) for x in outs)
    return gq, gk, gv


def second_by_scores(
    points: Sequence[Tensor], moves: Sequence[Tensor], own: Settings
) -> Tensor:
    """Return the second derivative of ``psi`` by the scores and along a direction."""
    q, k, v, c, lse, delta = points
    p = weights(q, k, lse, *own)
    a = product(c, v, p.dtype) - delta.unsqueeze(-1)
    e = scores_tangent(q, k, moves[0], moves[1], own.scale) - moves[4].unsqueeze(-1)
    da = product(moves[3], v, p.dtype) + product(c, moves[2], p.dtype)
    return p * (e * a + da - moves[5].unsqueeze(-1))


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
