"""Linear systems, inverses, determinants, least squares, and functions of matrices."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.lu import FactoredMatrix
from jaxtorch.linear.matrix import (
    Adjoint,
    CrossProduct,
    Gram,
    InverseDerivative,
    MatrixExponential,
    PseudoInverse,
    Triangle,
    adjoint,
)
from jaxtorch.linear.operator import Composition, LinearOperator, Output
from jaxtorch.linear.systems import (
    Determinant,
    LeastSquaresMatrix,
    LeastSquaresProblem,
    LeastSquaresRightHandSide,
    LogDeterminant,
    RightHandSide,
    Solver,
    SystemMatrix,
)
from jaxtorch.rules import small_matrices as small
from jaxtorch.rules.batching import (
    batched_at_front,
    pad_rank,
    physical,
    rank_of,
    to_front,
)
from jaxtorch.rules.matrices import (
    fold_columns,
    same_leading,
    stack_batch,
    stacks_batch,
    unfold_columns,
    with_leading,
)
from jaxtorch.rules.record import BatchRule, Record

aten = torch.ops.aten


def is_vector(a: torch.Size, b: torch.Size) -> bool:
    """Tell whether the right hand sides of shape ``b`` have no columns."""
    return len(b) == 1 or (len(a) - 1 == len(b) and b == a[:-1])


def is_constant(x: Tensor) -> bool:
    """Tell whether nothing outside can ask for the derivative of ``x``."""
    return type(x) is Tensor and not x.requires_grad


def system_solver(a: Tensor, packed: Tensor, pivots: Tensor, left: bool) -> Solver:
    """Solve with ``a``; by its factors where nothing differentiates them.

    The factors are a function of ``a`` that the record of the solution leaves out.
    """
    reuse = is_constant(a) and is_constant(packed)

    def solve(rhs: Tensor, back: bool) -> Tensor:
        if reuse:
            return small.lu_solve(packed, pivots, rhs, left=left, adjoint=back)
        out: Tensor = small.solve_ex(adjoint(a) if back else a, rhs, left=left)[0]
        return out

    return solve


def solve_linearize(
    wanted: Any, a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False
) -> Any:
    """The solution; the factors that are returned with it serve only its derivative."""
    out = small.solve_ex(a, b, left=left, check_errors=check_errors)
    vector = is_vector(a.shape, b.shape)
    solve = system_solver(a, out[1], out[2], left)
    return tuple(out), (
        Output(SystemMatrix(solve, out[0], a.shape, left, vector), 0, 4),
        Output(RightHandSide(solve, b.shape, vector), 0, 4),
    )


def solve_batch(
    size: int,
    dims: Any,
    a: Tensor,
    b: Tensor,
    *,
    left: bool = True,
    check_errors: bool = False,
) -> Any:
    """A shared matrix solves for the columns of all examples at once."""
    a_dim, b_dim = dims
    a_shape = example_shape(a, a_dim)
    vector = is_vector(a_shape, example_shape(b, b_dim))
    if vector:
        b = b.unsqueeze(-1)
    call = small.solve_ex
    if a_dim is None and a.dim() == 2:
        x, *factors = call(a, fold_columns(b, b_dim, left), left=left)
        x, dim = unfold_columns(x, size, left)
        x = x.movedim(dim, 0)
        factor_dim = None
    else:
        rank = max(rank_of(a, a_dim), rank_of(b, b_dim)) - 2
        stacks = [with_leading(v, d, 2, rank) for v, d in ((a, a_dim), (b, b_dim))]
        x, *factors = call(*stacks, left=left, check_errors=check_errors)
        factor_dim = None if a_dim is None else 0
        lead = a_shape[:-2] if a_dim is None else (size, *a_shape[:-2])
        factors = [f.reshape(*lead, *f.shape[rank + 1 :]) for f in factors]
    x = x.squeeze(-1) if vector else x
    return (x, *factors), (0, factor_dim, factor_dim, factor_dim)


def example_shape(x: Tensor, dim: int | None) -> torch.Size:
    """Return the shape of one example."""
    return x.shape if dim is None else x.shape[:dim] + x.shape[dim + 1 :]


def shared_batch(call: Callable[..., Any], *cores: int) -> BatchRule:
    """Batch a solver ``call(*factors, rhs)``; columns that alone differ are folded.

    ``cores`` are the numbers of dims that are not leading of its tensors; the right
    hand side is the first tensor of ``cholesky_solve`` and otherwise the last.
    """
    place = 0 if call is aten.cholesky_solve.default else len(cores) - 1
    expand = stacks_batch(call, *cores)

    def batch(size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        others = [i for i in range(len(cores)) if i != place]
        shared = all(dims[i] is None and args[i].dim() == cores[i] for i in others)
        if not shared:
            return expand(size, dims, *args, **kwargs)
        left = kwargs.get("left", True)
        own = list(args)
        own[place] = fold_columns(args[place], dims[place], left)
        return unfold_columns(call(*own, **kwargs), size, left)

    return batch


def lu_solve_linearize(
    wanted: Any,
    packed: Tensor,
    pivots: Tensor,
    b: Tensor,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> Any:
    """With ``adjoint`` the matrix is ``A^H``."""

    def solve(rhs: Tensor, back: bool) -> Tensor:
        flip = adjoint != back
        return small.lu_solve(packed, pivots, rhs, left=left, adjoint=flip)

    out = solve(b, False)
    matrix: LinearOperator = FactoredMatrix(packed, pivots)
    if adjoint:
        matrix = Composition(Adjoint(), matrix)
    system = SystemMatrix(solve, out, packed.shape, left)
    return out, (Composition(system, matrix), None, RightHandSide(solve, b.shape))


def solve_triangular_linearize(
    wanted: Any,
    a: Tensor,
    b: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Any:
    """Only the triangle of the matrix is read."""

    def solve(rhs: Tensor, back: bool) -> Tensor:
        return small.solve_triangular(
            adjoint(a) if back else a,
            rhs,
            upper=upper != back,
            left=left,
            unitriangular=unitriangular,
        )

    out = solve(b, False)
    system = SystemMatrix(solve, out, a.shape, left)
    return out, (
        Composition(system, Triangle(upper, unitriangular)),
        RightHandSide(solve, b.shape),
    )


def triangular_solve_decompose(
    b: Tensor,
    a: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Tensor, Tensor]:
    """The older spelling, that also returns a copy of the matrix."""
    matrix = a.mT if transpose else a
    out = torch.linalg.solve_triangular(
        matrix, b, upper=upper != transpose, unitriangular=unitriangular
    )
    return out, a.clone()


def cholesky_solve_linearize(
    wanted: Any, b: Tensor, factor: Tensor, upper: bool = False
) -> Any:
    """Solve with ``A = L L^H``, or ``U^H U``."""

    def solve(rhs: Tensor, back: bool) -> Tensor:
        return torch.cholesky_solve(rhs, factor, upper)

    out = solve(b, False)
    system = SystemMatrix(solve, out, factor.shape, True)
    return out, (
        RightHandSide(solve, b.shape),
        Composition(system, Gram(factor, upper)),
    )


def cholesky_inverse_linearize(wanted: Any, factor: Tensor, upper: bool = False) -> Any:
    """The inverse of ``A = L L^H``, or ``U^H U``."""
    out = torch.cholesky_inverse(factor, upper)
    return out, (Composition(InverseDerivative(out), Gram(factor, upper)),)


def inverse_linearize(wanted: Any, a: Tensor, *, check_errors: bool = False) -> Any:
    """The inverse and a status that has no derivative."""
    out = small.inv_ex(a, check_errors=check_errors)
    return tuple(out), (Output(InverseDerivative(out[0]), 0, 2),)


def det_linearize(wanted: Any, a: Tensor) -> Any:
    """The factors that are returned as well, of A or its transpose, are constant."""
    out = small.det(a)
    return tuple(out), (Output(Determinant(a), 0, 3),)


def slogdet_linearize(wanted: Any, a: Tensor) -> Any:
    """The factors that are returned as well, of A or its transpose, are constant."""
    out = small.slogdet(a)
    return tuple(out), (LogDeterminant(a, out[0]),)


def matrix_exp_batch(size: int, dims: Any, a: Tensor) -> tuple[Tensor, int]:
    """The kernel takes only contiguous stacks."""
    return torch.linalg.matrix_exp(to_front(a, dims[0]).contiguous()), 0


def matrix_exp_linearize(wanted: Any, a: Tensor) -> Any:
    """Computed once more for twice the size where a derivative is asked for."""
    return torch.linalg.matrix_exp(a), (MatrixExponential(a),)


def pinv_linearize(wanted: Any, a: Tensor, **kwargs: Any) -> Any:
    """The pseudoinverse for a constant rank."""
    out = aten.linalg_pinv.atol_rtol_tensor(a, **kwargs)
    return out, (PseudoInverse(a, out),)


def pinv_named_batch(
    size: int, dims: Any, named: Any, a: Tensor, **kwargs: Any
) -> tuple[Tensor, int]:
    """Each example has a tolerance of its own, or several for its matrices."""
    a = batched_at_front(a, dims[0], size)
    for name, dim in named.items():
        kwargs[name] = pad_rank(to_front(kwargs[name], dim), a.dim() - 3)
    return aten.linalg_pinv.atol_rtol_tensor(a, **kwargs), 0


def lstsq_linearize(
    wanted: Any, a: Tensor, b: Tensor, rcond: Any = None, *, driver: Any = None
) -> Any:
    """``X = A^+ B``; the residuals where they are returned."""
    out = aten.linalg_lstsq.default(a, b, rcond, driver=driver)
    solution, lengths = out[0], out[1]
    vector = is_vector(a.shape, b.shape)
    rhs = b.unsqueeze(-1) if vector else b
    x = solution.unsqueeze(-1) if vector else solution
    own = LeastSquaresProblem(
        matrix=a,
        inverse=torch.linalg.pinv(a),
        rhs=rhs,
        solution=x,
        residual=a @ x - rhs if lengths.numel() else None,
        vector=vector,
        has_values=out[3].numel() > 0,
    )
    return tuple(out), (LeastSquaresMatrix(own), LeastSquaresRightHandSide(own))


def lstsq_batch(
    size: int,
    dims: Any,
    a: Tensor,
    b: Tensor,
    rcond: Any = None,
    *,
    driver: Any = None,
) -> Any:
    """What the driver does not compute is empty and has no batch dim."""
    vector = is_vector(example_shape(a, dims[0]), example_shape(b, dims[1]))
    b = b.unsqueeze(-1) if vector else b
    own = same_leading(size, (a, b), dims, (2, 2))
    out = aten.linalg_lstsq.default(*own, rcond, driver=driver)
    x, lengths, rank, values = out
    out_dims = (
        0,
        0 if lengths.dim() > 1 else None,
        None if driver == "gels" or (driver is None and not a.is_cpu) else 0,
        0 if values.dim() > 1 else None,
    )
    if vector:
        x = x.squeeze(-1)
        lengths = lengths.squeeze(-1) if lengths.dim() > 1 else lengths
    return (x, lengths, rank, values), out_dims


def cross_linearize(wanted: Any, x: Tensor, y: Tensor, *, dim: int = -1) -> Any:
    """``d(x * y) = dx * y - dy * x``."""
    out = torch.linalg.cross(x, y, dim=dim)
    return out, (CrossProduct(y, dim, x.shape, 1), CrossProduct(x, dim, y.shape, -1))


def cross_batch(size: int, dims: Any, x: Tensor, y: Tensor, *, dim: int = -1) -> Any:
    """Both examples have the same number of dims."""
    rank = rank_of(x, dims[0])
    stacks = [with_leading(v, d, rank, 0) for v, d in ((x, dims[0]), (y, dims[1]))]
    return torch.linalg.cross(*stacks, dim=physical(dim, rank)), 0


RECORDS = (
    Record(aten._linalg_solve_ex.default, solve_batch, solve_linearize),
    Record(
        aten.linalg_lu_solve.default,
        shared_batch(small.lu_solve, 2, 1, 2),
        lu_solve_linearize,
    ),
    Record(
        aten.linalg_solve_triangular.default,
        shared_batch(small.solve_triangular, 2, 2),
        solve_triangular_linearize,
    ),
    Record(aten.triangular_solve.default, decompose=triangular_solve_decompose),
    Record(
        aten.cholesky_solve.default,
        shared_batch(aten.cholesky_solve.default, 2, 2),
        cholesky_solve_linearize,
    ),
    Record(
        aten.cholesky_inverse.default,
        stack_batch(aten.cholesky_inverse.default),
        cholesky_inverse_linearize,
    ),
    Record(
        aten.linalg_ldl_solve.default,
        shared_batch(aten.linalg_ldl_solve.default, 2, 1, 2),
    ),
    Record(
        aten.linalg_inv_ex.default,
        stack_batch(small.inv_ex),
        inverse_linearize,
    ),
    Record(aten._linalg_det.default, stack_batch(small.det), det_linearize),
    Record(
        aten._linalg_slogdet.default,
        stack_batch(small.slogdet),
        slogdet_linearize,
    ),
    Record(
        aten.linalg_matrix_exp.default,
        matrix_exp_batch,
        matrix_exp_linearize,
    ),
    Record(
        aten.linalg_pinv.atol_rtol_tensor,
        stack_batch(aten.linalg_pinv.atol_rtol_tensor),
        pinv_linearize,
        named_batch=pinv_named_batch,
    ),
    Record(aten.linalg_lstsq.default, lstsq_batch, lstsq_linearize),
    Record(aten.linalg_cross.default, cross_batch, cross_linearize),
)
