"""Products summed over an index: dot, mv, mm, bmm, addmm. All are bilinear."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import UsageError, explain
from jaxtorch.linear.broadcast import Broadcast
from jaxtorch.linear.contraction import Contraction, transposed
from jaxtorch.linear.diagonal import Scale
from jaxtorch.linear.operator import Composition, LinearOperator
from jaxtorch.rules import fast
from jaxtorch.rules.batching import batched_at_front, pad_rank, rank_of, to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten


# dot: x_i y_i


def check_ranks(name: str, args: Any, dims: Any, ranks: tuple[int, int]) -> None:
    """Refuse examples of other ranks: their batches may well have a product."""
    own = rank_of(args[0], dims[0]), rank_of(args[1], dims[1])
    if own != ranks:
        raise UsageError(
            explain(
                "vmap",
                f"{name} expects tensors of {ranks[0]} and {ranks[1]} dims, one "
                f"example has {own[0]} and {own[1]}.",
                "count the dims of one example, without the batch dim; torch.matmul "
                "takes vectors and matrices",
            )
        )


def dot_batch(size: int, dims: Any, x: Tensor, y: Tensor) -> Any:
    """One matrix-vector product, or a row-wise dot where both are batched."""
    check_ranks("dot", (x, y), dims, (1, 1))
    if dims[0] is None:
        x, y, dims = y, x, (dims[1], None)
    x = to_front(x, dims[0])
    if dims[1] is None:
        return torch.mv(x, y), 0
    y = to_front(y, dims[1])
    if x.shape[1] != y.shape[1]:
        raise UsageError(
            explain(
                "vmap",
                f"dot of vectors of {x.shape[1]} and {y.shape[1]} elements.",
                "pass vectors of one length",
            )
        )
    return fast.dots(x, y), 0


def vdot_decompose(x: Tensor, y: Tensor) -> Tensor:
    """``vdot(x, y) = dot(conj(x), y)``."""
    return torch.dot(x.conj_physical() if x.is_complex() else x, y)


def _dot_adjoint(g: Tensor, y: Tensor) -> Tensor:
    return g * y


def dot_linearize(wanted: Any, x: Tensor, y: Tensor) -> Any:
    """``d(x.y) = dx.y + x.dy``."""
    return torch.dot(x, y), (
        wanted[0] and Contraction(torch.dot, _dot_adjoint, y),
        wanted[1] and Contraction(torch.dot, _dot_adjoint, x),
    )


# mv: A_ij x_j


def mv_batch(size: int, dims: Any, a: Tensor, x: Tensor) -> Any:
    """Fold into one product; multiply and sum batch by batch where both are batched."""
    check_ranks("mv", (a, x), dims, (2, 1))
    a_dim, x_dim = dims
    if x_dim is None:
        return torch.matmul(to_front(a, a_dim), x), 0
    if a_dim is None:
        if x_dim == 1:
            return torch.mm(a, x), 1
        return torch.mm(x, torch.t(a)), 0
    return fast.mv(to_front(a, a_dim), to_front(x, x_dim)), 0


def _mv_by_matrix(t: Tensor, a: Tensor) -> Tensor:
    return torch.mv(a, t)


def _mv_adjoint_by_matrix(g: Tensor, a: Tensor) -> Tensor:
    return torch.mv(torch.t(a), g)


def _outer(g: Tensor, x: Tensor) -> Tensor:
    return torch.unsqueeze(g, 1) * x


def mv_linearize(wanted: Any, a: Tensor, x: Tensor) -> Any:
    """``d(Ax) = dA x + A dx``."""
    return torch.mv(a, x), _mv_operators(wanted, a, x)


def _mv_operators(wanted: Any, a: Tensor, x: Tensor) -> Any:
    return (
        wanted[0] and Contraction(torch.mv, _outer, x),
        wanted[1] and Contraction(_mv_by_matrix, _mv_adjoint_by_matrix, a),
    )


# mm and bmm: A_ij B_jk


def mm_batch(size: int, dims: Any, a: Tensor, b: Tensor) -> Any:
    """Fold the batch into the rows of the batched operand: one product for all."""
    check_ranks("mm", (a, b), dims, (2, 2))
    a_dim, b_dim = dims
    if b_dim is None:
        if a_dim == 1:
            return torch.matmul(a, b), 1
        return fast.shared_bmm(to_front(a, a_dim), b), 0
    if a_dim is None:
        folded = fast.shared_bmm(transposed(to_front(b, b_dim)), torch.t(a))
        return transposed(folded), 0
    return fast.bmm(to_front(a, a_dim), to_front(b, b_dim)), 0


def bmm_batch(size: int, dims: Any, a: Tensor, b: Tensor) -> Any:
    """Fold two batches into one, or one batch into the rows of its operand."""
    a_dim, b_dim = dims
    if a_dim is not None and b_dim is not None:
        a, b = to_front(a, a_dim), to_front(b, b_dim)
        out = fast.bmm(a.flatten(0, 1), b.flatten(0, 1))
        return out.reshape(size, a.shape[1], *out.shape[1:]), 0
    if b_dim is None:
        rows = a.movedim(a_dim, 1)
        out = fast.bmm(rows.flatten(1, 2), b)
        return out.reshape(*rows.shape[:3], out.shape[2]), 1
    columns = b.movedim(b_dim, 2)
    out = fast.bmm(a, columns.flatten(2, 3))
    return out.reshape(*out.shape[:2], *columns.shape[2:]), 2


def _mm_adjoint_by_right(g: Tensor, b: Tensor) -> Tensor:
    return torch.mm(g, torch.t(b))


def _mm_by_left(t: Tensor, a: Tensor) -> Tensor:
    return torch.mm(a, t)


def _mm_adjoint_by_left(g: Tensor, a: Tensor) -> Tensor:
    return torch.mm(torch.t(a), g)


def _mm_adjoint_by_left_in_columns(g: Tensor, a: Tensor) -> Tensor:
    return torch.t(torch.mm(torch.t(g), a))


def mm_linearize(wanted: Any, a: Tensor, b: Tensor) -> Any:
    """``d(AB) = dA B + A dB``."""
    return torch.mm(a, b), _mm_operators(wanted, a, b)


def _mm_operators(wanted: Any, a: Tensor, b: Tensor) -> Any:
    """A cotangent of b lies in memory as b does: a weight's gradient as the weight."""
    down, right = Tensor.stride(b)  # changes no number
    in_columns = down == 1 and right != 1
    adjoint = _mm_adjoint_by_left_in_columns if in_columns else _mm_adjoint_by_left
    return (
        wanted[0] and Contraction(torch.mm, _mm_adjoint_by_right, b),
        wanted[1] and Contraction(_mm_by_left, adjoint, a),
    )


def _bmm_adjoint_by_right(g: Tensor, b: Tensor) -> Tensor:
    return fast.bmm(g, transposed(b))


def _bmm_by_left(t: Tensor, a: Tensor) -> Tensor:
    return fast.bmm(a, t)


def _bmm_adjoint_by_left(g: Tensor, a: Tensor) -> Tensor:
    return fast.bmm(transposed(a), g)


def bmm_linearize(wanted: Any, a: Tensor, b: Tensor) -> Any:
    """``d(AB) = dA B + A dB`` for each matrix of the stack."""
    return fast.bmm(a, b), _bmm_operators(wanted, a, b)


def _bmm_operators(wanted: Any, a: Tensor, b: Tensor) -> Any:
    return (
        wanted[0] and Contraction(fast.bmm, _bmm_adjoint_by_right, b),
        wanted[1] and Contraction(_bmm_by_left, _bmm_adjoint_by_left, a),
    )


# products added to a tensor: beta C + alpha A B


def added_batch(product: Callable[..., Any], call: Callable[..., Tensor]) -> Any:
    """Batch ``beta c + alpha product(a, b)`` by the rule of the product."""

    def batch(
        size: int,
        dims: Any,
        c: Tensor,
        a: Tensor,
        b: Tensor,
        *,
        beta: Any = 1,
        alpha: Any = 1,
    ) -> Any:
        if dims[1] is None and dims[2] is None:
            out, out_dim = call(a, b), None
        else:
            out, out_dim = product(size, dims[1:], a, b)
        rank = out.dim() - (out_dim is not None)
        if alpha != 1:
            out = out * alpha
        if beta == 0:
            return batched_at_front(out, out_dim, size), 0
        if beta != 1:
            c = c * beta
        if dims[0] is not None:
            c = pad_rank(to_front(c, dims[0]), rank)
            out = to_front(out, out_dim) if out_dim is not None else out
            return c + out, 0
        if out_dim:
            out = to_front(out, out_dim)
        return out + c, 0

    return batch


def added_linearize(
    call: Callable[..., Tensor], operators: Callable[..., Any]
) -> Callable[..., Any]:
    """Linearize ``beta c + alpha product(a, b)`` by the operators of the product."""

    def linearize(
        wanted: Any, c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> Any:
        out = call(c, a, b, beta=beta, alpha=alpha)
        first: LinearOperator | None = None
        if wanted[0]:
            first = Broadcast(c.shape, out.shape)
            if beta != 1:
                first = Scale(beta, c.shape, out.shape)
        rest = operators(wanted[1:], a, b)
        if alpha != 1:
            scale = Scale(alpha, out.shape, out.shape)
            rest = [o and Composition(scale, o) for o in rest]
        return out, (first, *rest)

    return linearize


def addbmm_decompose(
    c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """``beta c + alpha sum_i A_i B_i``."""
    rows = a.transpose(0, 1).flatten(1, 2)
    return torch.addmm(c, rows, b.flatten(0, 1), beta=beta, alpha=alpha)


def addr_decompose(
    c: Tensor, x: Tensor, y: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """``beta c + alpha x y^T``."""
    product = x.unsqueeze(1) * y
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return product + (c if beta == 1 else c * beta)


# the composite forms, met undecomposed below a level


def matmul_batch(size: int, dims: Any, a: Tensor, b: Tensor) -> Any:
    """Bring both operands to matrices of one batch rank."""
    a_rank = a.dim() - (dims[0] is not None)
    b_rank = b.dim() - (dims[1] is not None)
    if dims[0] is not None:
        a = to_front(a, dims[0])
    if dims[1] is not None:
        b = to_front(b, dims[1])
    if dims[1] is None and b_rank <= 2 and a_rank >= 1:
        if a_rank > 1 or b_rank == 1 or b_rank == 2:
            return torch.matmul(a, b), 0
    a = a.unsqueeze(-2) if a_rank == 1 else a
    b = b.unsqueeze(-1) if b_rank == 1 else b
    rank = max(a_rank, b_rank, 2)
    a = pad_rank(a, rank) if dims[0] is not None else a
    b = pad_rank(b, rank) if dims[1] is not None else b
    out = torch.matmul(a, b)
    if b_rank == 1:
        out = out.squeeze(-1)
    if a_rank == 1:
        out = out.squeeze(-1 if b_rank == 1 else -2)
    return out, 0


def linear_batch(
    size: int, dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Any:
    """Fold a batched input into the rows; batched weights are one batched product."""
    bias_dim = dims[2] if len(dims) > 2 else None
    if dims[1] is None and bias_dim is None:
        return torch.nn.functional.linear(to_front(x, dims[0]), weight, bias), 0
    flipped = weight.mT if dims[1] is None else to_front(weight, dims[1]).mT
    out, out_dim = (
        matmul_batch(size, (dims[0], None if dims[1] is None else 0), x, flipped)
        if dims[0] is not None or dims[1] is not None
        else (torch.matmul(x, flipped), None)
    )
    if bias is None:
        return out, out_dim
    if bias_dim is None:
        return out + bias, out_dim
    rank = out.dim() - (out_dim is not None)
    return out + pad_rank(to_front(bias, bias_dim), rank), 0


def trilinear_decompose(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    expand_x: Any,
    expand_y: Any,
    expand_z: Any,
    sum_dims: Any,
    unroll_dim: int = 1,
) -> Tensor:
    """Multiply three tensors with dims inserted, and sum: one ``einsum``."""
    every = range(x.dim() + len(expand_x))
    labels = [
        "".join(chr(97 + d) for d in every if d not in left_out)
        for left_out in (expand_x, expand_y, expand_z, sum_dims)
    ]
    return torch.einsum(f"{labels[0]},{labels[1]},{labels[2]}->{labels[3]}", x, y, z)


RECORDS = (
    Record(aten._trilinear.default, decompose=trilinear_decompose),
    Record(aten.dot.default, dot_batch, dot_linearize),
    Record(aten.vdot.default, decompose=vdot_decompose),
    Record(aten.mv.default, mv_batch, mv_linearize),
    Record(aten.mm.default, mm_batch, mm_linearize),
    Record(aten.bmm.default, bmm_batch, bmm_linearize),
    Record(
        aten.addmm.default,
        added_batch(mm_batch, torch.mm),
        added_linearize(torch.addmm, _mm_operators),
    ),
    Record(
        aten.baddbmm.default,
        added_batch(bmm_batch, torch.bmm),
        added_linearize(torch.baddbmm, _bmm_operators),
    ),
    Record(
        aten.addmv.default,
        added_batch(mv_batch, torch.mv),
        added_linearize(torch.addmv, _mv_operators),
    ),
    Record(aten.addbmm.default, decompose=addbmm_decompose),
    Record(aten.addr.default, decompose=addr_decompose),
    Record(aten.matmul.default, matmul_batch),
    Record(aten.linear.default, linear_batch),
)
