"""What surrounds the program in a call of a staged function: the key and the result."""

import collections
import sys

import pytest
import torch

import jaxtorch
from jaxtorch import pytree
from jaxtorch.staging.packing import packer
from jaxtorch.staging.signature import key_of

Point = collections.namedtuple("Point", "x y")
X = torch.arange(3.0)


def nested(depth):
    """Return a leaf in ``depth`` tuples."""
    return (nested(depth - 1),) if depth else 7


TREES = {
    "leaf": 0,
    "none": None,
    "empty": ((), [], {}),
    "one": (1,),
    "nested": [(1, 2), {"a": [3], "b": {4: 5, (6, "c"): ()}}, 7],
    "named": (1, Point([2, 3], 4), 5),
    "ordered": collections.OrderedDict(b=1, a=(2, 3)),
    "deep": (1, nested(300), 2),
}


@pytest.mark.parametrize("name", TREES)
def test_packing_is_unflattening(name):
    leaves, spec = pytree.flatten(TREES[name])
    packed = packer(spec)(tuple(leaves))
    assert packed == TREES[name]
    assert type(packed) is type(TREES[name])


SIGNATURES = [
    (((X, X), X), {}),
    ((X, (X, X)), {}),
    (([X, X], X), {}),
    ((X, X, X), {}),
    ((X, X), {"x": X}),
    ((X, X), {"y": X}),
    ((X, X, {"x": X}), {}),
    ((X, X, X.double()), {}),
    ((X, X, X[:2]), {}),
    ((X, X, X[None]), {}),
    ((X, X, 1), {}),
    ((X, X, True), {}),
    ((X, X, None), {}),
    ((X, X, ()), {}),
    ((X, X, Point(X, X)), {}),
    ((X, X, (X, X)), {}),
]


def test_signatures_that_differ_have_different_keys():
    keys = [key_of(*call)[0] for call in SIGNATURES]
    assert len(set(keys)) == len(SIGNATURES)
    assert keys == [key_of(*call)[0] for call in SIGNATURES]
    with torch.no_grad():
        assert key_of(*SIGNATURES[0])[0] not in keys


def test_the_grad_mode_is_part_of_a_dynamic_signature():
    doubled = jaxtorch.jit(lambda x: 2 * x, dynamic=True)
    doubled(X)
    with torch.no_grad():
        torch.testing.assert_close(doubled(X), 2 * X)
        torch.testing.assert_close(doubled(X[:2]), 2 * X[:2])


def calls_made_by(func, *args):
    """Count the functions, in Python or C, that a call enters."""
    count = 0

    def notice(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        func(*args)
    finally:
        sys.setprofile(before)
    return count


def test_a_call_enters_few_functions_for_each_pair_of_tensors():
    params = [(X, X) for _ in range(20)]
    staged = jaxtorch.jit(lambda params, x: params)
    staged(params, X)
    assert calls_made_by(staged, params, X) <= 10 * len(params) + 30


def names_of(graph):
    """Return the names of a graph's calls."""
    return [n.target._opname for n in graph.nodes if n.op == "call_function"]


Z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BROADCAST = {
    "a number": (jaxtorch.grad(lambda z: torch.sin(torch.cos(z).sum())), 0),
    "rows": (lambda z: z * (z[0].sin() + 1).expand(4, 3), 0),
    "columns": (lambda z: z.sum(1, keepdim=True).expand(4, 3) - z, 0),
    "both": (lambda z: z[:, :1].expand(4, 3) + z[:1].expand(4, 3), 0),
    "one of both": (lambda z: z[0, 0].expand(3) + z[0, 1].expand(3), 1),
    "of another dtype": (lambda z: z[0].float() * z[1, 1].expand(3), 1),
    "to more rows": (lambda z: z[0].expand(4, 3) + 1, 1),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_elementwise_calls_broadcast_by_themselves(name):
    func, left = BROADCAST[name]
    staged = jaxtorch.jit(func)
    assert names_of(staged.lower(Z).graph).count("expand") == left
    torch.testing.assert_close(staged(Z), func(Z))


def test_fills_like_a_value_are_constants():
    staged = jaxtorch.jit(lambda z: torch.cat([torch.ones_like(z.sin()), z]))
    assert names_of(staged.lower(Z).graph) == ["cat"]
    torch.testing.assert_close(staged(Z), torch.cat([torch.ones(4, 3), Z]))


def test_a_fill_like_a_permuted_value_lies_as_it_does():
    func = lambda z: torch.zeros_like(z.t().sin())  # noqa: E731
    staged = jaxtorch.jit(func, optimize="safe")
    assert staged(Z).stride() == func(Z).stride() == (1, 3)


def test_a_product_with_one_alone_is_the_other_factor():
    staged = jaxtorch.jit(lambda z: torch.ones(1, 1, dtype=z.dtype) @ z[:1])
    assert "mm" not in names_of(staged.lower(Z).graph)
    torch.testing.assert_close(staged(Z), Z[:1])


INDICES = {
    "slice": lambda z: z.sin()[1:3],
    "open": lambda z: z.sin()[1:],
    "negative": lambda z: z.sin()[-3:-1],
    "beyond": lambda z: z.sin()[2:100],
    "empty": lambda z: z.sin()[3:1],
    "steps": lambda z: z.sin()[::2],
    "columns": lambda z: torch.ops.aten.slice.Tensor(z.sin(), -1, None, 2),
    "row": lambda z: z.sin()[-1],
    "column": lambda z: z.sin()[:, 1],
    "element": lambda z: z.sin()[2, 1],
}


@pytest.mark.parametrize("name", INDICES)
def test_slices_are_taken_by_an_index(name):
    func = INDICES[name]
    staged = jaxtorch.jit(func)
    assert "slice_Tensor(" not in staged.lower(Z).code
    out, expected = staged(Z), func(Z)
    torch.testing.assert_close(out, expected)
    assert out.stride() == expected.stride()


def long(x):
    """Return a function of x that takes many calls; the last one is made in place."""
    for _ in range(12):
        x = torch.sin(x) * x
    return x + 1


def test_programs_run_beneath_torch_autograd():
    staged = jaxtorch.jit(long, backend="python")
    out = staged(Z)
    assert out._version == 0  # no write into it was counted
    out.add_(1)
    assert out._version == 1
    torch.testing.assert_close(out, long(Z) + 1)
    short = jaxtorch.jit(lambda x: torch.sin(x) + 1, backend="python")
    assert short(Z)._version == 1


def test_torch_autograd_still_sees_a_long_program():
    staged = jaxtorch.jit(long)
    staged(Z)
    x = Z.clone().requires_grad_()
    (own,) = torch.autograd.grad(staged(x).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(long(x).sum(), x, create_graph=True)
    torch.testing.assert_close(own, expected)
    (own,) = torch.autograd.grad(own.sum(), x)
    torch.testing.assert_close(own, torch.autograd.grad(expected.sum(), x)[0])
    with torch.no_grad():
        assert not staged(x).requires_grad


@pytest.mark.parametrize("backend", ["python", "native"])
def test_tangents_of_torch_pass_a_long_program(backend):
    staged = jaxtorch.jit(long, backend=backend)
    staged(Z)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(Z, Z.cos())
        out = torch.autograd.forward_ad.unpack_dual(staged(dual))
    expected = torch.func.jvp(long, (Z,), (Z.cos(),))
    torch.testing.assert_close(tuple(out), expected)
    torch.testing.assert_close(torch.func.jvp(staged, (Z,), (Z.cos(),)), expected)
    torch.testing.assert_close(torch.func.vmap(staged)(Z[None]), long(Z)[None])


def test_writes_into_shared_memory_are_counted_on_the_other_side():
    def both(x):
        y = long(x)
        return y, y[0]

    whole, row = jaxtorch.jit(both)(Z)
    before = row._version
    whole.add_(1)
    assert row._version > before
    x = Z.clone()
    row, _ = jaxtorch.jit(lambda x: (x[0], long(x)))(x)
    x.add_(1)
    assert row._version == x._version


def test_a_layer_and_its_gradients_take_eight_calls():
    def total(layers, x):
        for weight, bias in layers:
            x = torch.tanh(x @ weight + bias)
        return x.sum()

    gradients = jaxtorch.vmap(jaxtorch.grad(total), in_dims=(None, 0))
    staged = jaxtorch.jit(gradients)
    for count in (2, 6):
        layers = [(Z[:3] + i, Z[3] - i) for i in range(count)]
        assert len(names_of(staged.lower(layers, Z).graph)) <= 8 * count
        torch.testing.assert_close(staged(layers, Z), gradients(layers, Z))
