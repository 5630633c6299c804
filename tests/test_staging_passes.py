"""Each pass of ``jit`` by itself, and what no pass may break."""

import math

import pytest
import torch

import jaxtorch
from jaxtorch import jit, make_graph
from jaxtorch.staging.passes import pipeline as passes
from jaxtorch.staging.passes.constants import fold_constants
from jaxtorch.staging.passes.pipeline import (
    Pass,
    drop_dead_code,
    merge_common_subexpressions,
    optimize_graph,
)
from jaxtorch.staging.passes.results import Results, keep_promises
from jaxtorch.staging.passes.rewriting import is_pure
from jaxtorch.staging.passes.simplify import simplify, simplify_exactly
from jaxtorch.staging.passes.zeros import drop_products_with_zero, propagate_zeros
from jaxtorch.staging.running.memory import order_for_memory, peak_bytes
from tests.checked_graphs import check_graph, checked, output_of

aten = torch.ops.aten
X = torch.linspace(-2.0, 2.0, 12).reshape(4, 3)


def calls(graph):
    """Return the names of the calls of a graph in order."""
    return [
        str(node.target).removeprefix("aten.").partition(".")[0]
        for node in graph.nodes
        if node.op == "call_function"
    ]


def after(run, func, *args):
    """Return the calls that one pass leaves, and how much it says it changed."""
    graph = make_graph(func)(*(args or (X,)))
    changed = run(graph)
    drop_dead_code(graph)
    check_graph(graph)
    return calls(graph), changed


def test_dead_code_goes_and_random_calls_stay():
    def func(x):
        torch.exp(torch.sin(x))
        torch.rand(3)
        return x.cos()

    graph = make_graph(func)(X)
    assert drop_dead_code(graph) == 2
    assert calls(graph) == ["rand", "cos"]


def test_equal_calls_are_merged_unless_they_draw():
    def func(x):
        return x.sin() + x.sin(), torch.rand(2) + torch.rand(2), x * 1 + x * 1.0

    graph = make_graph(func)(X)
    assert merge_common_subexpressions(graph) == 1
    assert calls(graph).count("sin") == 1
    assert calls(graph).count("rand") == 2
    assert calls(graph).count("mul") == 2


def test_constants_are_folded_but_not_what_a_result_holds():
    def func(x):
        own = torch.arange(3.0).cos()
        return x * own, torch.ones(3), x + torch.zeros(1 << 19).sum()

    graph = make_graph(func)(X)
    constants = fold_constants(graph)
    torch.testing.assert_close(constants, [torch.arange(3.0).cos()])
    assert calls(graph) == ["mul", "ones", "zeros", "sum", "add"]


EXACT = {
    "views of views": (lambda x: x.reshape(12).reshape(2, 6).reshape(6, 2), ["view"]),
    "a round trip": (lambda x: x.t().t().unsqueeze(0).squeeze(0), []),
    "permutations": (lambda x: x[None].permute(2, 0, 1).permute(1, 2, 0), ["view"]),
    "times one": (lambda x: x * torch.ones(3) / 1, []),
    "a uniform factor": (lambda x: x * torch.full((3,), 2.5), ["mul"]),
    "a copy": (lambda x: x.clone(), []),
    "a copy in another order": (lambda x: x.t().contiguous(), ["t", "clone"]),
    "plus zero": (lambda x: x + 0, ["add"]),
}
FREE = {
    "a copy in another order": (lambda x: x.t().contiguous(), ["t"]),
    "a sum of one": (lambda x: x[:, None].sum(1), ["unsqueeze", "view"]),
    "the identity": (lambda x: x @ torch.eye(3), []),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_rules(name):
    func, left = EXACT[name]
    assert after(simplify_exactly, func)[0] == left


def split(x):
    """Return the gradient of a product of the rows of a tensor, plus one more term."""
    return jaxtorch.grad(lambda x: (x[0] * x[1] * x[-2] * x[3]).sum())(x) + x.exp()


def halves(x):
    """Return the gradient of a product of the two halves of a tensor."""
    return jaxtorch.grad(lambda x: (x[:2] * x[2:].exp()).sum())(x)


def gap(x):
    """Return a gradient that is zero in one row."""
    return jaxtorch.grad(lambda x: (x[0] * x[1] * x[3]).sum())(x)


PIECES = {"rows": (split, 1), "halves": (halves, 1), "a gap": (gap, 0)}


@pytest.mark.parametrize("name", PIECES)
def test_pieces_are_joined(name):
    func, joined = PIECES[name]
    graph = make_graph(func)(X)
    optimize_graph(graph)
    check_graph(graph)
    left = calls(graph)
    assert left.count("cat") == joined
    assert ("select_backward" in left) is not bool(joined)
    assert "slice_backward" not in left
    torch.testing.assert_close(jit(func)(X), func(X))


def test_joined_parts_are_written_once_in_the_order_that_is_read():
    packed = torch.randn(5, 6, 2, 3)

    def func(x):
        def loss(x):
            first, second = x.permute(2, 1, 0, 3)
            return (first.sin() * second).sum()

        return jaxtorch.grad(loss)(x).reshape(30, 6).sin()

    graph = make_graph(func)(packed)
    optimize_graph(graph)
    check_graph(graph)
    assert "clone" not in calls(graph)
    (whole,) = [n for n in graph.nodes if n.target is torch.ops.aten.cat.default]
    assert whole.meta["val"].is_contiguous()
    assert all(user.target is torch.ops.aten.view.default for user in whole.users)
    torch.testing.assert_close(jit(func)(packed), func(packed))


PRODUCTS = {
    "an outer product": (lambda x: x[:, 0, None] @ x[None, :, 1], "mul"),
    "outer products": (lambda x: x[:, :, None] @ x[:, None, :], "mul"),
    "plus an outer product": (
        lambda x: torch.addmm(x, x[:, :1], x[:1]),
        "addcmul",
    ),
    "a transposed result": (lambda x: (x @ x[:3]).T.contiguous(), "mm"),
    "a row to each": (lambda x: (x @ x[:3]).view(2, 2, 3) + x[0], "addmm"),
    "an activation": (
        lambda x: x[:, :1] * aten.gelu_backward(torch.ones_like(x), x),
        "gelu_backward",
    ),
    "an activation in another shape": (
        lambda x: x[:, :1] * aten.gelu_backward(torch.ones(12), x.view(12)).view(4, 3),
        "gelu_backward",
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_take_the_fewest_calls(name):
    func, single = PRODUCTS[name]
    graph = make_graph(func)(X)
    optimize_graph(graph)
    check_graph(graph)
    assert [c for c in calls(graph) if c in WORK] == [single]
    torch.testing.assert_close(jit(func)(X), func(X))


def test_a_transposed_result_lies_row_by_row():
    def func(x):
        return (x[:3] @ x.T).T

    graph = make_graph(func)(X)
    optimize_graph(graph)
    check_graph(graph)
    assert sorted(calls(graph)) == ["mm", "permute", "slice"]
    result = jit(func)(X)
    assert result.is_contiguous()
    torch.testing.assert_close(result, func(X))


WORK = {"mul", "mm", "bmm", "add", "addmm", "addcmul", "clone", "gelu_backward"}


@pytest.mark.parametrize("name", FREE)
def test_free_rules(name):
    func, left = FREE[name]
    assert after(simplify, func)[0] == left


def test_a_uniform_factor_keeps_the_rounding_of_its_dtype():
    def func(x):
        return x * torch.full((3,), 0.1, dtype=x.dtype)

    x = X.to(torch.bfloat16)
    staged = jit(func, optimize="safe")
    assert torch.equal(staged(x), func(x))
    assert "full" not in calls(staged.lower(x).graph)


def zeros(*shape):
    """Return zeros made by a call that is traced."""
    return torch.zeros(*shape)


ZEROS_EXACT = {
    "what is made of zeros": lambda x: torch.cat(
        [zeros(3)[1:].relu(), zeros(2, 2).sum(0), torch.stack([zeros(1)[0]])]
    ),
    "chosen": lambda x: torch.where(x > 0, zeros(4, 3), zeros(3)),
    "put into zeros": lambda x: torch.select_scatter(zeros(4, 3), zeros(3), 0, 1),
    "padded": lambda x: torch.nn.functional.pad(zeros(4, 3), (1, 1)),
}
ZEROS_FREE = {
    "a product": lambda x: x * zeros(3),
    "a matrix product": lambda x: x @ zeros(3, 5),
    "a product plus zero": lambda x: torch.addmm(zeros(2), x, zeros(3, 2)),
    "a gradient": lambda x: torch.ops.aten.tanh_backward(zeros(4, 3), x),
    "minus zero": lambda x: -zeros(4, 3),
    "a quotient": lambda x: zeros(4, 3) / x,
}
TERMS = {
    "plus": (lambda x: x + zeros(3), []),
    "plus from the left": (lambda x: zeros(4, 3) + x, []),
    "minus": (lambda x: x - 0, []),
    "a larger shape": (lambda x: x + zeros(2, 4, 3), ["expand"]),
    "a product": (lambda x: torch.addmm(x.t(), zeros(3, 2), zeros(2, 4)), ["t"]),
    "another dtype": (lambda x: x + zeros(3).double(), ["add"]),
    "from a number": (lambda x: zeros(4, 3) - x, ["sub"]),
}


@pytest.mark.parametrize("name", ZEROS_EXACT)
def test_what_is_zero_bit_by_bit(name):
    graph = make_graph(ZEROS_EXACT[name])(X)
    optimize_graph(graph, "safe")
    assert calls(graph) == ["zeros"]
    value = jit(ZEROS_EXACT[name], optimize="safe")(X)
    assert torch.equal(value, ZEROS_EXACT[name](X))


@pytest.mark.parametrize("name", ZEROS_FREE)
def test_products_with_zero(name):
    func = ZEROS_FREE[name]
    before = calls(make_graph(func)(X))
    assert after(propagate_zeros, func)[0] == before
    left, changed = after(drop_products_with_zero, func)
    assert left == ["zeros"]
    assert changed == 1


@pytest.mark.parametrize("name", TERMS)
def test_terms_that_are_zero(name):
    func, left = TERMS[name]
    found = after(drop_products_with_zero, func)[0]
    assert [call for call in found if call not in ("zeros", "_to_copy")] == left


def test_zero_times_infinity_is_kept_by_safe():
    def func(x):
        return x * zeros(3)

    x = torch.tensor([math.inf, math.nan, -1.0])
    safe = jit(func, optimize="safe")(x)
    assert torch.equal(safe.isnan(), torch.tensor([True, True, False]))
    assert safe[2].signbit()
    assert torch.equal(jit(func)(x), torch.zeros(3))


def test_the_sign_of_zero_is_kept_by_safe():
    x = torch.tensor([[-0.0]])
    for func in (lambda x: x + 0, lambda x: x.sum(1), lambda x: -zeros(1)):
        assert torch.equal(jit(func, optimize="safe")(x).signbit(), func(x).signbit())


def mlp(x):
    """A network whose derivatives make use of most passes."""
    w = torch.linspace(-1, 1, 9).reshape(3, 3)
    y = torch.tanh(x @ w) + zeros(3)
    return (torch.softmax(y @ w.t(), -1) * torch.ones(3)).pow(2).sum()


PROGRAMS = {
    "vmap(grad)": (jaxtorch.vmap(jaxtorch.grad(mlp)), X),
    "hessian": (jaxtorch.hessian(mlp), X),
    "jvp": (lambda x: jaxtorch.jvp(mlp, (x,), (x.cos(),)), X),
    "bfloat16": (jaxtorch.grad(lambda x: (x * 0.1).tanh().sum()), X.bfloat16()),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_safe_keeps_every_bit(name):
    func, x = PROGRAMS[name]
    with checked():
        safe = jit(func, optimize="safe")
        results = jaxtorch.pytree.flatten(safe(x))[0]
    expected = jaxtorch.pytree.flatten(jit(func, optimize="none")(x))[0]
    for own, other in zip(results, expected, strict=True):
        assert torch.equal(own, other)
        assert torch.equal(own.signbit(), other.signbit())
    count = len(calls(safe.lower(x).graph))
    assert count < len(calls(make_graph(func)(x)))


def test_order_for_memory_lowers_the_peak():
    def func(x):
        wide = [x.repeat(50, 1) * k for k in range(4)]
        return sum(w.sum() for w in wide)

    graph = make_graph(func)(X)
    before = peak_bytes(graph)
    saved = order_for_memory(graph, {n for n in graph.nodes if is_pure(n)})
    check_graph(graph)
    assert saved == before - peak_bytes(graph) > 0


def test_results_stay_dense_and_writable():
    def func(x):
        y = x.sin()
        return y + zeros(2, 4, 3), y * 1, y.t().contiguous()

    graph = make_graph(func)(X)
    promised = Results(graph)
    simplify_exactly(graph)
    simplify(graph)
    drop_products_with_zero(graph)
    assert keep_promises(graph, promised) == 2
    with checked():
        results = jit(func)(X)
    for own, other in zip(results, func(X), strict=True):
        assert own.stride() == other.stride()
        own.add_(1)
        torch.testing.assert_close(own, other + 1)


def swapped_results(graph):
    """Return the results in another order."""
    output_of(graph).args = (output_of(graph).args[0][::-1],)
    return 0


def dropped_draw(graph):
    """Drop a random call."""
    for node in list(graph.nodes):
        if "rand" in str(node.target):
            graph.erase_node(node)
    return 0


def dropped_input(graph):
    """Drop an input that is not read."""
    graph.erase_node(next(iter(graph.nodes)))
    return 0


def wrong_shape(graph):
    """State another shape than a call gives."""
    node = output_of(graph).args[0][0]
    node.meta["val"] = node.meta["val"][:1]
    return 0


def wrong_device(graph):
    """State another device than a call leaves its result on."""
    output_of(graph).args[0][0].meta["device"] = torch.device("cuda")
    return 0


def wrong_order(graph):
    """Put a call behind its user."""
    node = output_of(graph).args[0][0]
    output_of(graph).append(node)
    return 0


def held_tensor(graph):
    """Put a tensor into the arguments of a call."""
    node = output_of(graph).args[0][0]
    node.args = (X,)
    return 0


@pytest.mark.parametrize(
    "broken",
    [
        swapped_results,
        dropped_draw,
        dropped_input,
        wrong_shape,
        wrong_device,
        wrong_order,
        held_tensor,
    ],
)
def test_the_checker_sees_a_broken_pass(broken, monkeypatch):
    def func(unused, x):
        torch.rand(3)
        return x.sin(), x[0].cos()

    graph = make_graph(func)(X, X)
    row = Pass("broken", "safe", passes.alone(broken))
    monkeypatch.setattr(passes, "FINISH", (row,))
    with checked(), pytest.raises((AssertionError, RuntimeError)):
        optimize_graph(graph)


def test_the_levels_of_optimization(monkeypatch):
    ran = []
    rows = tuple(
        Pass(level, level, lambda graph, work, level=level: bool(ran.append(level)))
        for level in ("safe", "full")
    )
    monkeypatch.setattr(passes, "CLEAN_UP", rows)
    for level, expected in (("safe", ["safe"]), ("full", ["safe", "full"])):
        ran.clear()
        optimize_graph(make_graph(torch.sin)(X), level)
        assert ran == expected
    ran.clear()
    jit(torch.sin, optimize="none")(X)
    assert not ran
