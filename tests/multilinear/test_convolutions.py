"""Convolutions and pooling: read as products, and run on the rows that differ."""

from typing import Any

import pytest
import torch
from torch import fx
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import jaxtorch as jt
from jaxtorch.staging.multilinear import cost, optimizer
from jaxtorch.staging.multilinear.reading import PATHS, Reader, is_atom
from tests.multilinear.forced import forced
from tests.multilinear.test_lowering import Graph

aten: Any = torch.ops.aten


@pytest.fixture(autouse=True)
def every_form():
    with forced():
        yield


GEOMETRIES = {
    "plain": {"x": (2, 3, 5, 4), "w": (4, 3, 2, 3)},
    "one example": {"x": (1, 2, 4, 4), "w": (3, 2, 3, 3), "padding": [1, 1]},
    "stride": {"x": (2, 3, 8, 7), "w": (4, 3, 3, 2), "stride": [3, 2]},
    "dilation": {
        "x": (2, 2, 7, 6),
        "w": (2, 2, 3, 2),
        "dilation": [2, 3],
        "padding": [1, 2],
    },
    "groups": {"x": (2, 6, 5, 5), "w": (4, 3, 3, 3), "groups": 2, "padding": [2, 1]},
    "depthwise": {"x": (3, 4, 5, 5), "w": (8, 1, 3, 3), "groups": 4, "stride": [2, 2]},
    "one number for both": {"x": (2, 2, 5, 5), "w": (2, 2, 3, 3), "padding": [1]},
    "1 x 1": {"x": (2, 3, 4, 4), "w": (5, 3, 1, 1)},
    "one position": {"x": (2, 3, 3, 3), "w": (5, 3, 3, 3)},
    "one pixel": {"x": (2, 3, 1, 1), "w": (5, 3, 3, 3), "padding": [1, 1]},
    "line": {
        "x": (2, 4, 9),
        "w": (6, 2, 3),
        "groups": 2,
        "stride": [2],
        "padding": [1],
    },
    "long line": {"x": (3, 1, 12), "w": (2, 1, 3), "dilation": [2], "padding": [4]},
    "volume": {"x": (2, 2, 4, 4, 4), "w": (3, 2, 2, 2, 2)},
}


def settings_of(x, w, stride=(1,), padding=(0,), dilation=(1,), groups=1, **more):
    """Return the arguments of a convolution behind its tensors."""
    rank = len(x) - 2
    full = [list(s) for s in (stride, padding, dilation)]
    return *full, False, [0] * rank, groups


def small_shape(given) -> list[int]:
    """Return the shape of the result of a convolution."""
    x, w = (torch.empty(given[k], device="meta") for k in "xw")
    return list(torch.convolution(x, w, None, *settings_of(**given)).shape)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("structured", ["gradient", "images", "neither"])
def test_weight_gradients(name, structured):
    """Of tensors as they are, and of ones that are broadcast over the examples."""
    given = GEOMETRIES[name]
    g = Graph()

    def tensor(shape, spread):
        if not spread:
            return g.random(*shape)
        return g(aten.expand.default, g.random(*shape[1:]), list(shape))

    grad = tensor(small_shape(given), structured == "gradient")
    x = tensor(given["x"], structured == "images")
    args = grad, x, g.random(*given["w"]), None, *settings_of(**given)
    both = g(aten.convolution_backward.default, *args, [False, True, False])
    weight = g.part(both, 1)
    square = g(aten.pow.Tensor_Scalar, weight, 2)
    reader = Reader(g.graph, PATHS, optimizer.TABLES)
    form = reader.meanings.get(weight) or reader.forms[weight]
    assert is_atom(form) == (name in ("volume", "one pixel"))
    g.check(weight, g(aten.sum.default, square))


def diagonal(g: Graph, *shape: int) -> fx.Node:
    """Return ``[a == b] core``, whose rows are a, b and c."""
    core = g.random(2, *shape, 4)
    node = g(aten.diag_embed.default, core, 0, 0, 2)
    return g(aten.view.default, node, [32, *shape])


def spread(g: Graph, *shape: int) -> fx.Node:
    """Return a core for each of two, each of them four times."""
    node = g(aten.expand.default, g.random(2, 1, *shape), [2, 4, *shape])
    return g(aten.view.default, node, [8, *shape])


def multiples(g: Graph, *shape: int) -> fx.Node:
    """Return the same core times many numbers."""
    rest = [1] * len(shape)
    return g(aten.mul.Tensor, g.random(6, *rest), g.random(*shape))


def padded(g: Graph, *shape: int) -> fx.Node:
    """Return three rows that differ, and zeros before and after them."""
    zeros = [g(aten.full.default, [n, *shape], 0, **FLOAT) for n in (2, 1)]
    return g(aten.cat.default, [zeros[0], g.random(3, *shape), zeros[1]])


def scattered(g: Graph, *shape: int) -> fx.Node:
    """Return two cores, added to zeros at rows that are counted by an index."""
    zeros = g(aten.zeros.default, [5, *shape], **FLOAT)
    index = g.input(torch.tensor([3, 0]))
    return g(aten.index_put.default, zeros, [index], g.random(2, *shape), True)


def of_two_terms(g: Graph, *shape: int) -> fx.Node:
    """Return a diagonal of cores and another that is not summed with it."""
    more = g(aten.expand.default, g.random(2, 1, 1, *shape), [2, 4, 4, *shape])
    more = g(aten.view.default, more, [32, *shape])
    return g(aten.add.Tensor, diagonal(g, *shape), more)


def over_channels(g: Graph, *shape: int) -> fx.Node:
    """Return a basis of the channels for each row: its core are the channels."""
    channels, *rest = shape
    eye = g(aten.eye.default, 3 * channels, **FLOAT)
    eye = g(aten.view.default, eye, [9 * channels, channels, *[1] * len(rest)])
    return g(aten.mul.Tensor, eye, g.random(*rest))


FLOAT = {"dtype": torch.float64}
STRUCTURES = {
    diagonal: 8,
    spread: 2,
    multiples: 1,
    padded: 3,
    scattered: 2,
    of_two_terms: 10,
    over_channels: 2,
}
"""The rows of each, and how many rows its core has."""


def convolved(g, rows, bias, *settings):
    """Return a convolution of ``rows``."""
    channels = list(rows.meta["val"].shape)[1]
    transposed, groups = settings[3], settings[5]
    kernel = [3] * len(settings[4])
    outer = [channels, 4] if transposed else [8, channels // groups]
    bias = g.random(4 * groups if transposed else 8) if bias else None
    weight = g.random(*outer, *kernel)
    return g(aten.convolution.default, rows, weight, bias, *settings)


def pooled_back(g, rows):
    """Return a gradient pulled back through the largest elements of planes."""
    planes = list(rows.meta["val"].shape)
    images = g.random(planes[1], 6, 6)
    both = g(aten.max_pool2d_with_indices.default, images, [2, 2])
    args = [[2, 2], [2, 2], [0, 0], [1, 1], False]
    args.append(g(aten.expand.default, g.part(both, 1), planes))
    seen = g(aten.expand.default, images, [*planes[:2], 6, 6])
    backward = aten.max_pool2d_with_indices_backward.default
    return g(backward, rows, seen, *args)


def picked(g, rows):
    """Return elements picked by an index that is the same for all rows."""
    shape = list(rows.meta["val"].shape)
    index = g.input(torch.randint(0, shape[-1], (shape[1], *shape[2:-1], 4)))
    index = g(aten.expand.default, index, [*shape[:-1], 4])
    return g(aten.gather.default, rows, -1, index)


def mean_back(overload, *settings):
    """Return a use of the transpose of a mean over windows."""

    def use(g, rows):
        shape = list(rows.meta["val"].shape)
        seen = g(aten.expand.default, g.random(shape[1], 6, 6), [*shape[:2], 6, 6])
        return g(overload, rows, seen, *settings)

    return use


PLANE = (2, 3, 3)
CALLS = {
    "convolution": (PLANE, convolved, False, [1], [1], [1], False, [0, 0], 1),
    "bias": (PLANE, convolved, True, [2, 1], [1, 1], [1, 1], False, [0, 0], 2),
    "transposed": (PLANE, convolved, False, [2], [1], [1], True, [1, 0], 1),
    "transposed, groups": (PLANE, convolved, True, [1], [0], [2], True, [0, 0], 2),
    "line": ((2, 5), convolved, False, [2], [1], [1], False, [0], 1),
    "volume": ((2, 3, 3, 3), convolved, False, [1], [1], [1], False, [0] * 3, 1),
    "mean": (PLANE, lambda g, x: g(aten.avg_pool2d.default, x, [2, 2], [1, 1])),
    "adaptive mean": (
        PLANE,
        lambda g, x: g(aten._adaptive_avg_pool2d.default, x, [2, 2]),
    ),
    "mean, back": (
        PLANE,
        mean_back(
            *(aten.avg_pool2d_backward.default, [2, 2], [2, 2]),
            *([0, 0], False, True, None),
        ),
    ),
    "adaptive mean, back": (
        PLANE,
        mean_back(aten._adaptive_avg_pool2d_backward.default),
    ),
    "largest, back": (PLANE, pooled_back),
    "picked": (PLANE, picked),
}


PAIRS = [
    (structure, name)
    for structure in STRUCTURES
    for name in CALLS
    if structure not in (padded, scattered) or not name.endswith(("back", "picked"))
]
"""Other arguments are not sliced: what has some is not narrowed by a window."""


@pytest.mark.parametrize(("structure", "name"), PAIRS)
def test_calls_run_on_the_rows_that_differ(structure, name):
    shape, use, *settings = CALLS[name]
    g = Graph()
    called = use(g, structure(g, *shape), *settings)
    assert g.check(called)
    found = [n for n in g.graph.nodes if n.target is called.target]
    shapes = [n.meta["val"].shape for n in found]
    if "convolution" in str(called.target):
        assert sum(s[0] for s in shapes) == STRUCTURES[structure]
    else:
        inner = 1 if name == "picked" else 2
        most = STRUCTURES[structure] * torch.Size(shape[:-inner]).numel()
        assert sum(s[:-inner].numel() for s in shapes) <= most


def test_rows_that_all_differ_stay():
    g = Graph()
    rows = g(aten.mul.Tensor, g.random(6, 2, 3, 3), g.random(6, 1, 1, 1))
    called = convolved(g, rows, False, [1], [1], [1], False, [0, 0], 1)
    g.check(called)
    assert called in g.graph.nodes


KINDS = {
    "tanh": (torch.tanh, lambda x: F.avg_pool2d(x, 2)),
    "relu": (torch.relu, lambda x: F.max_pool2d(x, 2)),
    "silu": (F.silu, lambda x: F.adaptive_avg_pool2d(x, 2)),
    "sigmoid": (torch.sigmoid, lambda x: x[:, :, :2, 1:3]),
}


def network(kind: str):
    """Return a small network and its parameters: from 2 x 10 x 9 to 5."""
    act, pool = KINDS[kind]

    def apply(params, x):
        w, a, v, b, last = params
        x = act(F.conv2d(x, w, a, padding=1))
        x = act(F.conv2d(x, v, b, stride=2, groups=2))
        return pool(x).flatten(1)[:, :24] @ last

    shapes = (4, 2, 3, 3), (4,), (6, 2, 3, 2), (6,), (24, 5)
    return apply, [torch.randn(s, dtype=torch.float64) / 3 for s in shapes]


def images(count: int):
    return torch.randn(count, 2, 10, 9, dtype=torch.float64)


def check(func, *args, reference=None):
    """Compare a staged function with a reference; return what ran."""
    staged = jt.jit(func, backend="python")
    expected = (reference or func)(*args)
    pairs = zip(tree_leaves(staged(*args)), tree_leaves(expected), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)
    return staged.lower(*args)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_of_a_batch(kind):
    net, params = network(kind)

    def loop(x):
        each = [torch.func.jacrev(lambda x: net(params, x[None])[0])(x) for x in x]
        blocks = torch.stack(each, -1)
        return torch.diag_embed(blocks).permute(4, 0, 5, 1, 2, 3)

    for transform in (jt.jacrev, jt.jacfwd):
        func = transform(lambda x: net(params, x))
        lowered = check(func, images(3), reference=loop)
        one = jt.jit(transform(lambda x: net(params, x[None])[0]), optimize="safe")
        assert lowered.flops <= 1.05 * 3 * one.lower(images(1)[0]).flops


def per_sample(net, params, x, y):
    def loss(params, x, y):
        return F.cross_entropy(net(params, x[None]), y[None])

    return jt.vmap(jt.grad(loss), (None, 0, 0))(params, x, y)


def loop_over_samples(net, params, x, y):
    """Return per-sample gradients by torch.func in a loop."""

    def loss(params, x, y):
        return F.cross_entropy(net(params, x[None]), y[None])

    each = [torch.func.grad(loss)(params, *one) for one in zip(x, y, strict=True)]
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 4])
def test_norms_and_clipped_sums(kind, count):
    net, params = network(kind)

    def norms(grads):
        return sum(g.flatten(1).square().sum(1) for g in grads)

    def clipped(grads):
        s = norms(grads).rsqrt().clamp(max=1.0)
        return [torch.einsum("b,b...->...", s, g) for g in grads]

    args = params, images(count), torch.arange(count) % 5
    for use in (norms, clipped):
        check(
            lambda *args, use=use: use(per_sample(net, *args)),
            *args,
            reference=lambda *args, use=use: use(loop_over_samples(net, *args)),
        )


@pytest.mark.parametrize("transform", [jt.jacrev, jt.jacfwd])
def test_tangent_kernels(transform):
    net, params = network("tanh")

    def kernel(transform, vmap, a, b):
        def one(params, x):
            return net(params, x[None])[0]

        jacobians = vmap(transform(one), (None, 0))
        pairs = zip(jacobians(params, a), jacobians(params, b), strict=True)
        return sum(
            torch.einsum("nap,mbp->nmab", j.flatten(2), k.flatten(2)) for j, k in pairs
        )

    check(
        lambda a, b: kernel(transform, jt.vmap, a, b),
        *(images(3), images(2)),
        reference=lambda a, b: kernel(torch.func.jacrev, torch.func.vmap, a, b),
    )


def test_lines():
    """The same in one dim."""
    w, x = torch.randn(4, 2, 3).double(), torch.randn(5, 2, 9).double()

    def net(w, x):
        return torch.tanh(F.conv1d(x, w, stride=2, padding=1))

    def norms(grad, vmap):
        grads = vmap(grad(lambda w, x: net(w, x[None]).sin().sum()), (None, 0))
        return lambda w, x: grads(w, x).flatten(1).square().sum(1)

    check(
        norms(jt.grad, jt.vmap),
        *(w, x),
        reference=norms(torch.func.grad, torch.func.vmap),
    )
    check(
        jt.jacrev(lambda x: net(w, x)),
        x,
        reference=torch.func.jacrev(lambda x: net(w, x)),
    )


def test_flops_of_groups():
    """Each group's weight sees its own channels only."""
    x, w, g = (torch.randn(s) for s in ((1, 12, 5, 5), (8, 3, 3, 3), (1, 8, 5, 5)))

    def pull(x, w, g):
        return jt.vjp(lambda x, w: F.conv2d(x, w, padding=1, groups=4), x, w)[1](g)

    lowered = jt.jit(pull, optimize="safe", backend="python").lower(x, w, g)
    assert lowered.flops == 2 * (2 * 25 * w.numel())
    assert lowered.flops == sum(map(cost.flops_of, lowered.graph.nodes))
