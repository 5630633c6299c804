"""Derivatives of ``A = P L U`` and of the packed form of L and U."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.matrix import add, adjoint, solve_lower, solve_upper
from jaxtorch.linear.operator import LinearOperator


class TriangularFactors(LinearOperator):
    """From A to (P, L, U) with constant P, for every shape of A.

    ``dL1 = L1 tril(N, -1)``, ``dU1 = triu(N) U1`` with ``N = L1^-1 P^T dA U1^-1`` for
    the square part; the rest of a wide U or a tall L follows from ``P^T A = L U``
    (de Hoog, Anderssen, Lukas 2011).
    """

    __slots__ = ("permutation", "lower", "upper")

    def __init__(
        self, permutation: Tensor | None, lower: Tensor, upper: Tensor
    ) -> None:
        self.permutation = permutation
        self.lower = lower
        self.upper = upper

    def apply(self, tangent: Tensor) -> tuple[None, Tensor, Tensor]:
        lower, upper = self.lower, self.upper
        k = lower.shape[-1]
        if self.permutation is not None:
            tangent = adjoint(self.permutation) @ tangent
        square_l, square_u = lower[..., :k, :], upper[..., :, :k]
        middle = solve_lower(square_l, tangent[..., :k, :k], unit=True)
        middle = solve_upper(square_u, middle, left=False)
        below, above = torch.tril(middle, -1), torch.triu(middle)
        dl, du = square_l @ below, above @ square_u
        if lower.shape[-2] > k:
            rest = solve_upper(square_u, tangent[..., k:, :], left=False)
            dl = torch.cat([dl, rest - lower[..., k:, :] @ above], -2)
        if upper.shape[-1] > k:
            rest = solve_lower(square_l, tangent[..., :, k:], unit=True)
            du = torch.cat([du, rest - below @ upper[..., :, k:]], -1)
        return None, dl, du

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        _, g_l, g_u = cotangent
        lower, upper = self.lower, self.upper
        k = lower.shape[-1]
        back_l, back_u = adjoint(lower), adjoint(upper)
        below: Tensor | None = None
        above: Tensor | None = None
        if g_l is not None:
            below = back_l[..., :, :k] @ g_l[..., :k, :]
            if lower.shape[-2] > k:
                above = -(back_l[..., :, k:] @ g_l[..., k:, :])
        if g_u is not None:
            above = add(above, g_u[..., :, :k] @ back_u[..., :k, :])
            if upper.shape[-1] > k:
                below = add(below, -(g_u[..., :, k:] @ back_u[..., k:, :]))
        middle = add(
            None if below is None else torch.tril(below, -1),
            None if above is None else torch.triu(above),
        )
        if middle is None:
            return None
        out = self.spread(middle, g_l, g_u)
        return out if self.permutation is None else self.permutation @ out

    def spread(self, middle: Tensor, g_l: Tensor | None, g_u: Tensor | None) -> Tensor:
        """Put the square part and the rest of a tall or wide cotangent together."""
        lower, upper = self.lower, self.upper
        k = lower.shape[-1]
        back_l, back_u = adjoint(lower[..., :k, :]), adjoint(upper[..., :, :k])
        out = solve_lower(back_u, solve_upper(back_l, middle), left=False)
        if lower.shape[-2] > k:
            rest = torch.zeros_like(lower[..., k:, :])
            if g_l is not None:
                rest = solve_lower(back_u, g_l[..., k:, :], left=False)
            out = torch.cat([out, rest], -2)
        if upper.shape[-1] > k:
            rest = torch.zeros_like(upper[..., :, k:])
            if g_u is not None:
                rest = solve_upper(back_l, g_u[..., :, k:])
            out = torch.cat([out, rest], -1)
        return out


class Unpacked(LinearOperator):
    """From the packed L and U to (P, L, U); the diagonal of L is one."""

    __slots__ = ("shape",)

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape

    def apply(self, tangent: Tensor) -> tuple[None, Tensor, Tensor]:
        k = min(self.shape[-2:])
        lower = torch.tril(tangent, -1)[..., :, :k]
        return None, lower, torch.triu(tangent)[..., :k, :]

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        _, g_l, g_u = cotangent
        return pack(g_l, g_u, self.shape)


def pack(
    lower: Tensor | None, upper: Tensor | None, shape: torch.Size
) -> Tensor | None:
    """Add the strict lower triangle of one and the upper triangle of the other."""
    m, n = shape[-2:]
    k = min(m, n)
    if lower is not None:
        lower = torch.tril(lower, -1)
        if n > k:
            lower = torch.constant_pad_nd(lower, (0, n - k))
    if upper is not None:
        upper = torch.triu(upper)
        if m > k:
            upper = torch.constant_pad_nd(upper, (0, 0, 0, m - k))
    return add(lower, upper)


class PackedFactors(LinearOperator):
    """From A to the packed L and U."""

    __slots__ = ("packed", "pivots")

    def __init__(self, packed: Tensor, pivots: Tensor) -> None:
        self.packed = packed
        self.pivots = pivots

    def factors(self) -> TriangularFactors:
        """Return the derivative of the factors that are packed."""
        return TriangularFactors(*torch.lu_unpack(self.packed, self.pivots))

    def apply(self, tangent: Tensor) -> Tensor | None:
        _, dl, du = self.factors().apply(tangent)
        return pack(dl, du, self.packed.shape)

    def apply_transpose(self, cotangent: Tensor) -> Tensor | None:
        parts = Unpacked(self.packed.shape).apply(cotangent)
        return self.factors().apply_transpose(parts)


class FactoredMatrix(LinearOperator):
    """From the packed L and U back to ``A = P L U``, square."""

    __slots__ = ("packed", "pivots")

    def __init__(self, packed: Tensor, pivots: Tensor) -> None:
        self.packed = packed
        self.pivots = pivots

    def apply(self, tangent: Tensor) -> Tensor:
        p, lower, upper = torch.lu_unpack(self.packed, self.pivots)
        return p @ (torch.tril(tangent, -1) @ upper + lower @ torch.triu(tangent))

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        p, lower, upper = torch.lu_unpack(self.packed, self.pivots)
        moved = adjoint(p) @ cotangent
        below = torch.tril(moved @ adjoint(upper), -1)
        return below + torch.triu(adjoint(lower) @ moved)
