"""Norms and weighted sums of per-sample gradients, without the gradients.

Where a graph only takes their norms, or their sum with a weight for each sample, as
clipping does, kernels compute these from what the gradients are made of.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import fx

from jaxtorch.kernels import OPERATORS
from jaxtorch.staging.passes.per_sample_factors import Gradients, gradients_of
from jaxtorch.staging.passes.rewriting import (
    PERMUTES,
    emit,
    is_call,
    order_of,
    shape_of,
    value_of,
)

aten = torch.ops.aten
ROWS_NORM = OPERATORS["rows_norm"].overload
CONTRACTED = {
    aten.mv.default: (1, 0),
    aten.mm.default: (1, 0),
    aten.bmm.default: (2, 1),
}
"""Which dim of each factor a product sums over."""


class Form(NamedTuple):
    """The gradients with other dims.

    Attributes:
        node: has them.
        shape: its shape.
        dim: where the samples are.
        before: the form that it views or permutes; None of the gradients themselves.
    """

    node: fx.Node
    shape: list[int]
    dim: int
    before: "Form | None" = None


class Use(NamedTuple):
    """What is made of the gradients.

    Attributes:
        last: the node whose value a kernel computes.
        form: what it is made of.
        weights: of a weighted sum, a value with one number for each sample.
        is_root: whether a norm is not squared.
        is_mean: whether a weighted sum is divided by the number of samples.
    """

    last: fx.Node
    form: Form
    weights: fx.Node | None = None
    is_root: bool = False
    is_mean: bool = False


def lower_per_sample(graph: fx.Graph) -> int:
    """Replace such uses by kernels; returns how many gradients are no longer made."""
    lowered = 0
    for node in list(graph.nodes):
        gradients = gradients_of(node)
        if gradients is None:
            continue
        uses = uses_of(Form(node, gradients.shape, 0))
        for use in uses or ():
            replace(gradients, use)
        lowered += bool(uses)
    return lowered


def uses_of(form: Form) -> list[Use] | None:
    """Recognize what all users make of the gradients; None where one needs them."""
    found = []
    for user in form.node.users:
        after = form_of(user, form)
        if after is not None:
            inner = uses_of(after)
        else:
            use = use_of(user, form) if form.shape == shape_of(form.node) else None
            inner = None if use is None else [use]
        if inner is None:
            return None
        found += inner
    return found


def form_of(user: Any, form: Form) -> Form | None:
    """Recognize another form, in which a dim still is that of the samples."""
    if is_call(user, *PERMUTES) and form.shape == shape_of(form.node):
        return Form(user, shape_of(user), order_of(user).index(form.dim), form)
    if not is_call(user, aten.view.default):
        return None
    shape, size = shape_of(user), form.shape[form.dim]
    outer = math.prod(form.shape[: form.dim])
    places = [
        d
        for d in range(len(shape))
        if shape[d] == size and math.prod(shape[:d]) == outer
    ]
    return Form(user, shape, places[0], form) if places else None


def use_of(user: Any, form: Form) -> Use | None:
    """Recognize what one user makes of the gradients."""
    if is_norm(user, form):
        return Use(user, form, is_root=True)
    weights = contracted_with(user, form)
    if weights is not None:
        return Use(user, form, weights)
    last: Any = next(iter(user.users)) if len(user.users) == 1 else None
    if is_square(user, form) and reduces(last, aten.sum.dim_IntList, others(form)):
        return Use(last, form)
    if is_call(user, aten.mul.Tensor):
        weights = user.args[1] if user.args[0] is form.node else user.args[0]
        is_mean = reduces(last, aten.mean.dim, [form.dim])
        if not is_mean and not reduces(last, aten.sum.dim_IntList, [form.dim]):
            return None
        same = value_of(last).dtype == value_of(form.node).dtype
        if same and isinstance(weights, fx.Node) and is_column(weights, form):
            return Use(last, form, weights, is_mean=is_mean)
    return None


def others(form: Form) -> list[int]:
    """Return the dims of one gradient."""
    return [d for d in range(len(form.shape)) if d != form.dim]


def is_norm(node: Any, form: Form) -> bool:
    """Tell whether a node is the Euclidean norm of each gradient."""
    if is_call(node, ROWS_NORM):
        return form.dim == 0
    if not is_call(node, aten.linalg_vector_norm.default) or node.kwargs:
        return False
    return node.args[1:2] == (2,) and has_dims(node.args[2:], form, others(form))


def is_square(node: Any, form: Form) -> bool:
    """Tell whether a node squares the gradients."""
    if is_call(node, aten.pow.Tensor_Scalar):
        return bool(node.args[1] == 2)
    return is_call(node, aten.mul.Tensor) and list(node.args) == [form.node] * 2


def reduces(node: Any, overload: Any, dims: list[int]) -> bool:
    """Tell whether a node is a sum or a mean over ``dims``."""
    if not is_call(node, overload) or node.kwargs:
        return False
    return has_dims(node.args[1:], node.args[0], dims)


def has_dims(args: Any, source: Any, dims: list[int]) -> bool:
    """Tell whether the arguments behind the first are ``dims``, kept or not."""
    rank = len(source.shape if isinstance(source, Form) else shape_of(source))
    given = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    return len(args) <= 2 and sorted(d % rank for d in given) == dims


def contracted_with(node: Any, form: Form) -> Any:
    """Return the weights of a product that sums over the samples; None of another."""
    dims = CONTRACTED.get(node.target)
    if dims is None or node.args[0] is node.args[1]:
        return None
    place = int(node.args[1] is form.node)
    weights = node.args[1 - place]
    is_sum = form.dim == dims[place]
    return weights if is_sum and is_number_each(weights, form) else None


def is_number_each(weights: fx.Node, form: Form) -> bool:
    """Tell whether weights have one number for each sample."""
    count = form.shape[form.dim]
    return [s for s in [1, *shape_of(weights)] if s != 1] == [count][: count != 1]


def is_column(weights: fx.Node, form: Form) -> bool:
    """Tell whether factors are one number for each sample, and not for other dims."""
    rank = len(form.shape)
    sizes = [form.shape[d] if d == form.dim else 1 for d in range(rank)]
    own = shape_of(weights)
    return [1] * (rank - len(own)) + own == sizes


def replace(gradients: Gradients, use: Use) -> None:
    """Put a kernel in the place of a use."""
    last, weights = use.last, use.weights
    if weights is None:
        out = gradients.squared_norm(last)
        if use.is_root:
            out = emit(last, aten.sqrt.default, out)
    else:
        count = gradients.shape[:1]
        weights = emit(last, aten.view.default, weights, count)
        out = in_form(use.form, gradients.weighted_sum(last, weights), last)
        if use.is_mean:
            out = emit(last, aten.div.Tensor, out, count[0])
    if shape_of(out) != shape_of(last):
        out = emit(last, aten.view.default, out, shape_of(last))
    if value_of(out).dtype != value_of(last).dtype:
        out = emit(last, aten._to_copy.default, out, dtype=value_of(last).dtype)
    last.replace_all_uses_with(out)


def in_form(form: Form, value: fx.Node, last: fx.Node) -> fx.Node:
    """Bring one gradient into the form that they had together, with one sample."""
    if form.before is None:
        return emit(last, aten.view.default, value, [1, *shape_of(value)])
    value = in_form(form.before, value, last)
    if is_call(form.node, *PERMUTES):
        return emit(last, aten.permute.default, value, order_of(form.node))
    sizes = [*form.shape]
    sizes[form.dim] = 1
    return emit(last, aten.view.default, value, sizes)
