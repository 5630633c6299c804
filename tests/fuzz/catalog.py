"""The operations that programs are made of.

An entry is the Python text of the operation, which operands it takes, how its
parameters are drawn, and a guard that keeps its operands away from kinks, ties and
poles, so that a difference between two results is a defect.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from tests.fuzz.conditions import (
    Guard,
    above,
    apart,
    at_least,
    away,
    broadcast,
    columns,
    concatenable,
    distinct,
    divisor,
    has_norm,
    into_first,
    multiply,
    not_zero,
    off_integers,
    ranks,
    same_shape,
    sizes_below,
    square_matrix,
    varied,
)
from tests.fuzz.parameters import (
    Drawer,
    a_dim,
    a_list,
    a_new_dim,
    a_scalar,
    a_shape,
    a_size,
    a_wider_shape,
    an_index,
    an_order,
    distinct_list,
    first_size,
    fresh_shape,
    last_size,
    one_of,
    size_of_dim,
    some_dims,
    two_dims,
)


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
        formula: the text of the same value without a write, and without a kernel
            whose higher derivatives torch.autograd does not have right.
        place: of setitem, the text of the index.
    """

    code: str
    takes: str
    effect: str = "pure"
    params: dict[str, Drawer] = field(default_factory=dict)
    guard: Guard | None = None
    fits: Guard | None = None
    formula: str = ""
    place: str = ""

    @property
    def writes(self) -> bool:
        """Tell whether it changes its first operand."""
        return self.effect in ("write", "setitem", "restride")


CATALOG: dict[str, Kind] = {}


def add(name: str, code: str, takes: str, **rest: Any) -> None:
    """Enter one operation; what is no field of ``Kind`` is a parameter."""
    assert name not in CATALOG, name
    known = {"effect", "guard", "fits", "formula", "place"}
    params = {k: v for k, v in rest.items() if k not in known}
    fields = {k: v for k, v in rest.items() if k in known}
    CATALOG[name] = Kind(code, takes, params=params, **fields)


# The table, by hand: an operation is a line or two.
# fmt: off

# Elementwise, one operand.

for name in (
    "sin", "cos", "tanh", "sigmoid", "square", "neg", "erf", "atan", "exp2", "asinh",
    "erfc", "sinc",
):
    add(name, f"torch.{name}({{0}})", "f", guard=sizes_below(6.0))
for name in ("exp", "expm1", "sinh", "cosh"):
    add(name, f"torch.{name}({{0}})", "f", guard=sizes_below(3.0))
for name in ("log", "sqrt", "rsqrt", "log2", "lgamma"):
    add(name, f"torch.{name}({{0}})", "f", guard=above(0.2))
for name in ("silu", "gelu", "softplus", "logsigmoid", "mish", "softsign"):
    add(name, f"F.{name}({{0}})", "f", guard=away(0.0))
for name in ("relu", "elu", "leaky_relu", "selu", "celu"):
    add(name, f"F.{name}({{0}})", "f", guard=away(0.0))
for name in ("hardtanh", "hardswish", "relu6"):
    add(name, f"F.{name}({{0}})", "f", guard=away(-1.0, 0.0, 1.0, -3.0, 3.0, 6.0))
add("hardsigmoid", "F.hardsigmoid({0})", "f", guard=away(-3.0, 3.0),
    formula="({0} + 3).clamp(0, 6) / 6")
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
    r=one_of("mean", "sum", "none"))
add("smooth_l1", "F.smooth_l1_loss({0}, {1}, beta=0.1)", "ff", fits=same_shape,
    guard=lambda x, y: away(0.0, 0.1, -0.1)(x - y))
add("bce_with_logits", "F.binary_cross_entropy_with_logits({0}, {1})", "ff",
    fits=same_shape)

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
        keep=one_of(False, True), guard=distinct if name in ("amax", "amin") else None)
add("prod", "{0}.prod({dim})", "f", dim=a_dim, guard=not_zero)
add("prod_all", "{0}.prod()", "f", guard=not_zero)
add("max_all", "{0}.max()", "f", guard=distinct)
add("max", "{0}.max({dim})[{part}]", "f", dim=a_dim, part=one_of(0, 1), guard=distinct)
add("min", "{0}.min({dim}, True)[{part}]", "f", dim=a_dim, part=one_of(0, 1),
    guard=distinct)
add("median", "{0}.median({dim})[{part}]", "f", dim=a_dim, part=one_of(0, 1),
    guard=distinct)
add("var", "{0}.var({dim}, correction={c})", "f", dim=some_dims, c=one_of(0, 1))
add("std", "{0}.std({dim})", "f", dim=a_dim, guard=varied)
add("var_mean", "torch.var_mean({0}, {dim})[{part}]", "f", dim=a_dim,
    part=one_of(0, 1))
add("norm", "torch.linalg.vector_norm({0}, {p}, {dim})", "f", dim=a_dim,
    p=one_of(2, 3, 1), guard=not_zero)
add("norm_all", "{0}.norm()", "f", guard=has_norm)
add("cumsum", "{0}.cumsum({dim})", "f", dim=a_dim)
add("cumprod", "{0}.cumprod({dim})", "f", dim=a_dim, guard=not_zero)
add("logcumsumexp", "{0}.logcumsumexp({dim})", "f", dim=a_dim)
add("cummax", "{0}.cummax({dim})[{part}]", "f", dim=a_dim, part=one_of(0, 1),
    guard=distinct)
add("sort", "{0}.sort({dim}, descending={down})[{part}]", "f", dim=a_dim,
    down=one_of(False, True), part=one_of(0, 1), guard=distinct)
add("topk", "{0}.topk({k}, {dim})[{part}]", "f", dim=a_dim, k=one_of(1, 2),
    part=one_of(0, 1), guard=distinct)
add("diff", "{0}.diff(dim={dim})", "f", dim=a_dim)
add("trace", "torch.trace({0})", "f", fits=ranks(2))

# Products.

add("matmul", "{0} @ {1}", "ff", fits=multiply)
add("matmul_own", "{0} @ {0}.mT", "f", fits=at_least(2))
add("linear", "F.linear({0}, {1})", "ff",
    fits=lambda x, y: x.dim() > 0 and y.dim() == 2 and x.shape[-1] == y.shape[1]
    and x.dtype == y.dtype)
add("outer", "torch.outer({0}, {1})", "ff", fits=ranks(1, 1))
add("einsum_own", "torch.einsum('ij,kj->ik', {0}, {0})", "f", fits=ranks(2))
add("einsum_rows", "torch.einsum('ij,ij->i', {0}, {1})", "ff",
    fits=lambda x, y: same_shape(x, y) and x.dim() == 2)
add("bilinear", "torch.einsum('i,ij,j->', {0}, {1}, {2})", "fff",
    fits=lambda x, m, y: ranks(1, 2, 1)(x, m, y) and m.shape == x.shape + y.shape)
add("addmm", "torch.addmm({0}, {1}, {1}.mT, beta=0.5, alpha=2)", "ff",
    fits=lambda x, y: y.dim() == 2 and x.dtype == y.dtype
    and broadcast(x, y[:, :1], y[:, :1].mT)
    and torch.broadcast_shapes(x.shape, (len(y), len(y))) == (len(y), len(y)))
add("kron", "torch.kron({0}, {0})", "f", fits=lambda x: 0 < x.numel() <= 6)
add("tensordot", "torch.tensordot({0}, {1}, 1)", "ff",
    fits=lambda x, y: x.dim() > 0 and y.dim() > 0 and x.shape[-1] == y.shape[0]
    and x.dtype == y.dtype and x.numel() * y.numel() <= 48)
add("solve",
    "torch.linalg.solve({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype), {1})",
    "ff", n=last_size, fits=columns)
add("inv", "torch.linalg.inv({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype))",
    "f", n=last_size, fits=square_matrix)
add("logdet",
    "torch.linalg.slogdet({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype))[1]",
    "f", n=last_size, fits=square_matrix)
add("cholesky",
    "torch.linalg.cholesky({0} @ {0}.mT + 2 * torch.eye({n}, dtype={0}.dtype))",
    "f", n=last_size, fits=square_matrix)
add("conv1d", "F.conv1d({0}, {1}[:, None, :1].expand(-1, {n}, 2), padding=1)", "ff",
    n=lambda c, o: o[0].shape[-2] if o[0].dim() > 1 else 1,
    fits=lambda x, y: x.dim() in (2, 3) and y.dim() == 2 and 0 not in x.shape + y.shape
    and x.dtype == y.dtype)

# Softmax and normalizations.

add("softmax", "torch.softmax({0}, {dim})", "f", dim=a_dim)
add("log_softmax", "F.log_softmax({0}, {dim})", "f", dim=a_dim)
add("softmin", "F.softmin({0}, dim={dim})", "f", dim=a_dim)
add("normalize", "F.normalize({0}, dim={dim})", "f", dim=a_dim, guard=has_norm)
NORMED = (
    "({0} - {0}.mean(DIMS, keepdim=True)) / "
    "({0}.var(DIMS, correction=0, keepdim=True) + 1e-5).sqrt()"
)
REST = "[d for d in range({0}.dim()) if d != PLACE]"
add("layer_norm", "F.layer_norm({0}, ({n},))", "f", n=last_size,
    formula=NORMED.replace("DIMS", "-1"),
    guard=lambda x, **_: varied(x, dim=-1))
add("layer_norm_affine", "F.layer_norm({0}, ({n},), {1}, {2})", "fff", n=last_size,
    formula=NORMED.replace("DIMS", "-1") + " * {1} + {2}",
    fits=lambda x, w, b: same_shape(w, b) and w.dim() == 1 and x.dim() > 0
    and x.shape[-1] == len(w) and x.dtype == w.dtype,
    guard=lambda x, *_, **__: varied(x, dim=-1))
add("rms_norm", "F.rms_norm({0}, ({n},))", "f", n=last_size,
    guard=lambda x, **_: has_norm(x, dim=-1))
add("group_norm", "F.group_norm({0}, 1)", "f", fits=at_least(2),
    formula=NORMED.replace("DIMS", REST.replace("PLACE", "0")),
    guard=lambda x, **_: bool((x.flatten(1).var(1) > 0.05).all()))
add("batch_norm", "F.batch_norm({0}, None, None, training=True)", "f", fits=at_least(2),
    formula=NORMED.replace("DIMS", REST.replace("PLACE", "1")),
    guard=lambda x, **_: bool((x.transpose(0, 1).flatten(1).var(1) > 0.05).all()))
add("cosine_similarity", "F.cosine_similarity({0}, {1}, dim={dim})", "ff", dim=a_dim,
    fits=same_shape,
    guard=lambda x, y, dim: has_norm(x, dim=dim) and has_norm(y, dim=dim))
add("cross_entropy", "F.cross_entropy({0}, {1} % {n}, reduction={r!r})", "fi",
    n=size_of_dim, r=one_of("mean", "sum", "none"),
    fits=lambda x, t: x.dim() == 2 and t.shape == x.shape[:1] and x.numel() > 0)
add("attention", "F.scaled_dot_product_attention({0}, {0}, {1})", "ff",
    fits=lambda x, y: same_shape(x, y) and x.dim() in (2, 3) and x.numel() > 0)
add("avg_pool1d", "F.avg_pool1d({0}, 2, 1)", "f", fits=ranks(2))
add("max_pool1d", "F.max_pool1d({0}, 2, 1)", "f", fits=ranks(2), guard=distinct)

# Joining, indexing, rearranging into new tensors.

add("cat", "torch.cat([{0}, {1}, {0}], {dim})", "ff", dim=a_dim, fits=concatenable)
add("stack", "torch.stack([{0}, {1}], {dim})", "ff", dim=a_new_dim, fits=same_shape)
add("hstack", "torch.hstack([{0}, {1}])", "ff", fits=concatenable)
add("repeat", "{0}.repeat(2, {r})", "f",
    r=lambda choose, o: ", ".join(["1"] * max(o[0].dim() - 1, 0)),
    fits=at_least(1))
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
    and i.numel() * x[0].numel() <= 48)
add("by_list", "{0}[{index}]", "f", index=a_list, fits=at_least(1), effect="copy")
add("by_tensor", "{0}[{1} % {n}]", "fi", n=first_size,
    fits=lambda x, i: x.dim() > 0 and x.shape[0] > 0
    and i.numel() * x[0].numel() <= 48)
add("gather", "{0}.gather({dim}, {0}.argsort({dim}))", "f", dim=a_dim, guard=distinct)
add("take_along", "torch.take_along_dim({0}, {1}[:1] % {n}, 0)", "fi", n=first_size,
    fits=lambda x, i: x.dim() == i.dim() > 0 and x.shape[1:] == i.shape[1:]
    and x.shape[0] > 0)
add("embedding", "F.embedding({1} % {n}, {0})", "fi", n=first_size,
    fits=lambda x, i: x.dim() == 2 and x.shape[0] > 0
    and i.numel() * x.shape[1] <= 48)
add("index_add", "{0}.index_add(0, torch.zeros({n}, dtype=torch.long), {0})", "f",
    n=first_size, fits=lambda x: x.dim() > 0 and x.shape[0] > 0)
add("scatter_add", "{0}.scatter_add(0, {1} % {n}, {0})", "fi", n=first_size,
    fits=lambda x, i: x.shape == i.shape and x.dim() > 0 and x.shape[0] > 0)
# PyTorch's select_scatter writes twice where elements of an unfolded tensor overlap.
add("select_scatter", "{0}.contiguous().select_scatter({0}[0] * 2, 0, -1)", "f",
    fits=lambda x: x.dim() > 0 and x.shape[0] > 0)
add("atleast_2d", "torch.atleast_2d({0})", "f", effect="copy")
add("unfold_copy", "{0}.unfold({dim}, 2, 1)", "f", dim=a_dim, effect="copy",
    fits=at_least(1))

# Views.

add("basic_index", "{0}[{index}]", "a", effect="view", index=an_index,
    fits=at_least(1))
add("reshape", "{0}.reshape({shape})", "a", effect="copy", shape=a_shape)
add("view", "{0}.view({shape})", "a", effect="view", shape=a_shape)
add("flatten", "{0}.flatten()", "a", effect="copy")
add("contiguous", "{0}.contiguous()", "a", effect="copy")
add("unsqueeze", "{0}.unsqueeze({dim})", "a", effect="view", dim=a_new_dim)
add("squeeze", "{0}.squeeze()", "a", effect="view")
add("squeeze_dim", "{0}.squeeze({dim})", "a", effect="view", dim=a_dim)
add("transpose", "{0}.transpose({dims})", "a", effect="view", dims=two_dims,
    fits=at_least(2))
add("permute", "{0}.permute({order})", "a", effect="view", order=an_order)
add("movedim", "{0}.movedim({dims})", "a", effect="view", dims=two_dims,
    fits=at_least(2))
add("t", "{0}.t()", "a", effect="view", fits=lambda x: x.dim() <= 2)
add("mT", "{0}.mT", "a", effect="view", fits=at_least(2))
add("select", "{0}.select({dim}, {i})", "a", effect="view", dim=a_dim,
    i=one_of(0, -1), fits=at_least(1))
add("narrow", "{0}.narrow({dim}, 0, 1)", "a", effect="view", dim=a_dim,
    fits=at_least(1))
add("expand", "{0}.expand({shape})", "a", effect="view", shape=a_wider_shape)
add("broadcast_to", "{0}.broadcast_to({shape})", "a", effect="view",
    shape=a_wider_shape)
add("diagonal", "{0}.diagonal({k})", "a", effect="view", k=one_of(0, 1),
    fits=at_least(2))
add("unbind", "{0}.unbind({dim})[{i}]", "a", effect="view", dim=a_dim, i=one_of(0, -1),
    fits=at_least(1))
add("split", "{0}.split({n}, {dim})[{i}]", "a", effect="view", n=a_size, dim=a_dim,
    i=one_of(0, -1), fits=at_least(1))
add("chunk", "{0}.chunk(2, {dim})[{i}]", "a", effect="view", dim=a_dim,
    i=one_of(0, -1), fits=at_least(1))
add("tensor_split", "torch.tensor_split({0}, 3, {dim})[{i}]", "a", effect="view",
    dim=a_dim, i=one_of(0, 1), fits=at_least(1))
add("unflatten", "{0}.unflatten(0, (-1, 1))", "a", effect="view",
    fits=lambda x: x.dim() > 0 and x.numel() > 0)

# Fresh tensors.

add("zeros", "torch.zeros({shape}, dtype={0}.dtype)", "f", shape=fresh_shape)
add("ones_wide", "torch.ones((2, *{shape}), dtype={0}.dtype)", "f", shape=fresh_shape)
add("full", "torch.full({shape}, {c}, dtype={0}.dtype)", "f", c=a_scalar,
    shape=fresh_shape)
add("zeros_like", "torch.zeros_like({0})", "f")
add("new_zeros", "{0}.new_zeros({shape})", "f", shape=fresh_shape)
add("new_full", "{0}.new_full({shape}, {c})", "f", shape=fresh_shape, c=a_scalar)
add("arange", "torch.arange({n})", "f", n=last_size)
add("linspace", "torch.linspace(0.1, 0.9, {n}, dtype={0}.dtype)", "f", n=last_size)
add("eye", "torch.eye({n}, dtype={0}.dtype)", "f", n=last_size)
add("full_like", "torch.full_like({0}, {c})", "f", c=a_scalar)
add("tensor", "torch.tensor([0.3, -1.2], dtype={0}.dtype)", "f")


# Writes.


def write(name: str, code: str, takes: str, formula: str, **rest: Any) -> None:
    """Enter an operation that writes into its first operand."""
    add(name, code, takes, effect="write", formula=formula, **rest)


for name in ("add", "sub", "mul"):
    write(f"{name}_", f"{{0}}.{name}_({{1}})", "ff", f"{{0}}.{name}({{1}})",
          fits=into_first)
write("iadd_int", "{0}.add_({1})", "fi", "{0} + {1}", fits=into_first)
write("int_add_", "{0}.add_({1})", "ii", "{0} + {1}", fits=into_first)
write("div_", "{0}.div_(2)", "f", "{0} / 2")
write("add_alpha_", "{0}.add_({1}, alpha=-2)", "ff", "{0} - 2 * {1}", fits=into_first)
write("copy_", "{0}.copy_({1})", "fa", "{1}", fits=into_first)
write("fill_", "{0}.fill_({c})", "f", "torch.full_like({0}, {c})", c=a_scalar)
write("fill_tensor_", "{0}.fill_({1})", "ff", "{1}",
      fits=lambda x, y: y.dim() == 0)
write("zero_", "{0}.zero_()", "a", "torch.zeros_like({0})")
for name in ("sin", "tanh", "sigmoid", "neg", "square"):
    write(f"{name}_", f"{{0}}.{name}_()", "f", f"{{0}}.{name}()",
          guard=sizes_below(6.0))
write("exp_", "{0}.exp_()", "f", "{0}.exp()", guard=sizes_below(2.0))
write("relu_", "F.relu({0}, inplace=True)", "f", "F.relu({0})", guard=away(0.0))
write("clamp_", "{0}.clamp_(-0.4, 0.9)", "f", "{0}.clamp(-0.4, 0.9)",
      guard=away(-0.4, 0.9))
write("masked_fill_", "{0}.masked_fill_({1}, {c})", "fb", "{0}.masked_fill({1}, {c})",
      c=a_scalar, fits=into_first)
write("addcmul_", "{0}.addcmul_({1}, {2})", "fff", "{0} + {1} * {2}", fits=into_first)
write("lerp_", "{0}.lerp_({1}, 0.25)", "ff", "{0} + 0.25 * ({1} - {0})",
      fits=same_shape)
write("index_fill_", "{0}.index_fill_(0, torch.tensor([0]), {c})", "f",
      "torch.cat([torch.full_like({0}[:1], {c}), {0}[1:]])", c=a_scalar,
      fits=lambda x: x.dim() > 0 and x.shape[0] > 0)
write("index_add_", "{0}.index_add_(0, torch.tensor([0, 0]), {1})", "ff",
      "torch.cat([{0}[:1] + {1}.sum(0, keepdim=True), {0}[1:]])",
      fits=lambda x, y: x.dim() == y.dim() > 0 and x.shape[0] > 0 and y.shape[0] == 2
      and x.shape[1:] == y.shape[1:] and x.dtype == y.dtype)
write("index_copy_", "{0}.index_copy_(0, torch.tensor([0]), {1})", "ff",
      "torch.cat([{1}, {0}[1:]])",
      fits=lambda x, y: x.dim() == y.dim() > 0 and x.shape[0] > 0 and y.shape[0] == 1
      and x.shape[1:] == y.shape[1:] and x.dtype == y.dtype)
write("scatter_", "{0}.scatter_(0, {1}[:1] % {n}, {c})", "fi",
      "{0}.scatter(0, {1}[:1] % {n}, {c})", c=a_scalar, n=first_size,
      fits=lambda x, i: x.shape == i.shape and x.dim() > 0 and x.shape[0] > 0)
write("fill_diagonal_", "{0}.fill_diagonal_({c})", "f",
      "{0}.masked_fill(torch.eye(*{0}.shape, dtype=torch.bool), {c})", c=a_scalar,
      fits=lambda x: x.dim() == 2)
write("cumsum_", "{0}.cumsum_({dim})", "f", "{0}.cumsum({dim})", dim=a_dim)
write("tril_", "{0}.tril_()", "f", "{0}.tril()", fits=at_least(2))
add("setitem", "{0}[{index}] = {1}", "ff", effect="setitem", place="{index}",
    index=an_index, fits=at_least(1))
add("setitem_list", "{0}[{index}] = {1}", "ff", effect="setitem", place="{index}",
    index=distinct_list, fits=at_least(1))
write("setitem_mask", "{0}.__setitem__({1}, {c}) or {0}", "fb",
      "torch.where({1}, {c}, {0})", c=a_scalar,
      fits=lambda x, m: x.shape == m.shape)
for name, fits in (("t_", lambda x: x.dim() <= 2), ("squeeze_", at_least(0))):
    add(name, f"{{0}}.{name}()", "f", effect="restride",
        formula=f"{{0}}.{name[:-1]}()", fits=fits)
add("unsqueeze_", "{0}.unsqueeze_({dim})", "f", effect="restride",
    formula="{0}.unsqueeze({dim})", dim=a_new_dim)
add("transpose_", "{0}.transpose_({dims})", "f", effect="restride",
    formula="{0}.transpose({dims})", dims=two_dims, fits=at_least(2))
