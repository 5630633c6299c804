"""Reductions over dims: sum, mean, amax, prod, var, norms, logsumexp, any, all."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.cast import promoted
from jaxtorch.linear.fan import Fan
from jaxtorch.linear.operator import LinearOperator
from jaxtorch.linear.reduction import ReducedElementwise, Sum, example_dims
from jaxtorch.linear.slopes import norm_scale
from jaxtorch.rules import fast
from jaxtorch.rules.batching import entry_point, physical, to_front
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import BatchRule, LinearizeRule, Record
from jaxtorch.rules.reducing import full_reduction_batch, reduction_batch

aten = torch.ops.aten

OperatorOf = Callable[[Tensor, Tensor, list[int], bool], LinearOperator]
"""``(x, out, dims, keepdim)`` -> the derivative of a reduction."""


def number_of(shape: Any, dims: list[int]) -> int:
    """Return how many elements are reduced to one."""
    return math.prod(shape[d] for d in dims)


def reduced(overload: OpOverload, operator_of: OperatorOf) -> LinearizeRule:
    """Make the rule of a reduction ``(x, dim, keepdim)`` or ``(x)``."""
    call = entry_point(overload)

    def linearize(
        wanted: Any, x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any
    ) -> Any:
        if dim is None:
            out = call(x, **kwargs)
        else:
            out = call(x, dim, keepdim, **kwargs)
        dims = example_dims(dim, x.dim())
        return out, (promoted(operator_of(x, out, dims, keepdim), x, out),)

    return linearize


def linear_reduction(overload: OpOverload, mean: bool) -> LinearizeRule:
    """The derivative of sum and mean is the same reduction of the tangent."""

    def operator_of(x: Tensor, out: Tensor, dims: list[int], keepdim: bool) -> Sum:
        return Sum(x.shape, dims, keepdim, mean)

    return reduced(overload, operator_of)


def weighted_reduction(
    overload: OpOverload, scale_of: Callable[..., Callable[..., Tensor]]
) -> LinearizeRule:
    """Make the rule of a reduction that is not linear.

    ``scale_of(x, dims)`` returns the scale of a ``ReducedElementwise``.
    """

    def operator_of(
        x: Tensor, out: Tensor, dims: list[int], keepdim: bool
    ) -> ReducedElementwise:
        return ReducedElementwise(scale_of(x, dims), x, out, dims, keepdim)

    return reduced(overload, operator_of)


def extremum_scale(x: Tensor, dims: list[int]) -> Callable[..., Tensor]:
    """Elements that tie for the extremum share its derivative evenly."""

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        ties = (x == out).to(x.dtype)
        return t * (ties / torch.sum(ties, dims, True) if dims else ties)

    return scale


def chosen_scale(x: Tensor, dims: list[int]) -> Callable[..., Tensor]:
    """As ``extremum_scale``, where a NaN counts as equal to a NaN."""

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        ties = ((x == out) | (torch.isnan(x) & torch.isnan(out))).to(x.dtype)
        return t * (ties / torch.sum(ties, dims, True) if dims else ties)

    return scale


def logsumexp_scale(x: Tensor, dims: list[int]) -> Callable[..., Tensor]:
    """``d log sum exp(x) = sum softmax(x) dx``."""
    return lambda t, x, out: t * torch.exp(x - out)


def nansum_scale(x: Tensor, dims: list[int]) -> Callable[..., Tensor]:
    """A NaN takes no part in the sum."""
    return lambda t, x, out: torch.where(torch.isnan(x), 0, t)


def prod_scale(x: Tensor, dims: list[int]) -> Callable[..., Tensor]:
    """``d prod(x) = sum_i dx_i prod of all others``, right where elements are zero."""

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if not dims:
            return t
        if len(dims) == 1:
            return t * product_of_others(x, dims[0])
        return t * product_of_others(x.reshape(-1), 0).reshape(x.shape)

    return scale


def product_of_others(x: Tensor, dim: int) -> Tensor:
    """Return for each element the product of all others along ``dim``."""
    length = x.shape[dim]
    one = torch.ones_like(x.narrow(dim, 0, min(length, 1)))
    if length < 2:
        return one
    before = torch.cumprod(x.narrow(dim, 0, length - 1), dim)
    after = torch.cumprod(torch.flip(x.narrow(dim, 1, length - 1), [dim]), dim)
    return torch.cat([one, before], dim) * torch.cat(
        [torch.flip(after, [dim]), one], dim
    )


def whole_prod(x: Tensor, dims: list[int], **kwargs: Any) -> Tensor:
    """The product over all dims but the first."""
    return torch.prod(x.flatten(1), 1, **kwargs)


def var_scale(x: Tensor, dims: list[int], correction: Any) -> Callable[..., Tensor]:
    """``d var = 2 / (n - correction) sum (x - mean) dx``."""
    freedom = number_of(x.shape, dims) - correction

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Any:
        centred = x - torch.mean(x, dims, True) if dims else x - x
        if x.is_complex():
            centred = centred.conj_physical()
        if freedom <= 0:
            return t * (torch.abs(centred) * math.inf).to(x.dtype)
        return centred * (t * (2 / freedom))

    return scale


def std_scale(x: Tensor, dims: list[int], correction: Any) -> Callable[..., Tensor]:
    """``d std = d var / (2 std)``, zero where std is zero."""
    of_var = var_scale(x, dims, correction)

    def scale(t: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if x.numel() == 0:
            return x * t
        halved = torch.where(out == 0, 0, t / torch.where(out == 0, 1, out * 2))
        return of_var(halved, x, out)

    return scale


def spread(overload: OpOverload, scale_of: Any, with_mean: bool) -> Record:
    """Make the record of var, std, var_mean or std_mean with a correction."""
    call = entry_point(overload)

    def linearize(
        wanted: Any,
        x: Tensor,
        dim: Any = None,
        *,
        correction: Any = None,
        keepdim: bool = False,
    ) -> Any:
        out = call(x, dim, correction=correction, keepdim=keepdim)
        dims = example_dims(dim, x.dim())
        scale = scale_of(x, dims, 1 if correction is None else correction)
        own = out[0] if with_mean else out
        operator: LinearOperator = ReducedElementwise(scale, x, own, dims, keepdim)
        if with_mean:
            operator = Fan([operator, Sum(x.shape, dims, keepdim, True)])
        return out, (operator,)

    return Record(overload, reduction_batch(overload), linearize)


some_dims_norm_batch = reduction_batch(aten.linalg_vector_norm.default)


def vector_norm_batch(
    size: int,
    dims: Any,
    x: Tensor,
    order: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    **kwargs: Any,
) -> Any:
    """One norm for each example; the Euclidean norm of all of it has a kernel."""
    if order == 2 and dim is None and not keepdim and not kwargs and x.dim() > 1:
        return fast.norms(to_front(x, dims[0])), 0
    return some_dims_norm_batch(size, dims, x, order, dim, keepdim, **kwargs)


def vector_norm_linearize(
    wanted: Any,
    x: Tensor,
    order: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """The derivative of a p-norm over dims."""
    out = aten.linalg_vector_norm.default(x, order, dim, keepdim, dtype=dtype)
    dims = example_dims(dim, x.dim())
    if dtype is not None and dtype != x.dtype:
        wide = x.to(dtype)
        operator = ReducedElementwise(norm_scale(order, dims), wide, out, dims, keepdim)
        return out, (promoted(operator, x, wide),)
    return out, (ReducedElementwise(norm_scale(order, dims), x, out, dims, keepdim),)


def norm_record(overload: OpOverload) -> Record:
    """Make the record of one of the older overloads of norm."""

    def decompose(
        x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any
    ) -> Tensor:
        order = 2 if p is None else p
        return aten.linalg_vector_norm.default(x, order, dim, keepdim, **kwargs)  # type: ignore[no-any-return]

    return Record(overload, decompose=decompose)


def arg_batch(call: Callable[..., Tensor]) -> Any:
    """Batch argmax or argmin; without a dim the example is flattened."""

    def batch(
        size: int, dims: Any, x: Tensor, dim: Any = None, keepdim: bool = False
    ) -> Any:
        x = to_front(x, dims[0])
        rank = x.dim() - 1
        if rank == 0:
            return call(x.unsqueeze(1), physical(dim or 0, 0)), 0
        if dim is not None:
            return call(x, physical(dim, rank), keepdim), 0
        out = call(x.flatten(1), 1)
        return out.reshape(size, *[1] * rank) if keepdim else out, 0

    return batch


def indices_only(overload: OpOverload, batch: Any) -> Record:
    """Make the record of a reduction whose result has no derivative."""
    return Record(overload, batch, zero_derivative(entry_point(overload)))


def logical_batch(overload: OpOverload) -> BatchRule:
    """Batch ``any`` or ``all`` over dims, where an empty list of dims means none."""
    call = entry_point(overload)
    reduce = reduction_batch(overload)

    def batch(
        size: int, dims: Any, x: Tensor, dim: Any = None, keepdim: bool = False
    ) -> Any:
        if dim is None or dim:
            return reduce(size, dims, x, dim, keepdim)
        return call(x, dim, keepdim), dims[0]

    return batch


def count_nonzero_decompose(x: Tensor, dim: Any = None) -> Tensor:
    """The sum of ``x != 0``."""
    return torch.sum(x != 0) if dim is None else torch.sum(x != 0, dim)


def aminmax_decompose(x: Tensor, *, dim: Any = None, keepdim: bool = False) -> Any:
    """The two extrema, one after the other."""
    dims = () if dim is None else dim
    return torch.amin(x, dims, keepdim), torch.amax(x, dims, keepdim)


def linear(overload: OpOverload, call: Any = None, mean: bool = False) -> Record:
    """Make the record of a sum or mean; ``call`` reduces given dims of all examples."""
    batch = full_reduction_batch(call) if call else reduction_batch(overload)
    return Record(overload, batch, linear_reduction(overload, mean))


def weighted(overload: OpOverload, scale_of: Any, call: Any = None) -> Record:
    """Make the record of a reduction with the rule ``weighted_reduction``."""
    batch = full_reduction_batch(call) if call else reduction_batch(overload)
    return Record(overload, batch, weighted_reduction(overload, scale_of))


RECORDS = (
    linear(aten.sum.default, torch.sum),
    linear(aten.sum.dim_IntList),
    linear(aten.mean.default, torch.mean, mean=True),
    linear(aten.mean.dim, mean=True),
    weighted(aten.nansum.default, nansum_scale),
    weighted(aten.amax.default, extremum_scale),
    weighted(aten.amin.default, extremum_scale),
    weighted(aten.max.default, chosen_scale, torch.amax),
    weighted(aten.min.default, chosen_scale, torch.amin),
    weighted(aten.prod.default, prod_scale, whole_prod),
    weighted(aten.prod.dim_int, prod_scale),
    weighted(aten.logsumexp.default, logsumexp_scale),
    spread(aten.var.correction, var_scale, False),
    spread(aten.std.correction, std_scale, False),
    spread(aten.var_mean.correction, var_scale, True),
    spread(aten.std_mean.correction, std_scale, True),
    Record(
        aten.linalg_vector_norm.default,
        vector_norm_batch,
        vector_norm_linearize,
    ),
    norm_record(aten.norm.Scalar),
    norm_record(aten.norm.ScalarOpt_dim),
    norm_record(aten.norm.ScalarOpt_dim_dtype),
    norm_record(aten.norm.ScalarOpt_dtype),
    indices_only(aten.any.default, full_reduction_batch(torch.any)),
    indices_only(aten.any.dim, reduction_batch(aten.any.dim)),
    indices_only(aten.any.dims, logical_batch(aten.any.dims)),
    indices_only(aten.all.default, full_reduction_batch(torch.all)),
    indices_only(aten.all.dim, reduction_batch(aten.all.dim)),
    indices_only(aten.all.dims, logical_batch(aten.all.dims)),
    indices_only(aten.argmax.default, arg_batch(torch.argmax)),
    indices_only(aten.argmin.default, arg_batch(torch.argmin)),
    indices_only(aten.hash_tensor.default, reduction_batch(aten.hash_tensor.default)),
    Record(aten.count_nonzero.default, decompose=count_nonzero_decompose),
    Record(aten.count_nonzero.dim_IntList, decompose=count_nonzero_decompose),
    Record(aten.aminmax.default, decompose=aminmax_decompose),
)
