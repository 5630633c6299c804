"""Linear algebra of stacks of small matrices on kernels; torch's functions elsewhere.

Each function has the name, the arguments and the results of torch's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.rules import fast

aten = torch.ops.aten


def stack(x: Tensor, core: int = 2) -> Tensor:
    """Return one leading dim."""
    lead = x.dim() - core
    return x.flatten(0, lead - 1) if lead else x.unsqueeze(0)


def like(lead: Sequence[int], *outs: Tensor) -> tuple[Tensor, ...]:
    """Return results with the leading dims of the call."""
    return tuple(out.view((*lead, *out.shape[1:])) for out in outs)


def is_small(x: Tensor, *others: Tensor) -> bool:
    """Tell whether kernels may run on matrices of one stack."""
    return (
        fast.runs(x, *others)
        and x.dim() > 1
        and x.shape[-1] <= fast.LARGEST
        and all(x.shape[:-1] == y.shape[:-1] for y in others)
    )


def cholesky_ex(x: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """Return the factor and a status."""
    if is_small(x) and not check_errors:
        own = stack(x), upper
        if fast.SMALL_CHOLESKY.chosen(*own):
            return like(x.shape[:-2], *fast.SMALL_CHOLESKY.overload(*own))
    return torch.linalg.cholesky_ex(x, upper=upper, check_errors=check_errors)


def lu_factor_ex(x: Tensor, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """Return the packed factors, the pivots and a status."""
    if is_small(x) and pivot and not check_errors:
        own = stack(x)
        if fast.SMALL_LU.chosen(own):
            return like(x.shape[:-2], *fast.SMALL_LU.overload(own))
    return torch.linalg.lu_factor_ex(x, pivot=pivot, check_errors=check_errors)


def solve_ex(
    a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False
) -> Any:
    """Return the solution, the packed factors, the pivots and a status."""
    if fast.runs(a, b) and left and not check_errors:
        vector = b.shape == a.shape[:-1]
        rhs = b.unsqueeze(-1) if vector else b
        if is_small(a, rhs) and fast.SMALL_SOLVE.chosen(stack(a), stack(rhs)):
            outs = fast.SMALL_SOLVE.overload(stack(a), stack(rhs))
            x, *rest = like(a.shape[:-2], *outs)
            return x.squeeze(-1) if vector else x, *rest
    return aten._linalg_solve_ex.default(a, b, left=left, check_errors=check_errors)


def lu_solve(
    packed: Tensor,
    pivots: Tensor,
    b: Tensor,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> Tensor:
    """Solve with the factors; on the right of X it is the transposed that solves."""
    if fast.runs(packed, b) and is_small(packed, rhs := b if left else b.mT):
        own = stack(packed), stack(pivots, 1), stack(rhs), adjoint == left
        if fast.SMALL_LU_SOLVE.chosen(*own):
            x = like(b.shape[:-2], fast.SMALL_LU_SOLVE.overload(*own))[0]
            return x if left else x.mT
    out: Tensor = torch.linalg.lu_solve(packed, pivots, b, left=left, adjoint=adjoint)
    return out


def solve_triangular(
    a: Tensor,
    b: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Tensor:
    """Solve with a triangle; on the right of X it is the transposed that solves."""
    if fast.runs(a, b) and is_small(a, rhs := b if left else b.mT):
        matrix = a if left else a.mT
        own = stack(matrix), stack(rhs), upper == left, unitriangular
        if fast.SMALL_TRIANGULAR.chosen(*own):
            x = like(b.shape[:-2], fast.SMALL_TRIANGULAR.overload(*own))[0]
            return x if left else x.mT
    out: Tensor = torch.linalg.solve_triangular(
        a, b, upper=upper, left=left, unitriangular=unitriangular
    )
    return out


def inv_ex(a: Tensor, *, check_errors: bool = False) -> Any:
    """Return the inverse and a status: solve for the columns of the identity."""
    if is_small(a) and not check_errors:
        own = stack(a)
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(own.shape)
        if fast.SMALL_SOLVE.chosen(own, eye):
            out = fast.SMALL_SOLVE.overload(own, eye)
            return like(a.shape[:-2], out[0], out[3])
    return torch.linalg.inv_ex(a, check_errors=check_errors)


def det(a: Tensor) -> Any:
    """Return the determinant, the packed factors and the pivots."""
    if is_small(a) and fast.SMALL_LU.chosen(stack(a)):
        packed, pivots, _ = lu_factor_ex(a)
        pivot = torch.diagonal(packed, 0, -2, -1)
        return torch.prod(pivot, -1) * parity(pivots), packed, pivots
    return aten._linalg_det.default(a)


def slogdet(a: Tensor) -> Any:
    """Return sign and logarithm of the determinant, the packed factors, the pivots."""
    if is_small(a) and fast.SMALL_LU.chosen(stack(a)):
        packed, pivots, _ = lu_factor_ex(a)
        pivot = torch.diagonal(packed, 0, -2, -1)
        sign = torch.prod(torch.sign(pivot), -1) * parity(pivots)
        return sign, torch.sum(torch.log(torch.abs(pivot)), -1), packed, pivots
    return aten._linalg_slogdet.default(a)


def parity(pivots: Tensor) -> Tensor:
    """Return 1 for an even number of swaps, -1 for an odd one."""
    places = torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)
    return 1 - 2 * torch.remainder(torch.sum(pivots != places, -1), 2)
