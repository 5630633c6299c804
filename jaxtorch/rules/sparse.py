"""Sparse tensors: dense ones made sparse, and back. No arithmetic of them.

Tangents and cotangents of a sparse tensor are sparse too, of any pattern. In a batch
the batch dim is one more sparse dim, so each example stores elements of its own.
"""

from typing import Any

import torch
from torch import Tensor

from jaxtorch.errors import UsageError, explain
from jaxtorch.linear.matrix import adjoint
from jaxtorch.linear.operator import General, Zero
from jaxtorch.rules.batching import batched_at_front, to_front
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def refuse_other_layouts(layout: Any) -> None:
    """Refuse compressed layouts: they have no strides that a handle can show."""
    if layout not in (None, torch.sparse_coo):
        raise UsageError(
            explain(
                "to_sparse",
                f"a tensor of a transform can't have the layout {layout}.",
                "use torch.sparse_coo, or convert it outside of the transform",
            )
        )


def to_sparse_batch(
    size: int, dims: Any, x: Tensor, sparse_dim: Any = None, **kwargs: Any
) -> Any:
    """The batch dim is sparse as well."""
    refuse_other_layouts(kwargs.get("layout"))
    x = to_front(x, dims[0])
    if sparse_dim is None:
        return aten._to_sparse.default(x, **kwargs), 0
    return aten._to_sparse.sparse_dim(x, sparse_dim + 1), 0


def to_sparse_linearize(wanted: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The identity: what is zero is not stored, but has a derivative."""
    refuse_other_layouts(kwargs.get("layout"))
    own = General(lambda t: t.to_sparse(*args, **kwargs), lambda c: c.to_dense())
    return x.to_sparse(*args, **kwargs), (own,)


def to_dense_batch(size: int, dims: Any, x: Tensor, *options: Any) -> Any:
    """What is not stored is zero, in every example."""
    return aten._to_dense.default(x, *options), dims[0]


def to_dense_linearize(
    wanted: Any, x: Tensor, dtype: Any = None, masked_grad: Any = None
) -> Any:
    """The identity on what is stored, or with ``masked_grad=False`` on everything."""
    out = aten._to_dense.default(x, dtype, masked_grad)
    if masked_grad is False:
        own = General(lambda t: t.to_dense(), lambda c: c.to_sparse())
    else:
        own = General(
            lambda t: t.to_dense().sparse_mask(x).to_dense(),
            lambda c: c.sparse_mask(x),
        )
    return out, (own,)


def sparse_mask_batch(size: int, dims: Any, x: Tensor, mask: Tensor) -> Any:
    """Each example is cut by its own pattern, or all by the same one."""
    if dims[1] is None:
        mask = torch.stack([mask] * size)
    return aten.sparse_mask.default(batched_at_front(x, dims[0], size), mask), 0


def sparse_mask_linearize(wanted: Any, x: Tensor, mask: Tensor) -> Any:
    """The identity on what the mask stores; the mask's values do not matter."""

    def cut(t: Tensor) -> Any:
        return aten.sparse_mask.default(t, mask)

    own = General(cut, lambda c: cut(c.to_dense()).to_dense())
    return cut(x), (own, Zero())


def sparse_addmm_batch(
    size: int,
    dims: Any,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> Any:
    """One matrix times the columns of all examples; several as dense ones."""
    b = batched_at_front(b, dims[2], size)
    if dims[1] is None:
        columns = b.movedim(0, 1).reshape(b.shape[1], size * b.shape[2])
        product = torch.sparse.mm(a, columns).reshape(a.shape[0], size, b.shape[2])
        product = product.movedim(1, 0)
    else:
        product = torch.bmm(a.to_dense(), b)
    if beta == 0:
        return alpha * product, 0
    return alpha * product + beta * batched_at_front(x, dims[0], size), 0


def sparse_addmm_linearize(
    wanted: Any, x: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Any:
    """``beta x + alpha a b``; of the sparse ``a`` only what is stored has a derivative.

    ``torch.sparse.mm`` calls it with a beta of zero.
    """
    return aten._sparse_addmm.default(x, a, b, beta=beta, alpha=alpha), (
        General(lambda t: beta * t, lambda c: beta * c),
        General(
            lambda t: alpha * torch.sparse.mm(t, b),
            lambda c: (alpha * (c @ adjoint(b))).sparse_mask(a),
        ),
        General(
            lambda t: alpha * torch.sparse.mm(a, t),
            lambda c: alpha * torch.sparse.mm(adjoint(a), c),
        ),
    )


RECORDS = (
    Record(aten._to_sparse.default, to_sparse_batch, to_sparse_linearize),
    Record(aten._to_sparse.sparse_dim, to_sparse_batch, to_sparse_linearize),
    Record(aten._to_dense.default, to_dense_batch, to_dense_linearize),
    Record(aten.sparse_mask.default, sparse_mask_batch, sparse_mask_linearize),
    Record(aten._sparse_addmm.default, sparse_addmm_batch, sparse_addmm_linearize),
)
