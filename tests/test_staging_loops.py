"""Loops and branches in staged graphs: functions with rules of their own in a body."""

import pytest
import torch

import jaxtorch
from jaxtorch import jit
from jaxtorch.staging.region import Region
from tests.checked_graphs import checked_graphs  # noqa: F401 - used by every test

X = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3)
STEPS = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)


@jaxtorch.custom_vjp
def hundredfold(x, y):
    """A product whose pullback is told apart from that of its code."""
    return x * y, x


hundredfold.defvjp(
    lambda x, y: ((x * y, x), (x, y)),
    lambda kept, c: (100 * c[0] * kept[1] + c[1], 10 * c[0] * kept[0]),
)


@jaxtorch.custom_jvp
def tenfold(x):
    """A sine whose derivative is ten times too large."""
    return torch.sin(x)


@tenfold.defjvp
def tenfold_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return tenfold(x), 10 * torch.cos(x) * dx


class Fivefold(torch.autograd.Function):
    """A square whose backward is 2.5 times too large."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 5 * x * cotangent


@jaxtorch.custom
def mapped_by_rule(x):
    """A number that its rule for ``vmap`` makes another one."""
    return x * 2


@mapped_by_rule.defvmap
def mapped_by_rule_vmap(info, in_dims, x):
    return x * 3, in_dims[0]


def scanned(x):
    def step(c, s):
        product, same = hundredfold(c, s * torch.ones_like(c))
        return tenfold(product) + same, product.sum()

    carry, ys = jaxtorch.scan(step, x, STEPS)
    return carry.sum() + ys.sum()


def counted(x):
    return jaxtorch.fori_loop(
        0, 3, lambda i, c: Fivefold.apply(c) + tenfold(c), x
    ).sum()


def chosen(x):
    return jaxtorch.cond(
        x.sum() > -100, lambda x: Fivefold.apply(x).sum(), lambda x: tenfold(x).sum(), x
    )


def nested(x):
    def outer(c, _):
        return jaxtorch.fori_loop(0, 2, lambda i, c: tenfold(c), c), None

    return jaxtorch.scan(outer, x, None, length=2)[0].sum()


def rematerialized(x):
    step = jaxtorch.checkpoint(lambda c: tenfold(c * 2).cos())
    return jaxtorch.fori_loop(0, 2, lambda i, c: step(c), x).sum()


def mapped(x):
    return jaxtorch.fori_loop(0, 2, lambda i, c: mapped_by_rule(c), x).sum()


BODIES = [scanned, counted, chosen, nested, rematerialized, mapped]
LIFTS = {
    "grad": jaxtorch.grad,
    "jvp": lambda f: lambda x: jaxtorch.jvp(f, (x,), (x + 1,)),
    "vmap": jaxtorch.vmap,
    "vmap(grad)": lambda f: jaxtorch.vmap(jaxtorch.grad(f)),
    "grad of vmap": lambda f: jaxtorch.grad(lambda x: jaxtorch.vmap(f)(x).sum()),
    "hessian": jaxtorch.hessian,
    "grad(grad)": lambda f: jaxtorch.grad(lambda x: jaxtorch.grad(f)(x).sin().sum()),
}


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("body", BODIES)
def test_a_body_keeps_the_rules_of_functions(body, lift):
    func = LIFTS[lift](body)
    torch.testing.assert_close(jit(func)(X), func(X))


def test_a_value_of_the_body_must_be_an_argument():
    def func(x):
        def step(i, c):
            return jaxtorch.custom(lambda y: y * c, vmap=lambda *a: a)(c)

        return jaxtorch.fori_loop(0, 2, step, x).sum()

    with pytest.raises(RuntimeError, match="Fix: pass the value as an argument"):
        jit(jaxtorch.grad(func))(X)


def region_of(func, *args):
    """Return the only loop or branch in the optimized graph, and its node."""
    lowered = jit(func).lower(*args)
    torch.testing.assert_close(lowered.staged(list(args)), func(*args))
    (node,) = [n for n in lowered.graph.nodes if isinstance(n.target, Region)]
    return node.target, node


def calls_in(region):
    """Return the names of the calls in a region's graphs."""
    return [
        node.name.partition("_")[0]
        for graph in region.graphs()
        for node in graph.nodes
        if node.op == "call_function"
    ]


def test_a_scan_drops_results_and_carries_that_nobody_reads():
    def step(c, s):
        kept, dead, feeds_dead = c
        return (kept + s, dead * feeds_dead, feeds_dead.cos()), (kept.sin(), dead.exp())

    def func(x, y, s):
        (kept, _, _), (sines, _) = jaxtorch.scan(step, (x, y, y), s)
        return kept, sines

    region, node = region_of(func, X, X + 1, STEPS)
    assert sorted(calls_in(region)) == ["add", "sin"]
    assert region.counts == (0, 1)
    assert [n.name for n in node.args] == ["x0", "x2"]


def test_a_carry_that_a_live_one_needs_stays():
    def step(c, s):
        first, second = c
        return (first + second, second * s), None

    region, _ = region_of(lambda x, s: jaxtorch.scan(step, (x, x), s)[0][0], X, STEPS)
    assert region.counts == (0, 2)


def test_a_while_loop_keeps_what_its_condition_needs():
    def func(x, y):
        def body(c):
            i, x, y = c
            return i + 1, x * 2, y.sin()

        start = (torch.zeros((), dtype=torch.int64), x, y)
        return jaxtorch.while_loop(lambda c: c[0] < 3, body, start)[1]

    region, node = region_of(func, X, X)
    assert sorted(calls_in(region)) == ["add", "lt", "mul"]
    assert len(node.args) == 2


def test_a_branch_drops_results():
    def func(x, y):
        return jaxtorch.cond(
            x.sum() > 1, lambda x, y: (x.sin(), y.exp()), lambda x, y: (x, y), x, y
        )[0]

    region, node = region_of(func, X, X)
    assert calls_in(region) == ["sin"]
    assert len(node.args) == 2


def test_a_body_that_draws_is_left_alone():
    def step(c, s):
        return c * s, torch.rand(3)

    def func(x, s):
        return jaxtorch.scan(step, x, s)[0], torch.rand(2)

    staged = jit(func)
    torch.manual_seed(3)
    drawn = staged(X, STEPS)
    torch.manual_seed(3)
    torch.testing.assert_close(drawn, func(X, STEPS))
