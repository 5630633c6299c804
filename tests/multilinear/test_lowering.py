"""Normal forms put back into graphs, even where that costs more, keep all values."""

from collections import defaultdict
from operator import getitem
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.nn import functional as F

import jaxtorch
from jaxtorch.kernels import OPERATORS
from jaxtorch.staging.multilinear import optimizer
from jaxtorch.staging.multilinear.reading import Tables
from jaxtorch.staging.passes.pipeline import drop_dead_code
from jaxtorch.staging.passes.rewriting import VIEWS, emit
from tests.checked_graphs import check_graph, checked
from tests.multilinear.forced import forced

aten: Any = torch.ops.aten
N, M = 4, 3
PER_SAMPLE = OPERATORS["per_sample_convolution_weight"].overload


@pytest.fixture(autouse=True)
def every_form():
    with forced():
        yield


class Graph:
    """A graph written by hand, with its inputs."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.inputs: list[Tensor] = []
        self.output = self.graph.output(())

    def input(self, value: Tensor) -> fx.Node:
        """Add an input, before the calls."""
        first = next(n for n in self.graph.nodes if n.op != "placeholder")
        with self.graph.inserting_before(first):
            node = self.graph.placeholder(f"x{len(self.inputs)}")
        node.meta["val"] = value.to("meta")
        node.meta["device"] = value.device
        self.inputs.append(value)
        return node

    def random(self, *shape: int) -> fx.Node:
        """Add an input of random numbers."""
        return self.input(torch.randn(shape, dtype=torch.float64))

    def __call__(self, overload, *args, **kwargs) -> fx.Node:
        self.output.meta["device"] = torch.device("cpu")
        return emit(self.output, overload, *args, **kwargs)

    def part(self, parts: fx.Node, place: int) -> fx.Node:
        """Add one result of a call with several."""
        with self.graph.inserting_before(self.output):
            node = self.graph.call_function(getitem, (parts, place))
        node.meta["val"] = parts.meta["val"][place]
        node.meta["device"] = parts.meta["device"]
        return node

    def run(self) -> list[Tensor]:
        """Run the graph call by call."""
        env: dict[fx.Node, Any] = {}
        inputs = iter(self.inputs)
        for node in self.graph.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
            if node.op == "placeholder":
                env[node] = next(inputs)
            elif node.op == "call_function":
                target = torch.reshape if node.target in VIEWS else node.target
                env[node] = target(*args, **kwargs)
        return [env[node] for node in self.output.args[0]]

    def check(self, *results: fx.Node) -> int:
        """Optimize and compare; return how many nodes were rewritten."""
        self.output.args = (results,)
        before = self.run()
        lines = optimizer.optimize(self.graph)
        drop_dead_code(self.graph)
        check_graph(self.graph)
        torch.testing.assert_close(self.run(), before)
        return len(lines)


def dense(g: Graph, *shape: int) -> fx.Node:
    """Return a tensor as it is."""
    return g.random(*shape)


def product(g: Graph, *shape: int) -> fx.Node:
    """Return a contraction with this shape."""
    rows = shape[0] if shape else 1
    columns = max(Tensor.numel(torch.empty(shape)) // rows, 1)
    node = g(aten.mm.default, g.random(rows, 2), g.random(2, columns))
    return g(aten.view.default, node, list(shape))


def spread(g: Graph, *shape: int) -> fx.Node:
    """Return a tensor that is broadcast along its first dim."""
    return g(aten.expand.default, g.random(*shape[1:]), list(shape))


def diagonal(g: Graph, *shape: int) -> fx.Node:
    """Return a tensor of which the last two dims are a diagonal, cut where needed."""
    if len(shape) < 2:
        return product(g, *shape)
    *batch, rows, columns = shape
    node = g(aten.diag_embed.default, g.random(*batch, max(rows, columns)))
    node = g(aten.slice.Tensor, node, -1, 0, columns)
    return g(aten.slice.Tensor, node, -2, 0, rows)


KINDS = {"tensor": dense, "product": product, "spread": spread, "diagonal": diagonal}

READ: defaultdict[str, set[Any]] = defaultdict(set)


def recorded(name: str, table: dict[Any, Any]) -> dict[Any, Any]:
    """Return a table of readings that keep note of their success."""

    def noting(reading):
        def read(reader, node):
            form = reading(reader, node)
            target = node.args[0].target if node.target is getitem else node.target
            READ[name].add(target)
            return form

        return read

    return {target: noting(reading) for target, reading in table.items()}


@pytest.fixture
def noted(monkeypatch):
    """Keep note of what is read."""
    parts = optimizer.TABLES._asdict()
    tables = Tables(**{name: recorded(name, table) for name, table in parts.items()})
    monkeypatch.setattr(optimizer, "TABLES", tables)


def unary(overload, shape, *args, **kwargs):
    """Return a use of an operator of one structured tensor."""
    return overload, shape, lambda g, x: g(overload, x, *args, **kwargs)


def binary(overload, shape, other, *args, **kwargs):
    """Return a use of an operator of a structured tensor and another one."""

    def use(g, x):
        return g(overload, x, g.random(*other), *args, **kwargs)

    return overload, shape, use


def integers(g: Graph, high: int, *shape: int) -> fx.Node:
    """Return random indices."""
    return g.input(torch.randint(0, high, shape))


def part(overload, shape, place, *args):
    """Return one part of a tensor that is taken apart."""

    def use(g, x):
        return g.part(g(overload, x, *args), place)

    return overload, shape, use


def made(overload, *args, **kwargs):
    """Return a product with a tensor that is made of nothing."""
    return (
        overload,
        (N, N),
        lambda g, x: g(aten.mul.Tensor, x, g(overload, *args, **kwargs)),
    )


def like(overload, *args):
    """Return a product with a tensor that is made like another."""
    return (
        overload,
        (N, N),
        lambda g, x: g(aten.mul.Tensor, x, g(overload, g.random(N, N), *args)),
    )


def slope(overload, *args):
    """Return a derivative of an activation times a structured tensor."""

    def use(g, x):
        shape = list(x.meta["val"].shape)
        seen = g(aten.expand.default, g.random(*shape[:-1], 1), shape)
        return g(overload, x, seen, *args)

    return overload, (N, N), use


def function(overload, *args, dtype=torch.float64, **kwargs):
    """Return a product with a function of a broadcast tensor."""

    def use(g, x):
        values = torch.rand(N, 1, dtype=torch.float64) + 0.5
        seen = g(aten.expand.default, g.input(values.to(dtype)), [N, N])
        value = g(overload, seen, *args, **kwargs)
        if value.meta["val"].dtype != torch.float64:
            value = g(aten._to_copy.default, value, dtype=torch.float64)
        return g(aten.mul.Tensor, value, x)

    return overload, (N, N), use


def masked(g, x):
    """Return ``x`` where a mask that is broadcast holds."""
    mask = g(aten.gt.Scalar, g.random(N, 1), 0)
    return g(aten.where.self, mask, x, g(aten.zeros.default, [], dtype=torch.float64))


def filled(g, x):
    """Return ``x`` with zeros where a mask that is broadcast holds."""
    return g(aten.masked_fill.Scalar, x, g(aten.gt.Scalar, g.random(N, 1), 0), 0)


def compared(g, x):
    """Return a product with the identity made of two counts."""
    rows = g(aten.view.default, g(aten.arange.default, N), [N, 1])
    same = g(aten.eq.Tensor, rows, g(aten.arange.default, N))
    same = g(aten._to_copy.default, same, dtype=torch.float64)
    return g(aten.mul.Tensor, same, x)


def beside(overload):
    """Return two tensors side by side."""
    return overload, (N, M), lambda g, x: g(overload, [x, g.random(N, M), x], 1)


def put(g, x):
    """Return rows of ``x`` added up where two indices point."""
    zeros = g(aten.zeros.default, [5, 2, M], dtype=torch.float64)
    where = [integers(g, 5, N), integers(g, 2, N)]
    return g(aten.index_put.default, zeros, where, x, True)


def rows_of(g, x):
    """Return rows of ``x`` added up where an index points."""
    return g(aten.embedding_dense_backward.default, x, integers(g, 6, N), 6, -1, False)


def convolved(g, weight):
    """Return a convolution with a structured weight."""
    settings = [2, 1], [1, 0], [1, 2], False, [0, 0], 2
    return g(aten.convolution.default, g.random(2, 4, 5, 6), weight, None, *settings)


def gradient(place: int, images: bool = False):
    """Return the gradient of a weight or a bias, of structured gradients or images."""
    overload = aten.convolution_backward.default
    shapes = {"weight": (6, 2, 3, 2), True: (2, 4, 5, 4), False: (2, 6, 3, 2)}
    settings = [2, 1], [1, 0], [1, 2], False, [0, 0], 2, [False, True, True]

    def call(g, given):
        own = {key: g.random(*shape) for key, shape in shapes.items()}
        own[images] = given
        args = own[False], own[True], own["weight"], [6], *settings
        return g.part(g(overload, *args), place)

    return overload, shapes[images], call


CASES = [
    unary(aten.view.default, (N, 6), [2, 2, 6]),
    unary(aten.view.default, (N, 6), [24]),
    unary(aten._unsafe_view.default, (2, N, 6), [2, 24]),
    unary(aten.reshape.default, (2, N, 6), [8, 6]),
    unary(aten.unsqueeze.default, (N, M), 1),
    unary(aten.squeeze.default, (1, N, 1, M)),
    unary(aten.squeeze.dim, (N, 1, M), 1),
    unary(aten.squeeze.dims, (1, N, 1, M), [0, 2]),
    unary(aten.alias.default, (N, M)),
    unary(aten.clone.default, (N, M)),
    unary(aten.expand.default, (N, 1, M), [2, N, 3, M]),
    unary(aten.permute.default, (2, N, M), [2, 0, 1]),
    unary(aten.transpose.int, (2, N, M), -1, 0),
    unary(aten.t.default, (N, M)),
    unary(aten.select.int, (2, N, M), -1, -2),
    unary(aten.slice.Tensor, (N, 6), 1, 2, 5),
    unary(aten.slice.Tensor, (N, 6), 0, -3),
    part(aten.split_with_sizes.default, (N, 6), 1, [1, 3, 2], 1),
    part(aten.split.Tensor, (N, 6), 1, 4, -1),
    part(aten.unbind.int, (N, 2, M), 1, 1),
    beside(aten.cat.default),
    beside(aten.stack.default),
    unary(aten.constant_pad_nd.default, (2, N, M), [2, 0, 0, 0, 1, 3]),
    unary(aten.constant_pad_nd.default, (2, N, M), [-1, 0, 2, -1]),
    unary(aten.constant_pad_nd.default, (2, N, M), [1, 0, -N, 2]),
    unary(aten.slice_backward.default, (2, N, M), [2, 9, M], -2, -7, 6, 1),
    unary(aten.select_backward.default, (2, N, M), [2, 5, N, M], 1, -2),
    unary(aten.diagonal.default, (2, N, N), 0, -1, -2),
    unary(aten.diagonal.default, (N, N)),
    unary(aten.diag_embed.default, (N, M), 0, 0, -1),
    (aten.eq.Tensor, (N, N), compared),
    made(aten.eye.default, N, dtype=torch.float64),
    made(aten.full.default, [N, 1], 2.5, dtype=torch.float64),
    made(aten.ones.default, [N, N], dtype=torch.float64),
    made(aten.zeros.default, [N, N], dtype=torch.float64),
    like(aten.full_like.default, -2.0),
    like(aten.new_full.default, [N, N], 3.0),
    like(aten.ones_like.default),
    like(aten.new_ones.default, [N]),
    like(aten.zeros_like.default),
    like(aten.new_zeros.default, [N, 1]),
    unary(aten.neg.default, (N, M)),
    unary(aten.mul.Tensor, (N, M), 3.0),
    binary(aten.mul.Tensor, (N, M), (M,)),
    binary(aten.mul.Tensor, (N, 1), (2, N, M)),
    unary(aten.mul.Scalar, (N, M), -2),
    unary(aten.div.Tensor, (N, M), 4.0),
    binary(aten.div.Tensor, (N, N), (N, 1)),
    unary(aten.pow.Tensor_Scalar, (N, M), 2),
    unary(aten.square.default, (N, M)),
    binary(aten.add.Tensor, (N, N), (N, N), alpha=-2),
    binary(aten.add.Tensor, (N, M), (2, 1, M)),
    binary(aten.sub.Tensor, (N, 1), (M,), alpha=2),
    unary(aten.sum.default, (N, M)),
    unary(aten.sum.dim_IntList, (2, N, M), [0, -1], True),
    unary(aten.mean.default, (N, M)),
    unary(aten.mean.dim, (N, M), [1]),
    binary(aten.mm.default, (N, M), (M, 5)),
    binary(aten.bmm.default, (2, N, M), (2, M, 5)),
    binary(aten.mv.default, (N, M), (M,)),
    (aten.dot.default, (N,), lambda g, x: g(aten.dot.default, x, g.random(N))),
    (
        aten.addmm.default,
        (N, M),
        lambda g, x: g(
            aten.addmm.default, g.random(5), x, g.random(M, 5), beta=2, alpha=-1
        ),
    ),
    (
        aten.baddbmm.default,
        (2, N, M),
        lambda g, x: g(aten.baddbmm.default, g.random(N, 5), x, g.random(2, M, 5)),
    ),
    (
        aten.addmv.default,
        (N, M),
        lambda g, x: g(aten.addmv.default, g.random(N), x, g.random(M), alpha=3),
    ),
    slope(aten.tanh_backward.default),
    slope(aten.sigmoid_backward.default),
    slope(aten.threshold_backward.default, 0.0),
    slope(aten.gelu_backward.default),
    slope(aten.silu_backward.default),
    slope(aten.leaky_relu_backward.default, 0.1, False),
    slope(aten.hardtanh_backward.default, -0.5, 0.5),
    slope(aten.softplus_backward.default, 1.0, 20.0),
    slope(aten.mish_backward.default),
    slope(aten.hardswish_backward.default),
    slope(aten.hardsigmoid_backward.default),
    (aten.where.self, (N, N), masked),
    (aten.masked_fill.Scalar, (N, N), filled),
    (
        aten.embedding.default,
        (N, M),
        lambda g, x: g(aten.embedding.default, x, integers(g, N, 2, 5)),
    ),
    (
        aten.index_select.default,
        (N, M),
        lambda g, x: g(aten.index_select.default, x, -1, integers(g, M, 5)),
    ),
    (
        aten.index.Tensor,
        (N, M),
        lambda g, x: g(aten.index.Tensor, x, [None, integers(g, M, 5)]),
    ),
    (
        aten.index.Tensor,
        (N, 6),
        lambda g, x: g(aten.index.Tensor, x, [None, g(aten.arange.start, 2, 5)]),
    ),
    (aten.embedding_dense_backward.default, (N, M), rows_of),
    (aten.convolution.default, (6, 2, 3, 2), convolved),
    gradient(1),
    gradient(1, images=True),
    gradient(2),
    binary(PER_SAMPLE, (3, 2, 4, 5, 5), (3, 2, 6, 5, 5), [3, 3], *[[1, 1]] * 3),
    (aten.index_put.default, (N, M), put),
    *(
        function(overload)
        for overload in (
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
        )
    ),
    function(aten.bitwise_not.default, dtype=torch.bool),
    function(aten.logical_not.default),
    *(
        function(overload, 0.9)
        for overload in (
            aten.eq.Scalar,
            aten.ne.Scalar,
            aten.gt.Scalar,
            aten.ge.Scalar,
            aten.lt.Scalar,
            aten.le.Scalar,
        )
    ),
    function(aten.pow.Tensor_Scalar, 3),
    function(aten.add.Tensor, 1.5),
    function(aten.rsub.Scalar, 2.0),
    function(aten._to_copy.default, dtype=torch.float32),
    unary(aten._to_copy.default, (N, M), dtype=torch.float64),
]
IDS = [f"{case[0]}-{i}".removeprefix("aten.") for i, case in enumerate(CASES)]


def rewrites(case, kind: str) -> int:
    """Check a reading alone, and with a product and a sum behind it."""
    _, shape, use = case
    g = Graph()
    count = g.check(use(g, KINDS[kind](g, *shape)))
    g = Graph()
    value = use(g, KINDS[kind](g, *shape))
    weighted = g(aten.mul.Tensor, value, g.random(*value.meta["val"].shape))
    return count + g.check(g(aten.sum.default, weighted), g(aten.sum.default, value))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_readings(case):
    assert sum(rewrites(case, kind) for kind in KINDS)


REPLACED = {
    f"aten.{name}.default"
    for name in ("new_ones", "new_zeros", "ones_like", "zeros_like")
}
"""Uniform tensors like another one are made by themselves before graphs are read."""


def test_every_reading_was_tested(noted):
    """A new reading needs a case."""
    for case in CASES:
        for kind in KINDS:
            rewrites(case, kind)
    for name, table in optimizer.TABLES._asdict().items():
        missing = {str(target) for target in table} - {str(t) for t in READ[name]}
        assert missing <= REPLACED, name


STEPS = {
    "linear": lambda p, x: torch.tanh(p["w"] @ x + p["b"]),
    "relu": lambda p, x: x.relu() * p["b"],
    "sigmoid": lambda p, x: x.sigmoid() - x,
    "gelu": lambda p, x: F.gelu(x) / 2,
    "softplus": lambda p, x: F.softplus(x),
    "sine": lambda p, x: torch.sin(x) * x,
    "shift": lambda p, x: torch.cat([x[2:], 2 * x[:2]]),
    "difference": lambda p, x: F.pad(x[1:] - x[:-1], (0, 1)),
    "gather": lambda p, x: x[p["i"]] * p["b"],
    "scatter": lambda p, x: torch.zeros_like(x).index_add(0, p["i"], x),
    "outer": lambda p, x: (x[:, None] * p["w"] * x).sum(0),
    "pairs": lambda p, x: ((x[:, None] - x) ** 2).mean(1),
    "blocks": lambda p, x: (p["v"] @ x.reshape(2, 3).T).reshape(6),
    "diagonal": lambda p, x: (torch.diag(x) @ p["w"]).diagonal() + x,
    "norm": lambda p, x: x / (x.square().sum() + 1).sqrt(),
    "mask": lambda p, x: torch.where(p["b"] > 0, x, 0) + x,
    "softmax": lambda p, x: x.softmax(0),
    "reuse": lambda p, x: p["w"].T @ (p["w"] @ x),
}

DERIVATIVES = {
    "jacrev": lambda f: jaxtorch.jacrev(f, argnums=1),
    "jacfwd": lambda f: jaxtorch.jacfwd(f, argnums=1),
    "diagonal": lambda f: lambda p, x: jaxtorch.jacrev(f, argnums=1)(p, x).diagonal(),
    "hessian": lambda f: jaxtorch.hessian(total(f), argnums=1),
    "laplacian": lambda f: lambda p, x: jaxtorch.hessian(total(f), 1)(p, x).trace(),
    "laplacians": lambda f: jaxtorch.vmap(
        lambda p, x: jaxtorch.hessian(total(f), 1)(p, x).trace(), in_dims=(None, 0)
    ),
    "norms": lambda f: (
        lambda p, x: sum(g.flatten(1).square().sum(1) for g in per_sample(f)(p, x))
    ),
    "clipped": lambda f: (
        lambda p, x: [
            torch.einsum("b,b...->...", g.flatten(1).square().sum(1).rsqrt(), g)
            for g in per_sample(f)(p, x)
        ]
    ),
    "gauss-newton": lambda f: (
        lambda p, x: (lambda j: (j.T @ j, (j * (j @ p["w"])).sum(1)))(
            jaxtorch.jacfwd(f, argnums=1)(p, x)
        )
    ),
}
BATCHED = {"laplacians", "norms", "clipped"}


def total(f):
    """Return a scalar function."""
    return lambda p, x: (f(p, x) * p["b"]).sum()


def per_sample(f):
    """Return a function that gives the gradients of three parameters per sample."""

    def loss(trained, p, x):
        return (f(p | trained, x).square() * p["b"]).sum()

    def gradients(p, x):
        trained = {name: p[name] for name in "wbv"}
        slopes = jaxtorch.vmap(jaxtorch.grad(loss), in_dims=(None, None, 0))
        return [g + 0.1 for g in slopes(trained, p, x).values()]

    return gradients


def chain(names):
    """Return a function made of steps."""

    def f(p, x):
        for name in names:
            x = STEPS[name](p, x)
        return x

    return f


def parameters():
    """Return what the steps use."""
    return {
        "w": torch.randn(6, 6, dtype=torch.float64),
        "b": torch.randn(6, dtype=torch.float64),
        "v": torch.randn(3, 3, dtype=torch.float64),
        "i": torch.tensor([4, 0, 4, 2, -1, 5]).remainder(6),
    }


def compare(derivative: str, names) -> None:
    """Stage a derivative of a function with every form taken; compare with eager."""
    torch.manual_seed(len(names))
    p = parameters()
    x = torch.randn(*([3] if derivative in BATCHED else []), 6, dtype=torch.float64)
    f = DERIVATIVES[derivative](chain(names))
    with checked():
        found = jaxtorch.jit(f)(p, x)
    torch.testing.assert_close(found, f(p, x))


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("name", STEPS)
def test_derivatives_of_a_step(name, derivative):
    compare(derivative, [name])


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.sampled_from(sorted(DERIVATIVES)),
    st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=3),
)
def test_derivatives_of_random_functions(derivative, names):
    compare(derivative, names)


INDEX = torch.tensor([-1, 4, 0])


def rows_that_agree(x, y):
    """Two sums into five places, multiplied; -1 and 4 are one place."""
    zeros = torch.zeros(5, dtype=x.dtype)
    first = zeros.index_put((INDEX,), x, accumulate=True)
    return (first * zeros.index_put((INDEX,), y, accumulate=True)).sum()


def counts_of_equal_rows(x, y):
    """An identity whose second count is broadcast by hand."""
    count = torch.arange(3)
    return (count[:, None] == count.expand(3, 3)).to(x.dtype) @ x + y


def counts_from_below_zero(x, y):
    """Rows that are counted from the end, then from the start."""
    return torch.diag(x)[torch.arange(-2, 3)] @ y


def uneven_windows(x, y):
    """Pads that overlap in part only."""
    return F.pad(x, (0, 2)) * F.pad(y, (2, 0))


ROWS = [rows_that_agree, counts_of_equal_rows, counts_from_below_zero, uneven_windows]


@pytest.mark.parametrize("func", ROWS)
def test_places(func):
    x, y = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(jaxtorch.jit(func)(x, y), func(x, y))
