"""The algebra of normal forms against torch on dense tensors, on random expressions."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.nn import functional as F

from jaxtorch.staging.multilinear import algebra
from jaxtorch.staging.multilinear.form import (
    Atom,
    Form,
    Label,
    OneHot,
    OpaqueError,
    Term,
    atom_term,
    constant_form,
    delta,
)
from jaxtorch.staging.multilinear.reading import merged
from tests.multilinear.reference import dense

LARGEST = 400
MOST_TERMS = 8
MOST_FACTORS = 7
NAMES = "abcdefghijkl"
SIZES = st.sampled_from((1, 2, 3, 4, 6))


class Value(NamedTuple):
    """A form and what it must be."""

    form: Form
    dense: Tensor


class World:
    """The sources of forms and their values; small integers, so that sums are exact."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Tensor] = {}
        torch.manual_seed(0)

    def source(self, value: Tensor) -> fx.Node:
        """Return a source with this value."""
        node = self.graph.placeholder(f"x{len(self.env)}")
        self.env[node] = value
        return node

    def atom(self, value: Tensor) -> Value:
        """Return a tensor."""
        return Value((atom_term(self.source(value), value.shape),), value)

    def numbers(self, *shape: int) -> Value:
        """Return a tensor of small integers."""
        return self.atom(torch.randint(-2, 3, shape).double())

    def eye(self, n: int) -> Value:
        """Return the identity matrix."""
        a, b = Label(n), Label(n)
        form = (Term(1, (delta(a, b),), ((a,), (b,))),)
        return Value(form, torch.eye(n, dtype=torch.float64))

    def one_hot(self, index: Tensor, length: int) -> Value:
        """Return ``[index == label]``, the label's dim last."""
        label = Label(length)
        seen = atom_term(self.source(index), index.shape)
        factor = OneHot(seen.atoms[0], label, torch.float64)
        form = (Term(1, (factor,), (*seen.axes, (label,))),)
        return Value(form, F.one_hot(index, length).double())

    def check(self, value: Value) -> None:
        """Raise unless a form has the value that it must have."""
        shape = value.dense.shape
        found = dense(value.form, self.env, shape)
        torch.testing.assert_close(found, value.dense)
        for term in value.form:
            assert [math.prod(x.size for x in a) for a in term.axes] == list(shape)


def random_shape(draw, count: int) -> list[int]:
    """Return a shape of ``count`` elements."""
    shape = []
    while count > 1:
        size = draw(st.sampled_from([d for d in range(2, count + 1) if count % d == 0]))
        shape.append(size)
        count //= size
    for _ in range(draw(st.integers(0, 1))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return shape


def reshape(draw, world, value, other):
    shape = random_shape(draw, value.dense.numel())
    return algebra.reshaped(value.form, shape), value.dense.reshape(shape)


def permute(draw, world, value, other):
    order = draw(st.permutations(range(value.dense.dim())))
    return algebra.permuted(value.form, order), value.dense.permute(order)


def expand(draw, world, value, other):
    front = draw(st.lists(st.sampled_from((1, 2, 3)), max_size=1))
    grown = [draw(st.sampled_from((1, 3))) if n == 1 else n for n in value.dense.shape]
    shape = [*front, *grown]
    return algebra.expanded(value.form, shape), value.dense.expand(shape)


def sum_over(draw, world, value, other):
    dims = draw(st.sets(st.integers(0, max(value.dense.dim() - 1, 0))))
    dims = [d for d in dims if d < value.dense.dim()]
    keepdim = draw(st.booleans())
    wanted = value.dense.sum(dims, keepdim) if dims else value.dense
    return algebra.summed(value.form, dims, keepdim), wanted


def two_dims(draw, value):
    """Return two dims of one length."""
    shape = value.dense.shape
    ranks = range(len(shape))
    pairs = [(i, j) for i in ranks for j in ranks if i != j and shape[i] == shape[j]]
    if not pairs:
        raise OpaqueError
    return draw(st.sampled_from(pairs))


def diagonal(draw, world, value, other):
    i, j = two_dims(draw, value)
    return algebra.diagonal(value.form, i, j), value.dense.diagonal(0, i, j)


def trace(draw, world, value, other):
    i, j = two_dims(draw, value)
    form = algebra.diagonal(value.form, i, j)
    rank = len(value.dense.shape) - 2
    return algebra.summed(form, [rank], False), value.dense.diagonal(0, i, j).sum(-1)


def diag_embed(draw, world, value, other):
    if not value.dense.dim():
        raise OpaqueError
    dims = draw(st.permutations(range(value.dense.dim() + 1)))[:2]
    form = algebra.diag_embedded(value.form, *dims)
    return form, torch.diag_embed(value.dense, 0, *dims)


def window(draw, world, value, other):
    if not value.dense.dim():
        raise OpaqueError
    dim = draw(st.integers(0, value.dense.dim() - 1))
    length = value.dense.shape[dim]
    size = draw(st.integers(1, length))
    start = draw(st.integers(0, length - size))
    form = algebra.windowed(value.form, dim, start, size)
    return form, value.dense.narrow(dim, start, size)


def select(draw, world, value, other):
    if not value.dense.dim():
        raise OpaqueError
    dim = draw(st.integers(0, value.dense.dim() - 1))
    place = draw(st.integers(0, value.dense.shape[dim] - 1))
    wanted = value.dense.select(dim, place)
    form = algebra.windowed(value.form, dim, place, 1)
    return algebra.reshaped(form, wanted.shape), wanted


def pad(draw, world, value, other):
    if not value.dense.dim():
        raise OpaqueError
    dim = draw(st.integers(0, value.dense.dim() - 1))
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    length = value.dense.shape[dim] + before + after
    if length < 2:
        raise OpaqueError
    wanted = F.pad(value.dense.movedim(dim, -1), (before, after)).movedim(-1, dim)
    return algebra.placed(value.form, dim, before, length), wanted


def all_but(dim, value):
    """Return the rank and all sizes but one."""
    return value.dim(), value.shape[:dim], value.shape[dim + 1 :]


def cat(draw, world, value, other):
    if not value.dense.dim():
        raise OpaqueError
    dim = draw(st.integers(0, value.dense.dim() - 1))
    if all_but(dim, value.dense) != all_but(dim, other.dense):
        other = value
    parts = [value, other]
    wanted = torch.cat([part.dense for part in parts], dim)
    start, form = 0, ()
    for part in parts:
        form += algebra.placed(part.form, dim, start, wanted.shape[dim])
        start += part.dense.shape[dim]
    return form, wanted


def add(draw, world, value, other):
    number = draw(st.sampled_from((-2, -1, 0.5, 1)))
    if value.dense.shape != other.dense.shape:
        other = value
    form = merged(value.form + algebra.scaled(other.form, number))
    return form, value.dense + number * other.dense


def product(draw, world, value, other):
    names = list(NAMES[: value.dense.dim()])
    others = []
    for size in other.dense.shape:
        fitting = [
            name
            for name, n in zip(names, value.dense.shape, strict=True)
            if (n == size or n == 1 or size == 1) and name not in others
        ]
        fitting.append(NAMES[len(names) + len(others)])
        others.append(draw(st.sampled_from(fitting)))
    known = draw(st.permutations(sorted({*names, *others})))
    out = known[: draw(st.integers(0, len(known)))]
    form = algebra.contract(value.form, names, other.form, others, out)
    equation = f"{''.join(names)},{''.join(others)}->{''.join(out)}"
    return form, torch.einsum(equation, value.dense, other.dense)


def square(draw, world, value, other):
    names = list(range(value.dense.dim()))
    form = algebra.contract(value.form, names, value.form, names, names)
    return form, value.dense**2


def gather(draw, world, value, other):
    if not value.dense.dim():
        raise OpaqueError
    dim = draw(st.integers(0, value.dense.dim() - 1))
    length = value.dense.shape[dim]
    if length == 1:
        raise OpaqueError
    index = torch.randint(0, length, (draw(st.integers(2, 5)),))
    one_hot = world.one_hot(index, length)
    names = list(NAMES[: value.dense.dim()])
    out = [*names[:dim], "z", *names[dim + 1 :]]
    form = algebra.contract(value.form, names, one_hot.form, ["z", names[dim]], out)
    return form, value.dense.index_select(dim, index)


def scatter(draw, world, value, other):
    if not value.dense.dim() or value.dense.shape[-1] == 1:
        raise OpaqueError
    length = draw(st.integers(2, 5))
    index = torch.randint(0, length, (value.dense.shape[-1],))
    one_hot = world.one_hot(index, length)
    names = list(NAMES[: value.dense.dim()])
    out = [*names[:-1], "z"]
    form = algebra.contract(value.form, names, one_hot.form, [names[-1], "z"], out)
    zeros = torch.zeros(*value.dense.shape[:-1], length, dtype=torch.float64)
    return form, zeros.index_add(-1, index, value.dense)


def mask(draw, world, value, other):
    held = world.atom(torch.randint(0, 2, value.dense.shape).double())
    names = list(range(value.dense.dim()))
    form = algebra.contract(value.form, names, held.form, names, names)
    return form, value.dense * held.dense


STEPS = (
    reshape,
    permute,
    expand,
    sum_over,
    diagonal,
    trace,
    diag_embed,
    window,
    select,
    pad,
    cat,
    add,
    product,
    product,
    square,
    gather,
    scatter,
    mask,
)


def leaf(draw, world: World) -> Value:
    """Return a value to begin with."""
    kind = draw(st.sampled_from(("numbers", "numbers", "numbers", "eye", "constant")))
    if kind == "eye":
        return world.eye(draw(st.integers(2, 4)))
    shape = draw(st.lists(SIZES, max_size=3).filter(lambda s: math.prod(s) <= 36))
    if kind == "constant":
        number = draw(st.sampled_from((0, 1, -2)))
        filled = torch.full(shape, number, dtype=torch.float64)
        return Value(constant_form(number, shape), filled)
    return world.numbers(*shape)


def is_small(value: Value) -> bool:
    """Tell whether a value may be built upon."""
    return (
        value.dense.numel() <= LARGEST
        and value.dense.dim() <= 5
        and len(value.form) <= MOST_TERMS
        and all(len(term.factors) <= MOST_FACTORS for term in value.form)
    )


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_random_expressions(data):
    world = World()
    values = [leaf(data.draw, world) for _ in range(2)]
    for _ in range(data.draw(st.integers(1, 7))):
        step = data.draw(st.sampled_from(STEPS))
        value = data.draw(st.sampled_from(values[-3:]))
        other = data.draw(st.sampled_from(values))
        try:
            made = Value(*step(data.draw, world, value, other))
        except OpaqueError:
            continue
        if is_small(made):
            world.check(made)
            values.append(made)


@pytest.fixture
def world():
    return World()


class Fixed:
    """Draws that are given, for a step by itself."""

    def __init__(self, *drawn) -> None:
        self.drawn = list(drawn)

    def __call__(self, strategy):
        return self.drawn.pop(0)


STRUCTURES = {
    "tensor": lambda w: w.numbers(4, 6),
    "product": lambda w: einsum(w, "ab,bc->ac", w.numbers(4, 3), w.numbers(3, 6)),
    "outer": lambda w: einsum(w, "a,b->ab", w.numbers(4), w.numbers(6)),
    "broadcast": lambda w: Value(
        algebra.expanded((v := w.numbers(4, 1)).form, (4, 6)), v.dense.expand(4, 6)
    ),
    "merged": lambda w: Value(
        algebra.reshaped((v := w.numbers(2, 2, 2, 3)).form, (4, 6)),
        v.dense.reshape(4, 6),
    ),
    "rows of blocks": lambda w: Value(
        algebra.reshaped(
            (v := einsum(w, "ab,cd->acbd", w.eye(2), w.numbers(2, 3))).form, (4, 6)
        ),
        v.dense.reshape(4, 6),
    ),
    "padded": lambda w: Value(
        algebra.placed((v := w.numbers(4, 3)).form, 1, 2, 6), F.pad(v.dense, (2, 1))
    ),
    "zero": lambda w: Value((), torch.zeros(4, 6, dtype=torch.float64)),
}


def einsum(world, equation, first, second):
    """Return an einsum of two values."""
    inputs, out = equation.split("->")
    names, others = inputs.split(",")
    form = algebra.contract(first.form, names, second.form, others, out)
    return Value(form, torch.einsum(equation, first.dense, second.dense))


ONE_STEP = {
    "flattened": (reshape, ([24], [])),
    "permuted": (permute, [[1, 0]]),
    "expanded": (expand, [[3]]),
    "summed rows": (sum_over, [{0}, False]),
    "summed columns, dim kept": (sum_over, [{1}, True]),
    "summed": (sum_over, [{0, 1}, False]),
    "diagonals": (diag_embed, [[0, 2, 1]]),
    "doubled": (cat, [1]),
    "negated": (add, [-2]),
    "squared": (square, []),
    "masked": (mask, []),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", [n for n in ONE_STEP if n != "flattened"])
def test_steps_that_are_never_opaque(world, name, structure):
    """The random expressions may be refused; these may not."""
    step, drawn = ONE_STEP[name]
    value = STRUCTURES[structure](world)
    world.check(value)
    world.check(Value(*step(Fixed(*drawn), world, value, value)))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("shape", [(24,), (2, 2, 6), (1, 4, 1, 6)])
def test_views_that_are_never_opaque(world, shape, structure):
    value = STRUCTURES[structure](world)
    form = algebra.reshaped(value.form, shape)
    world.check(Value(form, value.dense.reshape(shape)))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("other", STRUCTURES)
@pytest.mark.parametrize("equation", ["ab,ab->ab", "ab,cb->ac", "ab,ac->bc", "ab,ab->"])
def test_products_of_structures(world, equation, structure, other):
    first, second = STRUCTURES[structure](world), STRUCTURES[other](world)
    try:
        value = einsum(world, equation, first, second)
    except OpaqueError:
        assert structure == other == "rows of blocks" or "padded" in (structure, other)
        assert "rows of blocks" in (structure, other) or "merged" in (structure, other)
    else:
        world.check(value)


def test_an_identity_leaves_no_factor(world):
    x = world.numbers(4, 4)
    value = einsum(world, "ab,bc->ac", world.eye(4), x)
    world.check(value)
    (term,) = value.form
    assert [type(factor) for factor in term.factors] == [Atom]


def test_the_diagonal_of_a_diagonal_leaves_no_factor(world):
    x = world.numbers(5)
    form = algebra.diagonal(algebra.diag_embedded(x.form, 0, 1), 0, 1)
    world.check(Value(form, x.dense))
    assert [type(factor) for factor in form[0].factors] == [Atom]


def test_windows_that_do_not_meet_are_zero(world):
    first = algebra.placed(world.numbers(2).form, 0, 0, 5)
    second = algebra.placed(world.numbers(3).form, 0, 2, 5)
    assert algebra.contract(first, "a", second, "a", "a") == ()


def test_the_trace_of_an_identity_is_a_number(world):
    form = algebra.summed(algebra.diagonal(world.eye(5).form, 0, 1), [0], False)
    assert form == (Term(5, (), ()),)


def test_a_gather_reads_and_two_scatters_agree(world):
    table, index = world.numbers(5, 3), torch.tensor([4, 0, 4, 2])
    one_hot = world.one_hot(index, 5)
    read = einsum(world, "iv,vd->id", one_hot, table)
    world.check(Value(read.form, table.dense[index]))
    assert all(term.is_dense for term in read.form)
    placed = einsum(world, "iv,id->vd", one_hot, world.numbers(4, 3))
    world.check(placed)
    world.check(square(None, world, placed, None) and Value(*square(0, 0, placed, 0)))
    norm = einsum(world, "vd,vd->", placed, placed)
    world.check(norm)
    assert all(term.is_dense for term in norm.form)


def test_sums_of_equal_terms_are_one_term(world):
    x = world.numbers(3, 4)
    assert len(merged(x.form + x.form)) == 1
    assert merged(x.form + algebra.scaled(x.form, -1)) == ()
