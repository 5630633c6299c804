"""Matrix helpers of the linear algebra operators, and the simplest of them.

Dispatch ignores the lazy conjugate bit, so that conjugates are made physically.
"""

import torch
from torch import Tensor

from jaxtorch.linear.broadcast import sum_to
from jaxtorch.linear.operator import LinearOperator


def adjoint(x: Tensor) -> Tensor:
    """Return the conjugate transpose of matrices [*, m, n]."""
    x = torch.transpose(x, -2, -1)
    return torch.conj_physical(x) if x.is_complex() else x


def conjugate(x: Tensor) -> Tensor:
    """Return the conjugate."""
    return torch.conj_physical(x) if x.is_complex() else x


def real_part(x: Tensor) -> Tensor:
    """Return the real part."""
    return torch.real(x) if x.is_complex() else x


def hermitian(x: Tensor) -> Tensor:
    """Return the Hermitian part ``(x + x^H) / 2``, a projection."""
    return (x + adjoint(x)) * 0.5


def half_tril(x: Tensor) -> Tensor:
    """Return the lower triangle with half the diagonal."""
    return (torch.tril(x) + torch.tril(x, -1)) * 0.5


def half_triu(x: Tensor) -> Tensor:
    """Return the upper triangle with half the diagonal."""
    return (torch.triu(x) + torch.triu(x, 1)) * 0.5


def diagonal(x: Tensor) -> Tensor:
    """Return the diagonals [*, n] of matrices."""
    return torch.diagonal(x, 0, -2, -1)


def identity_like(x: Tensor) -> Tensor:
    """Return the identity of the size of square matrices."""
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def solve_lower(
    matrix: Tensor, rhs: Tensor, left: bool = True, unit: bool = False
) -> Tensor:
    """Solve with a lower triangular matrix: ``L^-1 B``, or ``B L^-1``."""
    out: Tensor = torch.linalg.solve_triangular(
        matrix, rhs, upper=False, left=left, unitriangular=unit
    )
    return out


def solve_upper(matrix: Tensor, rhs: Tensor, left: bool = True) -> Tensor:
    """Solve with an upper triangular matrix: ``U^-1 B``, or ``B U^-1``."""
    out: Tensor = torch.linalg.solve_triangular(matrix, rhs, upper=True, left=left)
    return out


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Add two cotangents of which None is a zero."""
    if a is None:
        return b
    return a if b is None else a + b


class InverseDerivative(LinearOperator):
    """``dX = -X dA X`` for the inverse X of A (Giles 2008, 2.2.3)."""

    __slots__ = ("inverse",)

    def __init__(self, inverse: Tensor) -> None:
        self.inverse = inverse

    def apply(self, tangent: Tensor) -> Tensor:
        return -(self.inverse @ tangent @ self.inverse)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        back = adjoint(self.inverse)
        return -(back @ cotangent @ back)


class Gram(LinearOperator):
    """``dA = dL L^H + L dL^H`` for A = L L^H; with ``upper`` for A = U^H U.

    Only the triangle of the factor is read.
    """

    __slots__ = ("factor", "upper")

    def __init__(self, factor: Tensor, upper: bool) -> None:
        self.factor = factor
        self.upper = upper

    def apply(self, tangent: Tensor) -> Tensor:
        if self.upper:
            half = adjoint(torch.triu(self.factor)) @ torch.triu(tangent)
        else:
            half = torch.tril(tangent) @ adjoint(torch.tril(self.factor))
        return half + adjoint(half)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        both = cotangent + adjoint(cotangent)
        if self.upper:
            return torch.triu(torch.triu(self.factor) @ both)
        return torch.tril(both @ torch.tril(self.factor))


class Triangle(LinearOperator):
    """Reading one triangle of a matrix; not the diagonal where it counts as ones."""

    __slots__ = ("upper", "unit")

    def __init__(self, upper: bool, unit: bool) -> None:
        self.upper = upper
        self.unit = unit

    def apply(self, tangent: Tensor) -> Tensor:
        offset = 1 if self.unit else 0
        if self.upper:
            return torch.triu(tangent, offset)
        return torch.tril(tangent, -offset)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return self.apply(cotangent)


class Adjoint(LinearOperator):
    """The conjugate transpose, its own transpose."""

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Tensor:
        return adjoint(tangent)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return adjoint(cotangent)


class MatrixExponential(LinearOperator):
    """The upper right block of ``exp([[A, dA], [0, A]])`` (Najfeld, Havel 1995)."""

    __slots__ = ("matrix",)

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, tangent: Tensor) -> Tensor:
        return upper_right_of_exponential(self.matrix, tangent)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return upper_right_of_exponential(adjoint(self.matrix), cotangent)


def upper_right_of_exponential(matrix: Tensor, corner: Tensor) -> Tensor:
    """Return the derivative of the matrix exponential along ``corner``."""
    size = matrix.shape[-1]
    top = torch.cat([matrix, corner], -1)
    bottom = torch.cat([torch.zeros_like(matrix), matrix], -1)
    whole: Tensor = torch.linalg.matrix_exp(torch.cat([top, bottom], -2))
    return whole[..., :size, size:]


class PseudoInverse(LinearOperator):
    """The derivative of ``X = A^+`` where the rank is constant.

    ``dX = -X dA X + X X^H dA^H (I - A X) + (I - X A) dA^H X^H X`` (Golub, Pereyra 1973,
    4.12).
    """

    __slots__ = ("matrix", "inverse")

    def __init__(self, matrix: Tensor, inverse: Tensor) -> None:
        self.matrix = matrix
        self.inverse = inverse

    def apply(self, tangent: Tensor) -> Tensor:
        a, x, back = self.matrix, self.inverse, adjoint(tangent)
        first = x @ (adjoint(x) @ back)
        second = (back @ adjoint(x)) @ x
        out = first - (first @ a) @ x + second - x @ (a @ second)
        return out - x @ tangent @ x

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        a, x, back = self.matrix, self.inverse, adjoint(cotangent)
        away = adjoint(x)
        first = (back @ x) @ away
        second = away @ (x @ back)
        out = first - a @ (x @ first) + second - (second @ x) @ a
        return out - away @ cotangent @ away


class CrossProduct(LinearOperator):
    """``cross(tangent, factor)``; the transpose is ``cross(factor, cotangent)``."""

    __slots__ = ("factor", "dim", "shape", "sign")

    def __init__(self, factor: Tensor, dim: int, shape: torch.Size, sign: int) -> None:
        self.factor = factor
        self.dim = dim
        self.shape = shape
        self.sign = sign

    def apply(self, tangent: Tensor) -> Tensor:
        out: Tensor = torch.linalg.cross(tangent, self.factor, dim=self.dim)
        return out if self.sign > 0 else -out

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        out = torch.linalg.cross(conjugate(self.factor), cotangent, dim=self.dim)
        return sum_to(out if self.sign > 0 else -out, self.shape)
