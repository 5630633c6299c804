"""Derivatives of the solutions of linear systems, of determinants and least squares.

A solver maps a right hand side to the solution, or solves with the adjoint matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import sum_to
from jaxtorch.linear.factors import SingularValues
from jaxtorch.linear.matrix import (
    PseudoInverse,
    add,
    adjoint,
    conjugate,
    diagonal,
    identity_like,
    real_part,
)
from jaxtorch.linear.operator import LinearOperator

Solver = Callable[[Tensor, bool], Tensor]


class RightHandSide(LinearOperator):
    """From B to X of ``A X = B``; with ``vector`` B and X have no columns."""

    __slots__ = ("solve", "shape", "vector")

    def __init__(self, solve: Solver, shape: torch.Size, vector: bool = False) -> None:
        self.solve = solve
        self.shape = shape
        self.vector = vector

    def apply(self, tangent: Tensor) -> Tensor:
        if self.vector:
            return self.solve(tangent.unsqueeze(-1), False).squeeze(-1)
        return self.solve(tangent, False)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        if self.vector:
            out = self.solve(cotangent.unsqueeze(-1), True).squeeze(-1)
        else:
            out = self.solve(cotangent, True)
        return sum_to(out, self.shape)


class SystemMatrix(LinearOperator):
    """From A to X: ``dX = -A^-1 dA X``, or ``-X dA A^-1`` where A is on the right.

    Giles 2008, 2.2.3 and 2.3.1.
    """

    __slots__ = ("solve", "solution", "shape", "left", "vector")

    def __init__(
        self,
        solve: Solver,
        solution: Tensor,
        shape: torch.Size,
        left: bool,
        vector: bool = False,
    ) -> None:
        self.solve = solve
        self.solution = solution
        self.shape = shape
        self.left = left
        self.vector = vector

    def apply(self, tangent: Tensor) -> Tensor:
        if self.vector:
            moved = tangent @ self.solution.unsqueeze(-1)
            return -self.solve(moved, False).squeeze(-1)
        moved = tangent @ self.solution if self.left else self.solution @ tangent
        return -self.solve(moved, False)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        solution = self.solution
        if self.vector:
            cotangent, solution = cotangent.unsqueeze(-1), solution.unsqueeze(-1)
        pulled = self.solve(cotangent, True)
        back = adjoint(solution)
        out = pulled @ back if self.left else back @ pulled
        return sum_to(-out, self.shape)


class Determinant(LinearOperator):
    """``d det(A) = tr(adj(A) dA)`` (Jacobi) with the adjugate ``det(A) A^-1``."""

    __slots__ = ("matrix",)

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, tangent: Tensor) -> Tensor:
        return trace_of_product(adjugate(self.matrix), tangent)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return cotangent[..., None, None] * adjoint(adjugate(self.matrix))


class LogDeterminant(LinearOperator):
    """From A to the sign and the logarithm of the modulus of its determinant.

    ``d log|det A| = Re tr(A^-1 dA)``, ``d sign = i sign Im tr(A^-1 dA)``.
    """

    __slots__ = ("matrix", "sign")

    def __init__(self, matrix: Tensor, sign: Tensor) -> None:
        self.matrix = matrix
        self.sign = sign

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        trace = trace_of_product(torch.linalg.inv_ex(self.matrix)[0], tangent)
        if not trace.is_complex():
            return None, trace, None, None
        turn = torch.imag(trace) * (1j * self.sign)
        return turn, torch.real(trace), None, None

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        g_sign, total = cotangent[:2]
        if g_sign is not None and self.sign.is_complex():
            total = add(total, 1j * torch.imag(conjugate(self.sign) * g_sign))
        if total is None:
            return None
        inverse: Tensor = torch.linalg.inv_ex(self.matrix)[0]
        out: Tensor = total[..., None, None] * adjoint(inverse)
        return out


def trace_of_product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``tr(a b)``."""
    return torch.sum(a * torch.transpose(b, -2, -1), (-2, -1))


def adjugate(matrix: Tensor) -> Tensor:
    """Return ``det(A) A^-1``, also where A is singular.

    Zeros on the diagonal of its factor U are replaced by the least number that counts.
    """
    packed, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    own = diagonal(packed)
    shift = torch.where(own == 0, torch.finfo(packed.dtype).eps, 0).to(packed.dtype)
    packed = packed + torch.diag_embed(shift)
    places = torch.arange(1, own.shape[-1] + 1, device=pivots.device)
    swaps = torch.sum(pivots != places, -1)
    det = torch.prod(own + shift, -1) * (1 - 2 * torch.remainder(swaps, 2))
    inverse: Tensor = torch.linalg.lu_solve(packed, pivots, identity_like(packed))
    return det[..., None, None] * inverse


@dataclass(frozen=True, slots=True)
class LeastSquaresProblem:
    """``min |A X - B|`` and its solution.

    ``residual`` is ``A X - B`` where the lengths of its columns are an output, with
    ``has_values`` the singular values of A are one.
    """

    matrix: Tensor
    inverse: Tensor
    rhs: Tensor
    solution: Tensor
    residual: Tensor | None
    vector: bool
    has_values: bool

    def singular_values(self) -> SingularValues:
        """Return the derivative of the singular values of A."""
        u, s, vh = torch.linalg.svd(self.matrix, full_matrices=False)
        return SingularValues(u, s, vh, False)

    def finish(self, change: Tensor, moved: Tensor) -> tuple[Any, Any]:
        """Return the tangents of the solution and of the lengths.

        ``moved`` is the change of ``A X - B`` at constant X: ``A^H (A X - B) = 0``.
        """
        change = change.squeeze(-1) if self.vector else change
        if self.residual is None:
            return change, None
        lengths = torch.sum(real_part(conjugate(self.residual) * moved), -2)
        lengths = lengths.squeeze(-1) if self.vector else lengths
        return change, 2 * lengths

    def start(self, cotangent: Any) -> tuple[Tensor | None, Tensor | None]:
        """Return the cotangents of the solution, with columns, and of ``A X - B``."""
        g_x, g_lengths = cotangent[:2]
        if self.vector:
            g_x = g_x if g_x is None else g_x.unsqueeze(-1)
            g_lengths = g_lengths if g_lengths is None else g_lengths.unsqueeze(-1)
        if g_lengths is None or self.residual is None:
            return g_x, None
        return g_x, self.residual * (2 * g_lengths.unsqueeze(-2))


class LeastSquaresMatrix(LinearOperator):
    """From A to the solution ``A^+ B`` and the squared lengths of the residuals."""

    __slots__ = ("own",)

    def __init__(self, own: LeastSquaresProblem) -> None:
        self.own = own

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        own = self.own
        change = PseudoInverse(own.matrix, own.inverse).apply(tangent) @ own.rhs
        values = None
        if own.has_values:
            values = own.singular_values().apply(tangent)[1]
        return *own.finish(change, tangent @ own.solution), None, values

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        own = self.own
        g_x, moved = own.start(cotangent)
        out = None if moved is None else moved @ adjoint(own.solution)
        if g_x is not None:
            pulled = PseudoInverse(own.matrix, own.inverse).apply_transpose(
                g_x @ adjoint(own.rhs)
            )
            out = add(out, pulled)
        if cotangent[3] is not None and own.has_values:
            parts = (None, cotangent[3], None)
            out = add(out, own.singular_values().apply_transpose(parts))
        return None if out is None else sum_to(out, own.matrix.shape)


class LeastSquaresRightHandSide(LinearOperator):
    """From B to the solution ``A^+ B`` and the squared lengths of the residuals."""

    __slots__ = ("own",)

    def __init__(self, own: LeastSquaresProblem) -> None:
        self.own = own

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        own = self.own
        tangent = tangent.unsqueeze(-1) if own.vector else tangent
        return *own.finish(own.inverse @ tangent, -tangent), None, None

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        own = self.own
        g_x, moved = own.start(cotangent)
        out = None if moved is None else -moved
        if g_x is not None:
            out = add(out, adjoint(own.inverse) @ g_x)
        if out is None:
            return None
        out = sum_to(out, own.rhs.shape)
        return out.squeeze(-1) if own.vector else out
