"""Derivatives of matrix factorizations, each with its transpose.

Where a factor is only determined up to a phase or a rotation, the derivative is the one
that leaves that freedom alone.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.cast import cast_to
from jaxtorch.linear.matrix import (
    add,
    adjoint,
    diagonal,
    half_tril,
    half_triu,
    hermitian,
    identity_like,
    real_part,
    solve_lower,
    solve_upper,
)
from jaxtorch.linear.operator import LinearOperator


class CholeskyFactor(LinearOperator):
    """``dL = L half(L^-1 dA L^-H)`` for A = L L^H (Murray 2016, eq. 8 and 10).

    The tangent is taken as Hermitian; ``upper`` says that the output is L^H.
    """

    __slots__ = ("factor", "upper")

    def __init__(self, factor: Tensor, upper: bool) -> None:
        self.factor = factor
        self.upper = upper

    def apply(self, tangent: Tensor) -> Tensor:
        lower = adjoint(self.factor) if self.upper else self.factor
        upper = self.factor if self.upper else adjoint(self.factor)
        middle = solve_upper(upper, solve_lower(lower, hermitian(tangent)), left=False)
        out = lower @ half_tril(middle)
        return adjoint(out) if self.upper else out

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        lower = adjoint(self.factor) if self.upper else self.factor
        upper = self.factor if self.upper else adjoint(self.factor)
        cotangent = adjoint(cotangent) if self.upper else cotangent
        middle = solve_upper(upper, half_tril(upper @ cotangent))
        return hermitian(solve_lower(lower, middle, left=False))


def inverse_gaps(values: Tensor) -> Tensor:
    """Return ``1 / (values[j] - values[i])``, zero on the diagonal."""
    eye = identity_like(values)
    gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
    return torch.reciprocal(gaps + eye) - eye


def scale_columns(vectors: Tensor, values: Tensor) -> Tensor:
    """Multiply each column of a matrix."""
    return vectors * values.unsqueeze(-2)


class HermitianEigen(LinearOperator):
    """Eigenvalues and eigenvectors of a Hermitian matrix (Giles 2008, 3.1)."""

    __slots__ = ("values", "vectors", "has_vectors")

    def __init__(self, values: Tensor, vectors: Tensor, has_vectors: bool) -> None:
        self.values = values
        self.vectors = vectors
        self.has_vectors = has_vectors

    def apply(self, tangent: Tensor) -> tuple[Tensor, Tensor | None]:
        middle = adjoint(self.vectors) @ hermitian(tangent) @ self.vectors
        values = real_part(diagonal(middle))
        if not self.has_vectors:
            return values, None
        return values, self.vectors @ (middle * inverse_gaps(self.values))

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        values, vectors = cotangent
        own = adjoint(self.vectors)
        if vectors is None:
            if values is None:
                return None
            return scale_columns(self.vectors, values) @ own
        middle = (own @ vectors) * inverse_gaps(self.values)
        if values is not None:
            middle = middle + torch.diag_embed(values)
        return hermitian(self.vectors @ middle @ own)


class GeneralEigen(LinearOperator):
    """Eigenvalues and eigenvectors of length one (Giles 2008, 3.1; Boeddeker 2017).

    The vectors keep their length; their phase is left alone.
    """

    __slots__ = ("values", "vectors", "dtype")

    def __init__(self, values: Tensor, vectors: Tensor, dtype: torch.dtype) -> None:
        self.values = values
        self.vectors = vectors
        self.dtype = dtype

    def apply(self, tangent: Tensor) -> tuple[Tensor, Tensor]:
        moved = tangent.to(self.vectors.dtype) @ self.vectors
        middle = torch.linalg.solve_ex(self.vectors, moved)[0]
        raw = self.vectors @ (middle * inverse_gaps(self.values))
        return diagonal(middle), self.keep_length(raw)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        values, vectors = cotangent
        own = adjoint(self.vectors)
        middle: Tensor | None = None
        if vectors is not None:
            slopes = torch.conj_physical(inverse_gaps(self.values))
            middle = (own @ self.keep_length(vectors)) * slopes
        if values is not None:
            middle = add(middle, torch.diag_embed(values))
        if middle is None:
            return None
        return cast_to(torch.linalg.solve_ex(own, middle @ own)[0], self.dtype)

    def keep_length(self, vectors: Tensor) -> Tensor:
        """Project each column to change no length, which is its own transpose."""
        along = torch.real(torch.sum(torch.conj_physical(self.vectors) * vectors, -2))
        return vectors - scale_columns(self.vectors, along)


class SingularValues(LinearOperator):
    """The thin singular value decomposition ``A = U S V^H`` (Townsend 2016).

    With more columns of U or V than singular values, the others turn so that the whole
    stays unitary. The outputs are U, S, V^H; without ``has_vectors`` only S.
    """

    __slots__ = ("left", "values", "right", "has_vectors")

    def __init__(
        self, left: Tensor, values: Tensor, right: Tensor, has_vectors: bool
    ) -> None:
        self.left = left
        self.values = values
        self.right = right
        self.has_vectors = has_vectors

    def thin(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the columns of U and of V that belong to singular values, and S."""
        count = self.values.shape[-1]
        right = adjoint(self.right[..., :count, :])
        return self.left[..., :, :count], right, self.values

    def apply(self, tangent: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        u, v, s = self.thin()
        middle = adjoint(u) @ tangent @ v
        values = real_part(diagonal(middle))
        if not self.has_vectors:
            return None, values, None
        gaps = inverse_gaps(s * s)
        scaled = scale_columns(middle, s)
        flipped = s.unsqueeze(-1) * middle
        turn_u = gaps * (scaled + adjoint(scaled))
        turn_v = gaps * (flipped + adjoint(flipped))
        if u.is_complex():
            phase = torch.diag_embed(torch.imag(diagonal(middle)) / (2 * s)) * 1j
            turn_u, turn_v = turn_u + phase, turn_v - phase
        moved_u = (tangent @ v) / s.unsqueeze(-2)
        moved_v = (adjoint(tangent) @ u) / s.unsqueeze(-2)
        du = u @ turn_u + moved_u - u @ (adjoint(u) @ moved_u)
        dv = v @ turn_v + moved_v - v @ (adjoint(v) @ moved_v)
        du = complete(self.left, du)
        dv = complete(adjoint(self.right), dv)
        return du, values, adjoint(dv)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        g_left, g_values, g_right = cotangent
        u, v, s = self.thin()
        middle: Tensor | None = None
        if g_values is not None:
            middle = torch.diag_embed(g_values).to(u.dtype)
        out: Tensor | None = None
        gaps = inverse_gaps(s * s)
        phases: Tensor | None = None
        if g_left is not None:
            g_u = complete_transpose(self.left, g_left, s.shape[-1])
            turn = adjoint(u) @ g_u
            phases = diagonal(turn)
            turn = gaps * turn
            middle = add(middle, scale_columns(turn + adjoint(turn), s))
            moved = (g_u - u @ (adjoint(u) @ g_u)) / s.unsqueeze(-2)
            out = moved @ adjoint(v)
        if g_right is not None:
            g_v = complete_transpose(adjoint(self.right), adjoint(g_right), s.shape[-1])
            turn = adjoint(v) @ g_v
            phases = add(phases, -diagonal(turn))
            turn = gaps * turn
            middle = add(middle, s.unsqueeze(-1) * (turn + adjoint(turn)))
            moved = (g_v - v @ (adjoint(v) @ g_v)) / s.unsqueeze(-2)
            out = add(out, u @ adjoint(moved))
        if middle is None:
            return None
        if phases is not None and u.is_complex():
            middle = middle + torch.diag_embed(torch.imag(phases) / (2 * s)) * 1j
        return add(out, u @ middle @ adjoint(v))


def complete(whole: Tensor, change: Tensor) -> Tensor:
    """Append the change of a unitary matrix's last columns to that of the first."""
    count = change.shape[-1]
    if whole.shape[-1] == count:
        return change
    first, rest = whole[..., :, :count], whole[..., :, count:]
    return torch.cat([change, -(first @ (adjoint(change) @ rest))], -1)


def complete_transpose(whole: Tensor, cotangent: Tensor, count: int) -> Tensor:
    """The transpose of ``complete``."""
    if whole.shape[-1] == count:
        return cotangent
    first, rest = whole[..., :, :count], whole[..., :, count:]
    back = adjoint(cotangent[..., :, count:]) @ first
    return cotangent[..., :, :count] - rest @ back


class OrthogonalTriangular(LinearOperator):
    """``A = Q R`` (Walter, Lehmann 2012; Roberts, Roberts 2020).

    ``q`` has the columns that A determines; ``whole`` is the Q that is returned, which
    may have more, or None for none.
    """

    __slots__ = ("q", "r", "whole")

    def __init__(self, q: Tensor, r: Tensor, whole: Tensor | None) -> None:
        self.q = q
        self.r = r
        self.whole = whole

    def apply(self, tangent: Tensor) -> tuple[Tensor | None, Tensor]:
        q, count = self.q, self.q.shape[-1]
        square = self.r[..., :count, :count]
        moved = solve_upper(square, tangent[..., :count], left=False)
        middle = adjoint(q) @ moved
        turn = half_triu(middle + adjoint(middle))
        dq, dr = moved - q @ turn, turn @ square
        if self.r.shape[-1] > count:
            rest = self.r[..., :count, count:]
            change = adjoint(dq) @ (q @ rest) + adjoint(q) @ tangent[..., count:]
            dr = torch.cat([dr, change], -1)
        if self.r.shape[-2] > count:
            dr = torch.cat([dr, torch.zeros_like(self.r[..., count:, :])], -2)
        return None if self.whole is None else complete(self.whole, dq), dr

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        g_q, g_r = cotangent
        q, count = self.q, self.q.shape[-1]
        square = self.r[..., :count, :count]
        if g_q is not None and self.whole is not None:
            g_q = complete_transpose(self.whole, g_q, count)
        last: Tensor | None = None
        turn: Tensor | None = None
        if g_r is not None:
            g_r = g_r[..., :count, :]
            if self.r.shape[-1] > count:
                rest, g_rest = self.r[..., :count, count:], g_r[..., count:]
                g_q = add(g_q, (q @ rest) @ adjoint(g_rest))
                last = q @ g_rest
            turn = g_r[..., :count] @ adjoint(square)
        if g_q is not None:
            turn = add(turn, -(adjoint(q) @ g_q))
        if turn is None:
            return None
        turn = half_triu(turn)
        moved = add(g_q, q @ (turn + adjoint(turn)))
        out = solve_lower(adjoint(square), moved, left=False)  # type: ignore[arg-type]
        return out if last is None else torch.cat([out, last], -1)
