"""Matrix factorizations: cholesky, qr, lu, ldl, svd, eigh, eig, reflections."""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.linear.factors import (
    CholeskyFactor,
    GeneralEigen,
    HermitianEigen,
    OrthogonalTriangular,
    SingularValues,
)
from jaxtorch.linear.lu import PackedFactors, TriangularFactors, Unpacked
from jaxtorch.linear.matrix import adjoint, conjugate
from jaxtorch.linear.operator import Output
from jaxtorch.rules import small_matrices as small
from jaxtorch.rules.matrices import partial_batch, stack_batch, stacks_batch
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def cholesky_linearize(wanted: Any, x: Tensor, upper: bool = False) -> Any:
    """The factor alone; not positive definite is an error."""
    out = aten.cholesky.default(x, upper)
    return out, (CholeskyFactor(out, upper),)


def cholesky_ex_linearize(
    wanted: Any, x: Tensor, *, upper: bool = False, check_errors: bool = False
) -> Any:
    """The factor and a status that has no derivative."""
    out = small.cholesky_ex(x, upper=upper, check_errors=check_errors)
    return tuple(out), (Output(CholeskyFactor(out[0], upper), 0, 2),)


def eigh_linearize(
    wanted: Any, x: Tensor, uplo: str = "L", compute_v: bool = True
) -> Any:
    """The vectors are needed for the derivative, also where they are not returned."""
    values, vectors = aten._linalg_eigh.default(x, uplo, True)
    operator = HermitianEigen(values, vectors, compute_v)
    return (values, vectors if compute_v else x.new_empty(0)), (operator,)


def has_vectors(setting: Any = None, compute_vectors: bool = True) -> bool:
    """Tell whether an eigh or svd returns vectors."""
    return compute_vectors


def has_q(mode: str = "reduced") -> bool:
    """Tell whether a qr returns Q."""
    return mode != "r"


def eig_linearize(wanted: Any, x: Tensor) -> Any:
    """Eigenvalues and vectors of a general matrix."""
    values, vectors = torch.linalg.eig(x)
    return (values, vectors), (GeneralEigen(values, vectors, x.dtype),)


def eigvals_decompose(x: Tensor) -> Tensor:
    """The vectors are needed for the derivative."""
    out: Tensor = torch.linalg.eig(x)[0]
    return out


def svd_linearize(
    wanted: Any,
    x: Tensor,
    full_matrices: bool = False,
    compute_uv: bool = True,
    *,
    driver: Any = None,
) -> Any:
    """The vectors are needed for the derivative, also where they are not returned."""
    full = full_matrices and compute_uv
    u, s, vh = aten._linalg_svd.default(x, full, True, driver=driver)
    operator = SingularValues(u, s, vh, compute_uv)
    if not compute_uv:
        return (x.new_empty(0), s, x.new_empty(0)), (operator,)
    return (u, s, vh), (operator,)


def qr_linearize(wanted: Any, x: Tensor, mode: str = "reduced") -> Any:
    """Q is needed for the derivative, also where only R is returned."""
    if mode == "r":
        q, r = torch.linalg.qr(x, "reduced")
        return (x.new_empty(0), r), (OrthogonalTriangular(q, r, None),)
    q, r = torch.linalg.qr(x, mode)
    count = min(x.shape[-2:])
    return (q, r), (OrthogonalTriangular(q[..., :count], r, q),)


def lu_linearize(wanted: Any, x: Tensor, *, pivot: bool = True) -> Any:
    """The permutation is constant."""
    p, lower, upper = torch.linalg.lu(x, pivot=pivot)
    operator = TriangularFactors(p if pivot else None, lower, upper)
    return (p, lower, upper), (operator,)


def lu_factor_linearize(
    wanted: Any, x: Tensor, *, pivot: bool = True, check_errors: bool = False
) -> Any:
    """The packed factors; pivots and status have no derivative."""
    out = small.lu_factor_ex(x, pivot=pivot, check_errors=check_errors)
    return tuple(out), (Output(PackedFactors(out[0], out[1]), 0, 3),)


def lu_unpack_linearize(
    wanted: Any,
    packed: Tensor,
    pivots: Tensor,
    unpack_data: bool = True,
    unpack_pivots: bool = True,
) -> Any:
    """Cutting out triangles is linear."""
    out = torch.lu_unpack(packed, pivots, unpack_data, unpack_pivots)
    return tuple(out), (Unpacked(packed.shape),) if unpack_data else ()


def lu_unpack_batch(
    size: int,
    dims: Any,
    packed: Tensor,
    pivots: Tensor,
    unpack_data: bool = True,
    unpack_pivots: bool = True,
) -> Any:
    """What is not unpacked is empty and has no batch dim."""
    flags = (unpack_data, unpack_pivots)
    rule = stacks_batch(torch.lu_unpack, 2, 1)
    out, _ = rule(size, dims, packed, pivots, *flags)
    data, permutation = 0 if unpack_data else None, 0 if unpack_pivots else None
    return tuple(out), (permutation, data, data)


def reflections(vectors: Tensor, scales: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the vectors [*, m, 1] and scales of ``I - tau v v^H``, one per column.

    A vector is the part of its column below the diagonal, behind a one.
    """
    lower = torch.tril(vectors, -1)
    lower = lower + torch.eye(
        *vectors.shape[-2:], dtype=vectors.dtype, device=vectors.device
    )
    return [
        (lower[..., :, i : i + 1], scales[..., i, None, None])
        for i in range(scales.shape[-1])
    ]


def householder_product_decompose(vectors: Tensor, scales: Tensor) -> Tensor:
    """Apply the reflections, last first, to the first columns of the identity."""
    out = torch.eye(*vectors.shape[-2:], dtype=vectors.dtype, device=vectors.device)
    out = out.expand(vectors.shape)
    for v, tau in reversed(reflections(vectors, scales)):
        out = out - tau * (v @ (adjoint(v) @ out))
    return out


def ormqr_decompose(
    vectors: Tensor,
    scales: Tensor,
    other: Tensor,
    left: bool = True,
    transpose: bool = False,
) -> Tensor:
    """Apply the reflections one by one: ``Q C``, or C Q as ``(Q^H C^H)^H``."""
    if not left:
        other = adjoint(other)
        transpose = not transpose
    steps = reflections(vectors, conjugate(scales) if transpose else scales)
    for v, tau in steps if transpose else reversed(steps):
        other = other - tau * (v @ (adjoint(v) @ other))
    return other if left else adjoint(other)


def check_errors_batch(
    size: int, dims: Any, info: Tensor, api_name: str, *, is_matrix: bool
) -> tuple[None, None]:
    """Raise if any example failed."""
    aten._linalg_check_errors.default(info, api_name, is_matrix=False)
    return None, None


def one_of_a_stack(name: str) -> Record:
    """Make the record of a factorization that has no derivative."""
    overload = getattr(aten, name).default
    return Record(overload, stack_batch(overload))


def cholesky_records() -> tuple[Record, ...]:
    """Make the record of ``aten.cholesky``, which PyTorch has up to 2.13."""
    if not hasattr(aten, "cholesky"):
        return ()
    overload = aten.cholesky.default
    return (Record(overload, stack_batch(overload), cholesky_linearize),)


RECORDS = (
    *cholesky_records(),
    Record(
        aten.linalg_cholesky_ex.default,
        stack_batch(small.cholesky_ex),
        cholesky_ex_linearize,
    ),
    Record(
        aten._linalg_eigh.default,
        partial_batch(aten._linalg_eigh.default, has_vectors),
        eigh_linearize,
    ),
    Record(
        aten.linalg_eig.default, stack_batch(aten.linalg_eig.default), eig_linearize
    ),
    Record(
        aten._linalg_eigvals.default,
        stack_batch(aten._linalg_eigvals.default),
        decompose=eigvals_decompose,
    ),
    Record(
        aten._linalg_svd.default,
        partial_batch(aten._linalg_svd.default, has_vectors),
        svd_linearize,
    ),
    Record(
        aten.linalg_qr.default,
        partial_batch(aten.linalg_qr.default, has_q),
        qr_linearize,
    ),
    Record(aten.linalg_lu.default, stack_batch(aten.linalg_lu.default), lu_linearize),
    Record(
        aten.linalg_lu_factor_ex.default,
        stack_batch(small.lu_factor_ex),
        lu_factor_linearize,
    ),
    Record(aten.lu_unpack.default, lu_unpack_batch, lu_unpack_linearize),
    Record(
        aten.linalg_householder_product.default,
        stacks_batch(aten.linalg_householder_product.default, 2, 1),
        decompose=householder_product_decompose,
    ),
    Record(
        aten.ormqr.default,
        stacks_batch(aten.ormqr.default, 2, 1, 2),
        decompose=ormqr_decompose,
    ),
    one_of_a_stack("geqrf"),
    one_of_a_stack("linalg_ldl_factor_ex"),
    Record(aten._linalg_check_errors.default, check_errors_batch),
)
