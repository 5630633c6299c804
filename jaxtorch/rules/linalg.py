"""The operators of kernels/linalg.py: their batching rules and derivatives."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.factors import CholeskyFactor
from jaxtorch.linear.fan import Fan
from jaxtorch.linear.lu import FactoredMatrix, PackedFactors
from jaxtorch.linear.matrix import Adjoint, Triangle, adjoint
from jaxtorch.linear.operator import Composition, LinearOperator, Output
from jaxtorch.linear.systems import RightHandSide, SystemMatrix
from jaxtorch.rules import small_matrices as small
from jaxtorch.rules.fast import KERNELS
from jaxtorch.rules.matrices import same_leading
from jaxtorch.rules.record import BatchRule, Record


def folded_batch(call: Any, *cores: int) -> BatchRule:
    """Batch an operator of stacks: more matrices. ``cores`` are the dims of one."""

    def batch(size: int, dims: Any, *args: Any) -> Any:
        count = len(cores)
        stacks = same_leading(size, args[:count], dims, cores)
        lead = stacks[0].shape[:2]
        out = call(*[x.flatten(0, 1) for x in stacks], *args[count:])
        if isinstance(out, Tensor):
            return torch.unflatten(out, 0, lead), 0
        return tuple(torch.unflatten(o, 0, lead) for o in out), 0

    return batch


def small_cholesky_linearize(wanted: Any, a: Tensor, upper: bool) -> Any:
    """The status has no derivative."""
    out = KERNELS.small_cholesky.default(a, upper)
    return out, (Output(CholeskyFactor(out[0], upper), 0, 2),)


def small_lu_linearize(wanted: Any, a: Tensor) -> Any:
    """Pivots and status have no derivative."""
    out = KERNELS.small_lu.default(a)
    return out, (Output(PackedFactors(out[0], out[1]), 0, 3),)


def small_solve_linearize(wanted: Any, a: Tensor, b: Tensor) -> Any:
    """The matrix makes the solution and the factors."""

    def solve(rhs: Tensor, back: bool) -> Tensor:
        out: Tensor = small.solve_ex(adjoint(a) if back else a, rhs)[0]
        return out

    out = KERNELS.small_solve.default(a, b)
    system = SystemMatrix(solve, out[0], a.shape, True)
    return out, (
        Fan((system, PackedFactors(out[1], out[2]), None, None)),
        Output(RightHandSide(solve, b.shape), 0, 4),
    )


def small_lu_solve_linearize(
    wanted: Any, packed: Tensor, pivots: Tensor, b: Tensor, adjoint: bool
) -> Any:
    """The factors make the matrix, which makes the solution."""

    def solve(rhs: Tensor, back: bool) -> Tensor:
        return small.lu_solve(packed, pivots, rhs, adjoint=adjoint != back)

    out = KERNELS.small_lu_solve.default(packed, pivots, b, adjoint)
    matrix: LinearOperator = FactoredMatrix(packed, pivots)
    if adjoint:
        matrix = Composition(Adjoint(), matrix)
    system = SystemMatrix(solve, out, packed.shape, True)
    return out, (Composition(system, matrix), None, RightHandSide(solve, b.shape))


def small_triangular_linearize(
    wanted: Any, a: Tensor, b: Tensor, upper: bool, unit: bool
) -> Any:
    """Only the triangle of the matrix is read."""

    def solve(rhs: Tensor, back: bool) -> Tensor:
        matrix = adjoint(a) if back else a
        return small.solve_triangular(
            matrix, rhs, upper=upper != back, unitriangular=unit
        )

    out = KERNELS.small_triangular.default(a, b, upper, unit)
    system = SystemMatrix(solve, out, a.shape, True)
    return out, (
        Composition(system, Triangle(upper, unit)),
        RightHandSide(solve, b.shape),
    )


def record(call: Any, linearize: Any, *cores: int) -> Record:
    """Make the record of an operator."""
    return Record(call, folded_batch(call, *cores), linearize)


RECORDS = (
    record(KERNELS.small_cholesky.default, small_cholesky_linearize, 2),
    record(KERNELS.small_lu.default, small_lu_linearize, 2),
    record(KERNELS.small_solve.default, small_solve_linearize, 2, 2),
    record(KERNELS.small_lu_solve.default, small_lu_solve_linearize, 2, 1, 2),
    record(KERNELS.small_triangular.default, small_triangular_linearize, 2, 2),
)
