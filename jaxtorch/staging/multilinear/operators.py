"""What operators mean in normal form: one small function for each kind of call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import (
    Atom,
    Call,
    Factor,
    Form,
    Label,
    OneHot,
    OpaqueError,
    Term,
    Window,
    constant_form,
    delta,
    fresh,
    labels_in,
)
from jaxtorch.staging.multilinear.reading import (
    Reader,
    Reading,
    Tables,
    covers,
    is_unstructured,
)

aten = torch.ops.aten


def shape_of(node: Any) -> list[int]:
    """Return the shape of a node."""
    return list(node.meta["val"].shape)


def rank_of(node: Any) -> int:
    """Return the number of dims of a node."""
    rank: int = node.meta["val"].dim()
    return rank


def argument(node: fx.Node, place: int, default: Any) -> Any:
    """Return a positional argument, or its default."""
    return node.args[place] if len(node.args) > place else default


def same_dtype(reader: Reader, node: Any) -> Form:
    """The same values: alias, clone, a copy to the same dtype and device."""
    source = node.args[0]
    if source.meta["val"].dtype != node.meta["val"].dtype:
        raise OpaqueError
    if source.meta["device"] != node.meta["device"]:
        raise OpaqueError
    return reader.of(source)


def reshape(reader: Reader, node: Any) -> Form:
    """Every view that keeps the row-major order."""
    return algebra.reshaped(reader.of(node.args[0]), shape_of(node))


def expand(reader: Reader, node: Any) -> Form:
    """Broadcast."""
    return algebra.expanded(reader.of(node.args[0]), shape_of(node))


def permute(reader: Reader, node: Any) -> Form:
    """Any order of the dims."""
    rank = rank_of(node)
    order = [d % rank for d in node.args[1]]
    return algebra.permuted(reader.of(node.args[0]), order)


def transpose(reader: Reader, node: Any) -> Form:
    """Two dims exchanged."""
    rank = rank_of(node)
    order = list(range(rank))
    a, b = node.args[1:] if node.target is aten.transpose.int else (0, rank - 1)
    if rank > 1:
        order[a], order[b] = order[b], order[a]
    return algebra.permuted(reader.of(node.args[0]), order)


def select(reader: Reader, node: Any) -> Form:
    """One element of a dim."""
    source, dim, index = node.args
    shape = shape_of(source)
    dim %= len(shape)
    form = algebra.windowed(reader.of(source), dim, index % shape[dim], 1)
    return algebra.reshaped(form, shape_of(node))


def take(reader: Reader, node: Any) -> Form:
    """A slice with step one."""
    dim = argument(node, 1, 0) % rank_of(node)
    length = shape_of(node.args[0])[dim]
    if argument(node, 4, 1) != 1:
        raise OpaqueError
    start = argument(node, 2, 0) or 0
    start = min(max(start + length if start < 0 else start, 0), length)
    form = reader.of(node.args[0])
    return algebra.windowed(form, dim, start, shape_of(node)[dim])


def split(reader: Reader, node: Any) -> Form:
    """One part of a split, or one slice of an unbind."""
    call, place = node.args
    source = call.args[0]
    shape = shape_of(source)
    if call.target is aten.unbind.int:
        dim = argument(call, 1, 0) % len(shape)
        form = algebra.windowed(reader.of(source), dim, place % shape[dim], 1)
        return algebra.reshaped(form, shape_of(node))
    dim = argument(call, 2, 0) % len(shape)
    start = sum(value.shape[dim] for value in call.meta["val"][:place])
    return algebra.windowed(reader.of(source), dim, start, shape_of(node)[dim])


def concatenate(reader: Reader, node: Any) -> Form:
    """Tensors side by side: each is placed in the whole."""
    dim = argument(node, 1, 0) % rank_of(node)
    length = shape_of(node)[dim]
    start = 0
    terms: Form = ()
    for part in node.args[0]:
        if len(shape_of(part)) != rank_of(node):
            raise OpaqueError
        terms += algebra.placed(reader.of(part), dim, start, length)
        start += shape_of(part)[dim]
    return terms


def stack(reader: Reader, node: Any) -> Form:
    """Tensors along a new dim."""
    dim = argument(node, 1, 0) % rank_of(node)
    terms: Form = ()
    for place, part in enumerate(node.args[0]):
        shape = shape_of(part)
        shape.insert(dim, 1)
        form = algebra.reshaped(reader.of(part), shape)
        terms += algebra.placed(form, dim, place, len(node.args[0]))
    return terms


def take_diagonal(reader: Reader, node: Any) -> Form:
    """The main diagonal of two dims of one length."""
    source = node.args[0]
    shape = shape_of(source)
    first, second = argument(node, 2, 0), argument(node, 3, 1)
    first, second = first % len(shape), second % len(shape)
    if argument(node, 1, 0) != 0 or shape[first] != shape[second]:
        raise OpaqueError
    return algebra.diagonal(reader.of(source), first, second)


def embed_diagonal(reader: Reader, node: Any) -> Form:
    """The last dim on the diagonal of two new ones."""
    rank = rank_of(node)
    if argument(node, 1, 0) != 0:
        raise OpaqueError
    first, second = argument(node, 2, -2) % rank, argument(node, 3, -1) % rank
    return algebra.diag_embedded(reader.of(node.args[0]), first, second)


def identity(reader: Reader, node: Any) -> Form:
    """The identity matrix is a delta."""
    rows, columns = shape_of(node)
    if rows != columns or rows == 0:
        raise OpaqueError
    if rows == 1:
        return constant_form(1, [1, 1])
    first, second = Label(rows), Label(rows)
    return (Term(1, (delta(first, second),), ((first,), (second,))),)


FILLED = {
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
}
ONES = {aten.ones.default, aten.ones_like.default, aten.new_ones.default}


def fill(reader: Reader, node: Any) -> Form:
    """A tensor of one number."""
    if node.target in FILLED:
        number = node.args[FILLED[node.target]]
    else:
        number = 1 if node.target in ONES else 0
    if not isinstance(number, (int, float)) or number - number != 0:
        raise OpaqueError
    return constant_form(number, shape_of(node))


def negate(reader: Reader, node: Any) -> Form:
    """``-x``."""
    return algebra.scaled(reader.of(node.args[0]), -1)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, (int, float)) and value - value == 0


def multiply(reader: Reader, node: Any) -> Form:
    """A product of two tensors that broadcast, or with a number."""
    first, second = node.args
    for factor, other in ((first, second), (second, first)):
        if is_number(factor):
            return algebra.expanded(
                algebra.scaled(reader.of(other), factor), shape_of(node)
            )
    return pointwise(reader, node, first, second)


def pointwise(reader: Reader, node: Any, first: Any, second: Any) -> Form:
    """A product of two tensors that broadcast."""
    if first.meta["val"].dtype != second.meta["val"].dtype:
        raise OpaqueError
    rank = rank_of(node)
    names = range(rank - rank_of(first), rank)
    others = range(rank - rank_of(second), rank)
    form = reader.product(node, first, names, second, others, list(range(rank)))
    return algebra.expanded(form, shape_of(node))


def divide(reader: Reader, node: Any) -> Form:
    """A quotient by a number, or of a structured tensor by a smaller one."""
    first, second = node.args
    if is_number(second) and second:
        return algebra.scaled(reader.of(first), 1 / second)
    if not isinstance(second, fx.Node) or not isinstance(first, fx.Node):
        raise OpaqueError
    factor = mapped(reader, second, lambda x: Call(aten.reciprocal.default, (x,)))
    return times(reader, node, first, factor)


def times(reader: Reader, node: Any, first: Any, factor: Form) -> Form:
    """A structured tensor times the form of a derived one; both broadcast."""
    form = reader.of(first)
    if covers(factor, node) and all(is_unstructured(term) for term in form):
        form = reader.computed(first, form)
    if is_atom(form) and is_atom(factor):
        raise OpaqueError
    rank = rank_of(node)
    names = range(rank - rank_of(first), rank)
    others = range(rank - len(factor[0].axes), rank)
    product = algebra.contract(form, names, factor, others, list(range(rank)))
    return algebra.expanded(product, shape_of(node))


def mapped(reader: Reader, source: Any, make: Callable[[Any], Any]) -> Form:
    """A function of the elements of a node: it sees through views and broadcasts."""
    form = reader.of(source)
    if len(form) != 1 or len(form[0].factors) != 1 or form[0].coef != 1:
        form = reader.atom(source)
    if not form:
        raise OpaqueError  # no element
    term = form[0]
    if not term.is_dense:
        raise OpaqueError
    atom = term.atoms[0]
    if not set(labels_in(atom)) <= term.free:
        raise OpaqueError
    return (Term(1, (Atom(make(atom.source), atom.axes),), term.axes),)


def is_atom(form: Form) -> bool:
    """Tell whether a form is one tensor as it stands."""
    return (
        len(form) == 1
        and len(form[0].factors) == 1
        and form[0].is_dense
        and form[0].atoms[0].axes == form[0].axes
    )


def square(reader: Reader, node: Any) -> Form:
    """``x * x``."""
    if node.target is aten.pow.Tensor_Scalar and node.args[1] != 2:
        raise OpaqueError
    names = list(range(rank_of(node)))
    return reader.product(node, node.args[0], names, node.args[0], names, names)


def add(reader: Reader, node: Any) -> Form:
    """A sum or a difference of two tensors that broadcast."""
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        raise OpaqueError
    alpha = node.kwargs.get("alpha", 1)
    if node.target is aten.sub.Tensor:
        alpha = -alpha
    if not is_number(alpha):
        raise OpaqueError
    terms: Form = ()
    for form, factor in ((reader.of(first), 1), (reader.of(second), alpha)):
        terms += algebra.expanded(algebra.scaled(form, factor), shape_of(node))
    return terms


def reduce_sum(reader: Reader, node: Any) -> Form:
    """A sum over some or all dims."""
    source = node.args[0]
    dims, keepdim = reduced(node)
    if source.meta["val"].dtype != node.meta["val"].dtype:
        raise OpaqueError
    return algebra.summed(reader.of(source), dims, keepdim)


def reduce_mean(reader: Reader, node: Any) -> Form:
    """A mean over some or all dims."""
    count = node.args[0].meta["val"].numel() / max(node.meta["val"].numel(), 1)
    if not count:
        raise OpaqueError
    return algebra.scaled(reduce_sum(reader, node), 1 / count)


def reduced(node: Any) -> tuple[list[int], bool]:
    """Return the dims that a reduction sums over."""
    rank = rank_of(node.args[0])
    dims = argument(node, 1, None)
    if not dims and dims != 0:
        return list(range(rank)), bool(argument(node, 2, False))
    dims = [dims] if isinstance(dims, int) else dims
    return [d % rank for d in dims], bool(argument(node, 2, False))


EINSUMS: dict[Any, tuple[str, str, str]] = {
    aten.mm.default: ("mk", "kn", "mn"),
    aten.bmm.default: ("bmk", "bkn", "bmn"),
    aten.mv.default: ("mk", "k", "m"),
    aten.dot.default: ("k", "k", ""),
}


def matrix_product(reader: Reader, node: Any) -> Form:
    """A product of matrices and vectors."""
    first, second = node.args
    names, others, out = EINSUMS[node.target]
    return reader.product(node, first, names, second, others, out)


BIASED: dict[Any, Any] = {
    aten.addmm.default: aten.mm.default,
    aten.baddbmm.default: aten.bmm.default,
    aten.addmv.default: aten.mv.default,
}


def biased_product(reader: Reader, node: Any) -> Form:
    """``beta * bias + alpha * (a @ b)``."""
    bias, first, second = node.args
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    if not is_number(alpha) or not is_number(beta):
        raise OpaqueError
    names, others, out = EINSUMS[BIASED[node.target]]
    product = reader.product(node, first, names, second, others, out)
    offset = algebra.expanded(reader.of(bias), shape_of(node))
    return algebra.scaled(offset, beta) + algebra.scaled(product, alpha)


def outer_product(reader: Reader, node: Any) -> Form:
    """``a[i] * b[j]``."""
    first, second = node.args
    return reader.product(node, first, "m", second, "n", "mn")


def tanh_slope(reader: Reader, node: Any) -> Form:
    """``g * (1 - t * t)``."""
    g, t = node.args

    def slope(t: Any) -> Call:
        return Call(aten.rsub.Scalar, (Call(aten.mul.Tensor, (t, t)), 1))

    return times(reader, node, g, mapped(reader, t, slope))


def sigmoid_slope(reader: Reader, node: Any) -> Form:
    """``g * s * (1 - s)``."""
    g, s = node.args

    def slope(s: Any) -> Call:
        return Call(aten.mul.Tensor, (s, Call(aten.rsub.Scalar, (s, 1))))

    return times(reader, node, g, mapped(reader, s, slope))


def elementwise_slope(reader: Reader, node: Any) -> Form:
    """``op(g, x, ...)`` that is linear in ``g``, elementwise: ``g * op(1, x, ...)``."""
    g, x, *rest = node.args
    kwargs = tuple(node.kwargs.items())

    def slope(x: Any) -> Call:
        ones = Call(aten.ones_like.default, (x,))
        return Call(node.target, (ones, x, *rest), kwargs)

    return times(reader, node, g, mapped(reader, x, slope))


def keep_where(reader: Reader, node: Any) -> Form:
    """``where(mask, g, 0)`` and ``masked_fill(g, mask, 0)``: a product with a mask."""
    inverted = node.target is not aten.where.self
    mask, g, other = node.args
    if inverted:
        g, mask = mask, g
    if other != 0 if inverted else reader.of(other) != ():
        raise OpaqueError
    dtype = node.meta["val"].dtype

    def as_number(mask: Any) -> Call:
        if inverted:
            mask = Call(aten.bitwise_not.default, (mask,))
        return Call(aten._to_copy.default, (mask,), (("dtype", dtype),))

    return times(reader, node, g, mapped(reader, mask, as_number))


def function(reader: Reader, node: Any) -> Form:
    """A function of each element of a tensor that is broadcast afterwards."""
    x, *rest = node.args
    if any(isinstance(value, fx.Node) for value in rest):
        raise OpaqueError
    kwargs = tuple(node.kwargs.items())
    form = mapped(reader, x, lambda x: Call(node.target, (x, *rest), kwargs))
    if covers(form, node):
        raise OpaqueError
    return form


def embedding(reader: Reader, node: Any) -> Form:
    """Rows of a table: ``sum_v [v == index] table[v, d]``."""
    table, index = node.args[:2]
    return gather(reader, node, table, 0, index)


def index_select(reader: Reader, node: Any) -> Form:
    """Elements along one dim."""
    source, dim, index = node.args
    return gather(reader, node, source, dim % rank_of(source), index)


def index(reader: Reader, node: Any) -> Form:
    """Indexing by one integer tensor."""
    source, indices = node.args
    given = [d for d, i in enumerate(indices) if i is not None]
    if len(given) != 1:
        raise OpaqueError
    return gather(reader, node, source, given[0], indices[given[0]])


def gather(reader: Reader, node: Any, source: Any, dim: int, index: Any) -> Form:
    """``source[..., index, ...]`` for a structured source."""
    form = reader.of(source)
    if is_atom(form):
        raise OpaqueError
    value = index.meta["val"]
    length = shape_of(source)[dim]
    one_hot = one_hot_term(reader, index, length, node.meta["val"].dtype)
    names: list[Any] = [f"s{d}" for d in range(rank_of(source))]
    others: list[Any] = [f"i{d}" for d in range(value.dim())] + [f"s{dim}"]
    out = names[:dim] + others[:-1] + names[dim + 1 :]
    return algebra.contract(form, names, (one_hot,), others, out)


def one_hot_term(reader: Reader, index: Any, length: int, dtype: Any) -> Term:
    """Return ``[label == index]`` with the dims of the index, then the label."""
    value = index.meta["val"]
    if length == 1 or value.numel() == 0 or value.dtype not in INTEGERS:
        raise OpaqueError
    seen = fresh(mapped(reader, index, lambda x: x)[0])
    label = Label(length)
    atom = seen.atoms[0]
    start = count_from(atom.source)
    indicator: Factor = OneHot(atom, label, dtype)
    if start is not None and len(labels_in(atom)) == 1:
        indicator = shifted(label, 0, labels_in(atom)[0], start)
    return Term(1, (indicator,), (*seen.axes, (label,)))


def count_from(source: Any) -> int | None:
    """Return the first number if a source counts upwards by one."""
    if not isinstance(source, fx.Node) or source.target not in COUNTS:
        return None
    if source.target is aten.arange.default:
        return 0
    numbers = source.args
    if (len(numbers) > 2 and numbers[2] != 1) or not isinstance(numbers[0], int):
        return None
    return numbers[0]


def shifted(a: Label, first: int, b: Label, second: int) -> Window:
    """Return the indicator of ``a + first == b + second``."""
    offset = second - first
    if offset >= 0 and offset + b.size <= a.size:
        return Window(a, (b,), offset)
    if offset <= 0 and a.size - offset <= b.size:
        return Window(b, (a,), -offset)
    raise OpaqueError


def same_position(reader: Reader, node: Any) -> Form:
    """Where two counts agree: ``arange(n)[:, None] == arange(n)``."""
    if node.meta["val"].dim() != 2:
        raise OpaqueError
    terms = [fresh(mapped(reader, arg, lambda x: x)[0]) for arg in node.args]
    atoms = [term.atoms[0] for term in terms]
    starts = [count_from(atom.source) for atom in atoms]
    labels = [labels_in(atom) for atom in atoms]
    if starts[0] is None or starts[1] is None or [len(x) for x in labels] != [1, 1]:
        raise OpaqueError
    (first,), (second,) = labels
    window = shifted(first, starts[0], second, starts[1])
    names = [label for term in terms for axis in term.axes for label in axis]
    if terms[0].axes != ((first,), ()) or terms[1].axes[-1] != (second,):
        raise OpaqueError
    return (Term(1, (window,), ((names[0],), (names[1],))),)


def as_number(reader: Reader, node: Any) -> Form:
    """An indicator converted to floating point; else a copy to the same dtype."""
    form = reader.of(node.args[0])
    if node.args[0].meta["val"].dtype == torch.bool:
        if all(term.coef == 1 and not term.atoms for term in form):
            return form
    return same_dtype(reader, node)


def scatter_rows(reader: Reader, node: Any) -> Form:
    """The gradient of a table: ``sum_t [v == index[t]] g[t, d]``."""
    g, index, length, padding, scaled = node.args
    if scaled or padding >= 0:
        raise OpaqueError
    dtype = node.meta["val"].dtype
    places: list[Any] = [f"i{d}" for d in range(rank_of(index))]
    batched = offset_by_batch(reader, index, length)
    if batched is None:
        one_hot = one_hot_term(reader, index, length, dtype)
        return algebra.contract(
            reader.of(g), [*places, "d"], (one_hot,), [*places, "v"], ["v", "d"]
        )
    index, dim, rows = batched
    one_hot = one_hot_term(reader, index, rows, dtype)
    start = len(places) - rank_of(index)
    form = algebra.contract(
        reader.of(g),
        [*places, "d"],
        (one_hot,),
        [*places[start:], "v"],
        [*places, "v", "d"],
    )
    form = algebra.diag_embedded(
        algebra.permuted(form, [d for d in range(len(places) + 2) if d != dim] + [dim]),
        0,
        1,
    )
    gone = list(range(1, len(places) + 1))
    return algebra.reshaped(algebra.summed(form, gone, False), shape_of(node))


def offset_by_batch(
    reader: Reader, index: Any, length: int
) -> tuple[Any, int, int] | None:
    """Tell whether an index is ``x + rows * arange(batch)`` along one of its dims.

    That is how a batch of tables is laid out as one. Returns ``x``, the dim, and how
    many rows each table has.
    """
    if index.target is not aten.add.Tensor:
        return None
    for x, shift in (index.args, index.args[::-1]):
        if not isinstance(x, fx.Node) or not isinstance(shift, fx.Node):
            continue
        term = mapped(reader, shift, lambda x: x)[0]
        source = term.atoms[0].source
        rank = rank_of(index) - rank_of(shift)
        dims = [rank + d for d, axis in enumerate(term.axes) if axis]
        if getattr(source, "target", None) is aten.mul.Tensor and len(dims) == 1:
            counts, rows = source.args
            whole = isinstance(rows, int) and rows * shape_of(index)[dims[0]] == length
            if whole and count_from(counts) == 0:
                return x, dims[0], rows
    return None


def put(reader: Reader, node: Any) -> Form:
    """Values added to zeros at indices."""
    base, indices, values = node.args[:3]
    given = [d for d, i in enumerate(indices) if i is not None]
    if reader.of(base) != () or not argument(node, 3, False) or not given:
        raise OpaqueError
    if given != list(range(given[0], given[-1] + 1)):
        raise OpaqueError
    shape = shape_of(base)
    places = [indices[d].meta["val"] for d in given]
    if any(p.dtype not in INTEGERS for p in places):
        raise OpaqueError
    depth = max(p.dim() for p in places)
    before, after = given[0], len(shape) - given[-1] - 1
    names: list[Any] = [f"s{d}" for d in range(before)]
    names += [f"i{d}" for d in range(depth)]
    names += [f"s{d}" for d in range(given[-1] + 1, len(shape))]
    common = torch.broadcast_shapes(*[p.shape for p in places])
    whole = [*shape[:before], *common, *shape[len(shape) - after :]]
    form = algebra.expanded(reader.of(values), whole)
    for dim, place in zip(given, places, strict=True):
        one_hot = one_hot_term(reader, indices[dim], shape[dim], node.meta["val"].dtype)
        others = [f"i{d}" for d in range(depth - place.dim(), depth)] + [f"v{dim}"]
        out = [*names, f"v{dim}"]
        form = algebra.contract(form, names, (one_hot,), others, out)
        names = out
    wanted = [f"v{d}" if d in given else f"s{d}" for d in range(len(shape))]
    return algebra.contract(form, names, (Term(1, (), ()),), [], wanted)


SLOPES = (
    aten.threshold_backward.default,
    aten.gelu_backward.default,
    aten.silu_backward.default,
    aten.leaky_relu_backward.default,
    aten.hardtanh_backward.default,
    aten.softplus_backward.default,
    aten.mish_backward.default,
    aten.hardswish_backward.default,
    aten.hardsigmoid_backward.default,
)

INTEGERS = {torch.int64, torch.int32}

COUNTS = {aten.arange.default, aten.arange.start, aten.arange.start_step}

FUNCTIONS = (
    aten.tanh.default,
    aten.sigmoid.default,
    aten.sin.default,
    aten.cos.default,
    aten.exp.default,
    aten.log.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.abs.default,
    aten.sgn.default,
    aten.relu.default,
    aten.bitwise_not.default,
    aten.logical_not.default,
    aten.eq.Scalar,
    aten.ne.Scalar,
    aten.gt.Scalar,
    aten.ge.Scalar,
    aten.lt.Scalar,
    aten.le.Scalar,
    aten.pow.Tensor_Scalar,
    aten.add.Tensor,
    aten.rsub.Scalar,
    aten._to_copy.default,
)

VIEWS: dict[Any, Reading] = {
    **dict.fromkeys(
        (
            aten.view.default,
            aten._unsafe_view.default,
            aten.reshape.default,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        reshape,
    ),
    **dict.fromkeys((aten.alias.default, aten.clone.default), same_dtype),
    aten.expand.default: expand,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.t.default: transpose,
    aten.select.int: select,
    aten.slice.Tensor: take,
    aten.eq.Tensor: same_position,
}
"""Read for tensors of any dtype."""

PRODUCTS: dict[Any, Reading] = {
    **dict.fromkeys(
        (aten.split_with_sizes.default, aten.split.Tensor, aten.unbind.int), split
    ),
    aten._to_copy.default: as_number,
    aten.cat.default: concatenate,
    aten.stack.default: stack,
    aten.diagonal.default: take_diagonal,
    aten.diag_embed.default: embed_diagonal,
    aten.eye.default: identity,
    **dict.fromkeys(
        (
            *FILLED,
            *ONES,
            aten.zeros.default,
            aten.zeros_like.default,
            aten.new_zeros.default,
        ),
        fill,
    ),
    aten.neg.default: negate,
    aten.mul.Tensor: multiply,
    aten.mul.Scalar: multiply,
    aten.div.Tensor: divide,
    aten.pow.Tensor_Scalar: square,
    aten.square.default: square,
    aten.add.Tensor: add,
    aten.sub.Tensor: add,
    aten.sum.default: reduce_sum,
    aten.sum.dim_IntList: reduce_sum,
    aten.mean.default: reduce_mean,
    aten.mean.dim: reduce_mean,
    **dict.fromkeys(EINSUMS, matrix_product),
    **dict.fromkeys(BIASED, biased_product),
    aten.tanh_backward.default: tanh_slope,
    aten.sigmoid_backward.default: sigmoid_slope,
    **dict.fromkeys(SLOPES, elementwise_slope),
    aten.where.self: keep_where,
    aten.masked_fill.Scalar: keep_where,
    aten.embedding.default: embedding,
    aten.index_select.default: index_select,
    aten.index.Tensor: index,
    aten.embedding_dense_backward.default: scatter_rows,
    aten.index_put.default: put,
}
"""Read for floating-point tensors."""

TABLES = Tables(VIEWS, PRODUCTS, dict.fromkeys(FUNCTIONS, function))
