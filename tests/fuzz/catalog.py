"""The operations that programs are made of.

An entry is the Python text of the operation, which operands it takes, how its
parameters are drawn, and a guard that keeps its operands away from kinks, ties and
poles, so that a difference between two results is a defect.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

GAP = 1e-3

Choose = Callable[[list[Any]], Any]
Guard = Callable[..., bool]
Drawer = Callable[[Choose, list[Tensor]], Any]


@dataclass(frozen=True)
class Kind:
    """One operation.

    Attributes:
        code: the Python text; ``{0}`` is the first operand, ``{dim}`` a parameter.
        takes: one letter per operand: f floating, i integer, b bool, a any.
        effect: pure, view (shares elements), copy (may share or not: never written
            afterwards), write (in place), setitem, restride (in place, changes the
            shape only).
        params: how each parameter is drawn.
        guard: whether the operation is smooth and well defined at these operands.
        fits: whether the shapes of the operands go together.
        out_of_place: the text of the same value without the write.
        place: of setitem, the text of the index.
    """

    code: str
    takes: str
    effect: str = "pure"
    params: dict[str, Drawer] = field(default_factory=dict)
    guard: Guard | None = None
    fits: Guard | None = None
    out_of_place: str = ""
    place: str = ""


CATALOG: dict[str, Kind] = {}


def add(name: str, code: str, takes: str, **rest: Any) -> None:
    """Enter one operation; what is no field of ``Kind`` is a parameter."""
    assert name not in CATALOG, name
    known = {"effect", "guard", "fits", "out_of_place", "place"}
    params = {k: v for k, v in rest.items() if k not in known}
    fields = {k: v for k, v in rest.items() if k in known}
    CATALOG[name] = Kind(code, takes, params=params, **fields)


# Guards.


def away(*bounds: float) -> Guard:
    """Keep the first operand away from some numbers."""
    return lambda x, *_, **__: all(bool(((x - b).abs() > GAP).all()) for b in bounds)


def above(least: float, most: float = 1e9) -> Guard:
    """Keep the first operand between two numbers."""
    return lambda x, *_, **__: bool(((x > least) & (x < most)).all())


def sizes_below(most: float) -> Guard:
    """Keep the first operand small."""
    return above(-most, most)


def off_integers(x: Tensor, *_: Any, **__: Any) -> bool:
    """Keep away from where rounding jumps, at halves and at integers."""
    return bool(((2 * x - (2 * x).round()).abs() > GAP).all())


def apart(x: Tensor, y: Tensor, *_: Any, **__: Any) -> bool:
    """Keep two operands from being equal, if they are no integers."""
    if not (x.is_floating_point() or y.is_floating_point()):
        return True
    return bool(((x - y).abs() > GAP).all())


def distinct(x: Tensor, *_: Any, **__: Any) -> bool:
    """Keep all elements apart."""
    flat = x.reshape(-1).double().sort().values
    return x.numel() > 0 and bool((flat.diff() > GAP).all())


def divisor(_: Tensor, y: Tensor) -> bool:
    """Keep the second operand away from zero."""
    return bool((y.abs() > 0.2).all())


def not_zero(x: Tensor, *_: Any, **__: Any) -> bool:
    """Keep all elements away from zero by enough for a quotient."""
    return bool((x.abs() > 0.2).all())


def has_norm(x: Tensor, *_: Any, dim: Any = None, **__: Any) -> bool:
    """Keep norms away from zero."""
    return bool((torch.linalg.vector_norm(x, dim=dim) > 0.1).all())


def varied(x: Tensor, *_: Any, dim: Any = None, **__: Any) -> bool:
    """Keep variances away from zero."""
    return bool((x.var(dim) > 0.05).all())


# Shapes that go together.


def broadcast(*operands: Tensor) -> bool:
    """Tell whether the operands broadcast."""
    try:
        shape = torch.broadcast_shapes(*(o.shape for o in operands))
    except RuntimeError:
        return False
    return shape.numel() <= 48


def into_first(x: Tensor, *others: Tensor) -> bool:
    """Tell whether the other operands broadcast to the first."""
    return broadcast(x, *others) and x.shape == torch.broadcast_shapes(
        x.shape, *(o.shape for o in others)
    )


def multiply(x: Tensor, y: Tensor) -> bool:
    """Tell whether a matrix product is defined."""
    if x.dim() == 0 or y.dim() == 0 or x.dtype != y.dtype:
        return False
    if x.shape[-1] != y.shape[max(y.dim() - 2, 0)]:
        return False
    rows, others = x.shape[:-2], y.shape[:-2]
    short = min(len(rows), len(others))
    return short == 0 or rows[-short:] == others[-short:]


def same_shape(*operands: Tensor) -> bool:
    """Tell whether shapes and dtypes are equal."""
    first = operands[0]
    return all(o.shape == first.shape and o.dtype == first.dtype for o in operands)


def ranks(*wanted: int) -> Guard:
    """Ask for these numbers of dims, and for one dtype."""

    def fits(*operands: Tensor) -> bool:
        return all(
            o.dim() == r and o.dtype == operands[0].dtype
            for o, r in zip(operands, wanted, strict=True)
        )

    return fits


def at_least(rank: int) -> Guard:
    """Ask for at least so many dims in the first operand."""
    return lambda x, *_: x.dim() >= rank


def square_matrix(x: Tensor, *_: Any) -> bool:
    """Ask for one square matrix that is not empty."""
    return x.dim() == 2 and x.shape[0] == x.shape[1] > 0


def columns(x: Tensor, y: Tensor) -> bool:
    """Ask for a square matrix and a right-hand side of its size."""
    return square_matrix(x) and y.dim() == 2 and y.shape[0] == x.shape[0] and (
        x.dtype == y.dtype
    )


def concatenable(x: Tensor, y: Tensor) -> bool:
    """Tell whether the shapes agree but for at most one dim."""
    if x.dim() != y.dim() or x.dim() == 0:
        return False
    return sum(a != b for a, b in zip(x.shape, y.shape, strict=True)) <= 1


# Parameters.


def one_of(*values: Any) -> Drawer:
    """Draw one of these values."""
    return lambda choose, operands: choose(list(values))


def a_dim(choose: Choose, operands: list[Tensor]) -> int:
    """Draw a dim of the first operand, counted from either end."""
    rank = max(operands[0].dim(), 1)
    return int(choose(list(range(-rank, rank))))


def a_new_dim(choose: Choose, operands: list[Tensor]) -> int:
    """Draw where a dim can be inserted."""
    rank = operands[0].dim() + 1
    return int(choose(list(range(-rank, rank))))


def some_dims(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw one or two dims."""
    rank = max(operands[0].dim(), 1)
    first = choose(list(range(rank)))
    second = choose(list(range(rank)))
    return (first,) if first == second else (first, second - rank)


def two_dims(choose: Choose, operands: list[Tensor]) -> str:
    """Draw two different dims."""
    rank = operands[0].dim()
    first = choose(list(range(rank)))
    second = choose([d for d in range(rank) if d != first])
    return f"{first}, {second - rank}"


def an_order(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw a permutation of the dims."""
    left = list(range(operands[0].dim()))
    out = []
    while left:
        out.append(choose(left))
        left.remove(out[-1])
    return tuple(out)


def a_size(choose: Choose, operands: list[Tensor]) -> int:
    """Draw a number from 1 to 3."""
    return int(choose([1, 2, 3]))


def an_index(choose: Choose, operands: list[Tensor]) -> str:
    """Draw the text of a basic index."""
    parts = []
    for size in operands[0].shape:
        kinds = [":", ":", "1:", ":-1", "::2", "None, :", "-1:"]
        if size:
            kinds += ["0", "-1"]
        parts.append(choose(kinds))
    if operands[0].dim() > 1 and choose([False, False, True]):
        parts = ["...", parts[-1]]
    return ", ".join(parts) or "..."


def a_list(choose: Choose, operands: list[Tensor]) -> str:
    """Draw the text of an index by a list, at the first or at the last dim."""
    x = operands[0]
    if x.dim() == 0:
        return "..."
    first = choose([True, False])
    size = x.shape[0 if first else -1]
    picks = [choose(list(range(size))) for _ in range(choose([1, 2, 3]))] if size else []
    index = f"torch.tensor({picks}, dtype=torch.long)"
    return f"{index}, ..." if first else f"..., {index}"


def distinct_list(choose: Choose, operands: list[Tensor]) -> str:
    """Draw the text of an index that names no row twice."""
    x = operands[0]
    if x.dim() == 0:
        return "..."
    order = an_order(choose, [x.new_empty([1] * min(x.shape[0], 4))])
    count = choose(list(range(len(order) + 1)))
    return f"torch.tensor({list(order[:count])}, dtype=torch.long)"


def a_shape(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw another shape of as many elements."""
    x = operands[0]
    shape = list(x.shape)
    options: list[tuple[int, ...]] = [(x.numel(),), (1, x.numel()), (x.numel(), 1)]
    if x.numel() == 1:
        options.append(())
    if len(shape) > 1:
        options.append((shape[0] * shape[1], *shape[2:]))
        options.append((*shape[:-2], shape[-2] * shape[-1]))
    for split in (2, 3):
        if x.numel() and x.numel() % split == 0:
            options.append((split, x.numel() // split))
    return tuple(choose(options))


def a_wider_shape(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw a shape that the operand expands to."""
    shape = [choose([2, 3]) if s == 1 else s for s in operands[0].shape]
    if choose([True, False]):
        shape.insert(0, choose([1, 2]))
    return tuple(shape)


def fresh_shape(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw the shape of a tensor made in the function: like that of an operand."""
    return tuple(operands[0].shape)


def last_size(choose: Choose, operands: list[Tensor]) -> int:
    """Return the size of the last dim."""
    return operands[0].shape[-1] if operands[0].dim() else 1


def first_size(choose: Choose, operands: list[Tensor]) -> int:
    """Return the size of the first dim."""
    return operands[0].shape[0] if operands[0].dim() else 1


def size_of_dim(choose: Choose, operands: list[Tensor]) -> int:
    """Return the size of the second dim, that of the classes."""
    return operands[0].shape[1] if operands[0].dim() > 1 else 1


def a_scalar(choose: Choose, operands: list[Tensor]) -> float:
    """Draw a number."""
    return float(choose([0.5, -0.7, 1.3, 2.0, 0.25]))


# Elementwise, one operand.

for name in (
    "sin", "cos", "tanh", "sigmoid", "square", "neg", "erf", "atan", "exp2", "asinh",
    "erfc", "sinc",
):  # fmt: skip
    add(name, f"torch.{name}({{0}})", "f", guard=sizes_below(6.0))
for name in ("exp", "expm1", "sinh", "cosh"):
    add(name, f"torch.{name}({{0}})", "f", guard=sizes_below(3.0))
for name in ("log", "sqrt", "rsqrt", "log2", "lgamma"):
    add(name, f"torch.{name}({{0}})", "f", guard=above(0.2))
for name in ("silu", "gelu", "softplus", "logsigmoid", "mish", "softsign"):
    add(name, f"F.{name}({{0}})", "f", guard=away(0.0))
for name in ("relu", "elu", "leaky_relu", "selu", "celu"):
    add(name, f"F.{name}({{0}})", "f", guard=away(0.0))
for name in ("hardtanh", "hardswish", "relu6", "hardsigmoid"):
    add(name, f"F.{name}({{0}})", "f", guard=away(-1.0, 0.0, 1.0, -3.0, 3.0, 6.0))
for name in ("abs", "sign", "sgn"):
    add(name, f"torch.{name}({{0}})", "f", guard=away(0.0))
for name in ("floor", "ceil", "round", "trunc", "frac"):
    add(name, f"torch.{name}({{0}})", "f", guard=off_integers)
add("gelu_tanh", "F.gelu({0}, approximate='tanh')", "f")
add("log1p", "torch.log1p({0})", "f", guard=above(-0.8))
add("asin", "torch.asin({0})", "f", guard=sizes_below(0.9))
add("reciprocal", "torch.reciprocal({0})", "f", guard=not_zero)
add("logit", "torch.logit({0}, eps=0.1)", "f", guard=away(0.1, 0.9))
add("pow_2", "{0} ** 2", "f")
add("pow_3", "{0}.pow(3)", "f", guard=sizes_below(4.0))
add("pow_half", "{0} ** 0.5", "f", guard=above(0.2))
add("pow_minus_1", "{0} ** -1", "f", guard=not_zero)
add("two_to", "2 ** {0}", "f", guard=sizes_below(4.0))
add("clamp", "{0}.clamp(-0.5, 1.0)", "f", guard=away(-0.5, 1.0))
add("clamp_min", "{0}.clamp(min=0.1)", "f", guard=away(0.1))
add("nan_to_num", "torch.nan_to_num({0})", "f")
add("scale", "{0} * {c}", "f", c=a_scalar)
add("shift", "{0} + {c}", "f", c=a_scalar)
add("reflect", "1.5 - {0}", "f")
add("over", "{c} / {0}", "f", c=a_scalar, guard=not_zero)
add("halve", "{0} / 2", "a")
add("float_power", "torch.float_power({0}, 2)", "f")
add("detach", "{0}.detach()", "f", effect="copy")
add("clone", "{0}.clone()", "a")
add("positive", "{0} * {0} + 0.5", "f")
add("threshold", "F.threshold({0}, 0.3, -1.0)", "f", guard=away(0.3))

# Elementwise, several operands.

for name in ("add", "sub", "mul"):
    add(name, f"torch.{name}({{0}}, {{1}})", "ff", fits=broadcast)
    add(f"{name}_mixed", f"torch.{name}({{0}}, {{1}})", "fi", fits=broadcast)
add("add_alpha", "torch.add({0}, {1}, alpha=0.5)", "ff", fits=broadcast)
add("rsub", "torch.rsub({0}, {1}, alpha=2)", "ff", fits=broadcast)
add("div", "{0} / {1}", "ff", fits=broadcast, guard=divisor)
add("true_div_mixed", "{1} / {0}", "fi", fits=broadcast, guard=not_zero)
add("pow", "{0} ** {1}", "ff", fits=broadcast, guard=above(0.2, 3.0))
add("atan2", "torch.atan2({0}, {1})", "ff", fits=broadcast, guard=not_zero)
add("maximum", "torch.maximum({0}, {1})", "ff", fits=broadcast, guard=apart)
add("minimum", "torch.minimum({0}, {1})", "ff", fits=broadcast, guard=apart)
add("logaddexp", "torch.logaddexp({0}, {1})", "ff", fits=broadcast)
add("hypot", "torch.hypot({0}, {1})", "ff", fits=broadcast, guard=not_zero)
add("xlogy", "torch.xlogy({1}, {0})", "ff", fits=broadcast, guard=above(0.2))
add("lerp", "torch.lerp({0}, {1}, 0.3)", "ff", fits=same_shape)
add("lerp_tensor", "torch.lerp({0}, {1}, {2})", "fff", fits=same_shape)
add("addcmul", "torch.addcmul({0}, {1}, {2}, value=0.5)", "fff", fits=broadcast)
add("where", "torch.where({0}, {1}, {2})", "bff", fits=broadcast)
add("where_scalar", "torch.where({0}, {1}, 0.5)", "bf", fits=broadcast)
add("masked_fill", "{0}.masked_fill({1}, {c})", "fb", fits=broadcast, c=a_scalar)
add("masked_fill_tensor", "{0}.masked_fill({1}, {0}.sum())", "fb", fits=broadcast)
add("mse_loss", "F.mse_loss({0}, {1}, reduction={r!r})", "ff", fits=same_shape,
    r=one_of("mean", "sum", "none"))  # fmt: skip
add("smooth_l1", "F.smooth_l1_loss({0}, {1}, beta=0.1)", "ff", fits=same_shape,
    guard=lambda x, y: away(0.0, 0.1, -0.1)(x - y))  # fmt: skip
add("bce_with_logits", "F.binary_cross_entropy_with_logits({0}, {1})", "ff",
    fits=same_shape)  # fmt: skip

# Integers and masks.

for name in ("gt", "lt", "ge", "ne", "eq"):
    add(name, f"torch.{name}({{0}}, {{1}})", "aa", fits=broadcast, guard=apart)
add("gt_scalar", "{0} > 0.3", "a", guard=away(0.3))
add("logical_and", "torch.logical_and({0}, {1})", "bb", fits=broadcast)
add("or", "{0} | {1}", "bb", fits=broadcast)
add("not", "~{0}", "b")
add("add_int", "{0} + {1}", "ii", fits=broadcast)
add("mul_int", "{0} * {1} % 7", "ii", fits=broadcast)
add("floor_div_int", "{0} // 2", "i")
add("to_double", "{0}.to(torch.float64)", "a", effect="copy")
add("to_float", "{0}.float()", "a", effect="copy")
add("to_long", "{0}.long()", "f", effect="copy", guard=off_integers)
add("to_bool", "{0}.bool()", "i", effect="copy")
add("one_hot", "F.one_hot({0} % 3, 3)", "i")
add("any", "{0}.any({dim})", "b", dim=a_dim)
add("all", "{0}.all({dim}, keepdim=True)", "b", dim=a_dim)
add("argmax", "{0}.argmax({dim})", "f", dim=a_dim, guard=distinct)
add("argsort", "{0}.argsort({dim})", "f", dim=a_dim, guard=distinct)
add("argmin_all", "{0}.argmin()", "f", guard=distinct)
add("sum_int", "{0}.sum({dim})", "i", dim=a_dim)
add("count_nonzero", "torch.count_nonzero({0}, {dim})", "b", dim=a_dim)

# Reductions and scans.

add("sum", "{0}.sum()", "f")
add("mean", "{0}.mean()", "f")
for name in ("sum", "mean", "amax", "amin", "logsumexp"):
    add(f"{name}_dims", f"{{0}}.{name}({{dim}}, keepdim={{keep}})", "f", dim=some_dims,
        keep=one_of(False, True), guard=distinct if name in ("amax", "amin") else None)  # fmt: skip
add("prod", "{0}.prod({dim})", "f", dim=a_dim, guard=not_zero)
add("prod_all", "{0}.prod()", "f", guard=not_zero)
add("max_all", "{0}.max()", "f", guard=distinct)
add("max", "{0}.max({dim})[{part}]", "f", dim=a_dim, part=one_of(0, 1), guard=distinct)
add("min", "{0}.min({dim}, True)[{part}]", "f", dim=a_dim, part=one_of(0, 1),
    guard=distinct)  # fmt: skip
add("median", "{0}.median({dim})[{part}]", "f", dim=a_dim, part=one_of(0, 1),
    guard=distinct)  # fmt: skip
add("var", "{0}.var({dim}, correction={c})", "f", dim=some_dims, c=one_of(0, 1))
add("std", "{0}.std({dim})", "f", dim=a_dim, guard=varied)
add("var_mean", "torch.var_mean({0}, {dim})[{part}]", "f", dim=a_dim,
    part=one_of(0, 1))  # fmt: skip
add("norm", "torch.linalg.vector_norm({0}, {p}, {dim})", "f", dim=a_dim,
    p=one_of(2, 3, 1), guard=not_zero)  # fmt: skip
add("norm_all", "{0}.norm()", "f", guard=has_norm)
add("cumsum", "{0}.cumsum({dim})", "f", dim=a_dim)
add("cumprod", "{0}.cumprod({dim})", "f", dim=a_dim, guard=not_zero)
add("logcumsumexp", "{0}.logcumsumexp({dim})", "f", dim=a_dim)
add("cummax", "{0}.cummax({dim})[{part}]", "f", dim=a_dim, part=one_of(0, 1),
    guard=distinct)  # fmt: skip
add("sort", "{0}.sort({dim}, descending={down})[{part}]", "f", dim=a_dim,
    down=one_of(False, True), part=one_of(0, 1), guard=distinct)  # fmt: skip
add("topk", "{0}.topk({k}, {dim})[{part}]", "f", dim=a_dim, k=one_of(1, 2),
    part=one_of(0, 1), guard=distinct)  # fmt: skip
add("diff", "{0}.diff(dim={dim})", "f", dim=a_dim)
add("trace", "torch.trace({0})", "f", fits=ranks(2))

# Products.

add("matmul", "{0} @ {1}", "ff", fits=multiply)
add("matmul_own", "{0} @ {0}.mT", "f", fits=at_least(2))
add("linear", "F.linear({0}, {1})", "ff",
    fits=lambda x, y: x.dim() > 0 and y.dim() == 2 and x.shape[-1] == y.shape[1]
    and x.dtype == y.dtype)  # fmt: skip
add("outer", "torch.outer({0}, {1})", "ff", fits=ranks(1, 1))
add("einsum_own", "torch.einsum('ij,kj->ik', {0}, {0})", "f", fits=ranks(2))
add("einsum_rows", "torch.einsum('ij,ij->i', {0}, {1})", "ff",
    fits=lambda x, y: same_shape(x, y) and x.dim() == 2)  # fmt: skip
add("bilinear", "torch.einsum('i,ij,j->', {0}, {1}, {2})", "fff",
    fits=lambda x, m, y: ranks(1, 2, 1)(x, m, y) and m.shape == x.shape + y.shape)  # fmt: skip
add("addmm", "torch.addmm({0}, {1}, {1}.mT, beta=0.5, alpha=2)", "ff",
    fits=lambda x, y: y.dim() == 2 and x.dtype == y.dtype
    and broadcast(x, y[:, :1], y[:, :1].mT)
    and torch.broadcast_shapes(x.shape, (len(y), len(y))) == (len(y), len(y)))  # fmt: skip
add("kron", "torch.kron({0}, {0})", "f", fits=lambda x: 0 < x.numel() <= 6)
add("tensordot", "torch.tensordot({0}, {1}, 1)", "ff",
    fits=lambda x, y: x.dim() > 0 and y.dim() > 0 and x.shape[-1] == y.shape[0]
    and x.dtype == y.dtype and x.numel() * y.numel() <= 48)  # fmt: skip
add("solve",
    "torch.linalg.solve({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype), {1})",
    "ff", n=last_size, fits=columns)  # fmt: skip
add("inv", "torch.linalg.inv({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype))",
    "f", n=last_size, fits=square_matrix)  # fmt: skip
add("logdet",
    "torch.linalg.slogdet({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype))[1]",
    "f", n=last_size, fits=square_matrix)  # fmt: skip
add("cholesky",
    "torch.linalg.cholesky({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype))",
    "f", n=last_size, fits=square_matrix)  # fmt: skip
add("conv1d", "F.conv1d({0}, {1}[:, None, :1].expand(-1, {n}, 2), padding=1)", "ff",
    n=lambda c, o: o[0].shape[-2] if o[0].dim() > 1 else 1,
    fits=lambda x, y: x.dim() in (2, 3) and y.dim() == 2 and 0 not in x.shape + y.shape
    and x.dtype == y.dtype)  # fmt: skip

# Softmax and normalizations.

add("softmax", "torch.softmax({0}, {dim})", "f", dim=a_dim)
add("log_softmax", "F.log_softmax({0}, {dim})", "f", dim=a_dim)
add("softmin", "F.softmin({0}, dim={dim})", "f", dim=a_dim)
add("normalize", "F.normalize({0}, dim={dim})", "f", dim=a_dim, guard=has_norm)
add("layer_norm", "F.layer_norm({0}, ({n},))", "f", n=last_size,
    guard=lambda x, **_: varied(x, dim=-1))  # fmt: skip
add("layer_norm_affine", "F.layer_norm({0}, ({n},), {1}, {2})", "fff", n=last_size,
    fits=lambda x, w, b: same_shape(w, b) and w.dim() == 1 and x.dim() > 0
    and x.shape[-1] == len(w) and x.dtype == w.dtype,
    guard=lambda x, *_, **__: varied(x, dim=-1))  # fmt: skip
add("rms_norm", "F.rms_norm({0}, ({n},))", "f", n=last_size,
    guard=lambda x, **_: has_norm(x, dim=-1))  # fmt: skip
add("group_norm", "F.group_norm({0}, 1)", "f", fits=at_least(2),
    guard=lambda x, **_: bool((x.flatten(1).var(1) > 0.05).all()))  # fmt: skip
add("batch_norm", "F.batch_norm({0}, None, None, training=True)", "f", fits=at_least(2),
    guard=lambda x, **_: bool((x.transpose(0, 1).flatten(1).var(1) > 0.05).all()))  # fmt: skip
add("cosine_similarity", "F.cosine_similarity({0}, {1}, dim={dim})", "ff", dim=a_dim,
    fits=same_shape,
    guard=lambda x, y, dim: has_norm(x, dim=dim) and has_norm(y, dim=dim))  # fmt: skip
add("cross_entropy", "F.cross_entropy({0}, {1} % {n}, reduction={r!r})", "fi",
    n=size_of_dim, r=one_of("mean", "sum", "none"),
    fits=lambda x, t: x.dim() == 2 and t.shape == x.shape[:1] and x.numel() > 0)  # fmt: skip
add("attention", "F.scaled_dot_product_attention({0}, {0}, {1})", "ff",
    fits=lambda x, y: same_shape(x, y) and x.dim() in (2, 3) and x.numel() > 0)  # fmt: skip
add("avg_pool1d", "F.avg_pool1d({0}, 2, 1)", "f", fits=ranks(2))
add("max_pool1d", "F.max_pool1d({0}, 2, 1)", "f", fits=ranks(2), guard=distinct)

# Joining, indexing, rearranging into new tensors.

add("cat", "torch.cat([{0}, {1}, {0}], {dim})", "ff", dim=a_dim, fits=concatenable)
add("stack", "torch.stack([{0}, {1}], {dim})", "ff", dim=a_new_dim, fits=same_shape)
add("hstack", "torch.hstack([{0}, {1}])", "ff", fits=concatenable)
add("repeat", "{0}.repeat(2, {r})", "f",
    r=lambda choose, o: ", ".join(["1"] * max(o[0].dim() - 1, 0)),
    fits=at_least(1))  # fmt: skip
add("repeat_interleave", "{0}.repeat_interleave(2, {dim})", "f", dim=a_dim)
add("flip", "{0}.flip({dim})", "f", dim=a_dim)
add("roll", "{0}.roll({n}, {dim})", "f", n=a_size, dim=a_dim)
add("pad", "F.pad({0}, (1, 2), value={c})", "f", c=a_scalar, fits=at_least(1))
add("tril", "{0}.tril({k})", "f", k=one_of(0, 1, -1), fits=at_least(2))
add("triu", "{0}.triu()", "f", fits=at_least(2))
add("diag_embed", "torch.diag_embed({0})", "f", fits=at_least(1))
add("diag", "torch.diag({0})", "f", effect="copy", fits=at_least(1))
add("index_select", "{0}.index_select(0, {1}.reshape(-1) % {n})", "fi", n=first_size,
    fits=lambda x, i: x.dim() > 0 and x.shape[0] > 0
    and i.numel() * x[0].numel() <= 48)  # fmt: skip
add("by_list", "{0}[{index}]", "f", index=a_list, fits=at_least(1), effect="copy")
add("by_tensor", "{0}[{1} % {n}]", "fi", n=first_size,
    fits=lambda x, i: x.dim() > 0 and x.shape[0] > 0
    and i.numel() * x[0].numel() <= 48)  # fmt: skip
add("gather", "{0}.gather({dim}, {0}.argsort({dim}))", "f", dim=a_dim, guard=distinct)
add("take_along", "torch.take_along_dim({0}, {1}[:1] % {n}, 0)", "fi", n=first_size,
    fits=lambda x, i: x.dim() == i.dim() > 0 and x.shape[1:] == i.shape[1:]
    and x.shape[0] > 0)  # fmt: skip
add("embedding", "F.embedding({1} % {n}, {0})", "fi", n=first_size,
    fits=lambda x, i: x.dim() == 2 and x.shape[0] > 0
    and i.numel() * x.shape[1] <= 48)  # fmt: skip
add("index_add", "{0}.index_add(0, torch.zeros({n}, dtype=torch.long), {0})", "f",
    n=first_size, fits=lambda x: x.dim() > 0 and x.shape[0] > 0)  # fmt: skip
add("scatter_add", "{0}.scatter_add(0, {1} % {n}, {0})", "fi", n=first_size,
    fits=lambda x, i: x.shape == i.shape and x.dim() > 0 and x.shape[0] > 0)  # fmt: skip
add("select_scatter", "{0}.select_scatter({0}[0] * 2, 0, -1)", "f",
    fits=lambda x: x.dim() > 0 and x.shape[0] > 0)  # fmt: skip
add("atleast_2d", "torch.atleast_2d({0})", "f", effect="copy")
add("unfold_copy", "{0}.unfold({dim}, 2, 1)", "f", dim=a_dim, effect="copy",
    fits=at_least(1))  # fmt: skip

# Views.

add("basic_index", "{0}[{index}]", "a", effect="view", index=an_index,
    fits=at_least(1))  # fmt: skip
add("reshape", "{0}.reshape({shape})", "a", effect="copy", shape=a_shape)
add("view", "{0}.view({shape})", "a", effect="view", shape=a_shape)
add("flatten", "{0}.flatten()", "a", effect="copy")
add("contiguous", "{0}.contiguous()", "a", effect="copy")
add("unsqueeze", "{0}.unsqueeze({dim})", "a", effect="view", dim=a_new_dim)
add("squeeze", "{0}.squeeze()", "a", effect="view")
add("squeeze_dim", "{0}.squeeze({dim})", "a", effect="view", dim=a_dim)
add("transpose", "{0}.transpose({dims})", "a", effect="view", dims=two_dims,
    fits=at_least(2))  # fmt: skip
add("permute", "{0}.permute({order})", "a", effect="view", order=an_order)
add("movedim", "{0}.movedim({dims})", "a", effect="view", dims=two_dims,
    fits=at_least(2))  # fmt: skip
add("t", "{0}.t()", "a", effect="view", fits=lambda x: x.dim() <= 2)
add("mT", "{0}.mT", "a", effect="view", fits=at_least(2))
add("select", "{0}.select({dim}, {i})", "a", effect="view", dim=a_dim,
    i=one_of(0, -1), fits=at_least(1))  # fmt: skip
add("narrow", "{0}.narrow({dim}, 0, 1)", "a", effect="view", dim=a_dim,
    fits=at_least(1))  # fmt: skip
add("expand", "{0}.expand({shape})", "a", effect="view", shape=a_wider_shape)
add("broadcast_to", "{0}.broadcast_to({shape})", "a", effect="view",
    shape=a_wider_shape)  # fmt: skip
add("diagonal", "{0}.diagonal({k})", "a", effect="view", k=one_of(0, 1),
    fits=at_least(2))  # fmt: skip
add("unbind", "{0}.unbind({dim})[{i}]", "a", effect="view", dim=a_dim, i=one_of(0, -1),
    fits=at_least(1))  # fmt: skip
add("split", "{0}.split({n}, {dim})[{i}]", "a", effect="view", n=a_size, dim=a_dim,
    i=one_of(0, -1), fits=at_least(1))  # fmt: skip
add("chunk", "{0}.chunk(2, {dim})[{i}]", "a", effect="view", dim=a_dim,
    i=one_of(0, -1), fits=at_least(1))  # fmt: skip
add("tensor_split", "torch.tensor_split({0}, 3, {dim})[{i}]", "a", effect="view",
    dim=a_dim, i=one_of(0, 1), fits=at_least(1))  # fmt: skip
add("unflatten", "{0}.unflatten(0, (-1, 1))", "a", effect="view",
    fits=lambda x: x.dim() > 0 and x.numel() > 0)  # fmt: skip

# Fresh tensors.

add("zeros", "torch.zeros({shape}, dtype={0}.dtype)", "f", shape=fresh_shape)
add("ones_wide", "torch.ones((2, *{shape}), dtype={0}.dtype)", "f", shape=fresh_shape)
add("full", "torch.full({shape}, {c}, dtype={0}.dtype)", "f", c=a_scalar,
    shape=fresh_shape)  # fmt: skip
add("zeros_like", "torch.zeros_like({0})", "f")
add("new_zeros", "{0}.new_zeros({shape})", "f", shape=fresh_shape)
add("new_full", "{0}.new_full({shape}, {c})", "f", shape=fresh_shape, c=a_scalar)
add("arange", "torch.arange({n})", "f", n=last_size)
add("linspace", "torch.linspace(0.1, 0.9, {n}, dtype={0}.dtype)", "f", n=last_size)
add("eye", "torch.eye({n}, dtype={0}.dtype)", "f", n=last_size)
add("full_like", "torch.full_like({0}, {c})", "f", c=a_scalar)
add("tensor", "torch.tensor([0.3, -1.2], dtype={0}.dtype)", "f")


# Writes.


def write(name: str, code: str, takes: str, out_of_place: str, **rest: Any) -> None:
    """Enter an operation that writes into its first operand."""
    add(name, code, takes, effect="write", out_of_place=out_of_place, **rest)


for name in ("add", "sub", "mul"):
    write(f"{name}_", f"{{0}}.{name}_({{1}})", "ff", f"{{0}}.{name}({{1}})",
          fits=into_first)  # fmt: skip
write("iadd_int", "{0}.add_({1})", "fi", "{0} + {1}", fits=into_first)
write("int_add_", "{0}.add_({1})", "ii", "{0} + {1}", fits=into_first)
write("div_", "{0}.div_(2)", "f", "{0} / 2")
write("add_alpha_", "{0}.add_({1}, alpha=-2)", "ff", "{0} - 2 * {1}", fits=into_first)
write("copy_", "{0}.copy_({1})", "fa", "{1}", fits=into_first)
write("fill_", "{0}.fill_({c})", "f", "torch.full_like({0}, {c})", c=a_scalar)
write("fill_tensor_", "{0}.fill_({1})", "ff", "{1}",
      fits=lambda x, y: y.dim() == 0)  # fmt: skip
write("zero_", "{0}.zero_()", "a", "torch.zeros_like({0})")
for name in ("sin", "tanh", "sigmoid", "neg", "square"):
    write(f"{name}_", f"{{0}}.{name}_()", "f", f"{{0}}.{name}()",
          guard=sizes_below(6.0))  # fmt: skip
write("exp_", "{0}.exp_()", "f", "{0}.exp()", guard=sizes_below(2.0))
write("relu_", "F.relu({0}, inplace=True)", "f", "F.relu({0})", guard=away(0.0))
write("clamp_", "{0}.clamp_(-0.4, 0.9)", "f", "{0}.clamp(-0.4, 0.9)",
      guard=away(-0.4, 0.9))  # fmt: skip
write("masked_fill_", "{0}.masked_fill_({1}, {c})", "fb", "{0}.masked_fill({1}, {c})",
      c=a_scalar, fits=into_first)  # fmt: skip
write("addcmul_", "{0}.addcmul_({1}, {2})", "fff", "{0} + {1} * {2}", fits=into_first)
write("lerp_", "{0}.lerp_({1}, 0.25)", "ff", "{0} + 0.25 * ({1} - {0})",
      fits=same_shape)  # fmt: skip
write("index_fill_", "{0}.index_fill_(0, torch.tensor([0]), {c})", "f",
      "torch.cat([torch.full_like({0}[:1], {c}), {0}[1:]])", c=a_scalar,
      fits=lambda x: x.dim() > 0 and x.shape[0] > 0)  # fmt: skip
write("index_add_", "{0}.index_add_(0, torch.tensor([0, 0]), {1})", "ff",
      "torch.cat([{0}[:1] + {1}.sum(0, keepdim=True), {0}[1:]])",
      fits=lambda x, y: x.dim() == y.dim() > 0 and x.shape[0] > 0 and y.shape[0] == 2
      and x.shape[1:] == y.shape[1:] and x.dtype == y.dtype)  # fmt: skip
write("index_copy_", "{0}.index_copy_(0, torch.tensor([0]), {1})", "ff",
      "torch.cat([{1}, {0}[1:]])",
      fits=lambda x, y: x.dim() == y.dim() > 0 and x.shape[0] > 0 and y.shape[0] == 1
      and x.shape[1:] == y.shape[1:] and x.dtype == y.dtype)  # fmt: skip
write("scatter_", "{0}.scatter_(0, {1}[:1] % {n}, {c})", "fi",
      "{0}.scatter(0, {1}[:1] % {n}, {c})", c=a_scalar, n=first_size,
      fits=lambda x, i: x.shape == i.shape and x.dim() > 0 and x.shape[0] > 0)  # fmt: skip
write("fill_diagonal_", "{0}.fill_diagonal_({c})", "f",
      "{0}.masked_fill(torch.eye(*{0}.shape, dtype=torch.bool), {c})", c=a_scalar,
      fits=lambda x: x.dim() == 2)  # fmt: skip
write("cumsum_", "{0}.cumsum_({dim})", "f", "{0}.cumsum({dim})", dim=a_dim)
write("tril_", "{0}.tril_()", "f", "{0}.tril()", fits=at_least(2))
add("setitem", "{0}[{index}] = {1}", "ff", effect="setitem", place="{index}",
    index=an_index, fits=at_least(1))  # fmt: skip
add("setitem_list", "{0}[{index}] = {1}", "ff", effect="setitem", place="{index}",
    index=distinct_list, fits=at_least(1))  # fmt: skip
write("setitem_mask", "{0}.__setitem__({1}, {c}) or {0}", "fb",
      "torch.where({1}, {c}, {0})", c=a_scalar,
      fits=lambda x, m: x.shape == m.shape)  # fmt: skip
for name, fits in (("t_", lambda x: x.dim() <= 2), ("squeeze_", at_least(0))):
    add(name, f"{{0}}.{name}()", "f", effect="restride",
        out_of_place=f"{{0}}.{name[:-1]}()", fits=fits)  # fmt: skip
add("unsqueeze_", "{0}.unsqueeze_({dim})", "f", effect="restride",
    out_of_place="{0}.unsqueeze({dim})", dim=a_new_dim)  # fmt: skip
add("transpose_", "{0}.transpose_({dims})", "f", effect="restride",
    out_of_place="{0}.transpose({dims})", dims=two_dims, fits=at_least(2))  # fmt: skip
