"""``cond``, ``while_loop``, ``fori_loop``, ``scan``, ``map`` against Python loops."""

import pytest
import torch

import jaxtorch
from jaxtorch import cond, fori_loop, grad, hessian, jit, jvp, scan, vmap, while_loop
from jaxtorch.core.level import STATE
from jaxtorch.errors import JaxtorchError, MutationError, UsageError

X = torch.linspace(-0.9, 1.1, 12, dtype=torch.float64).reshape(4, 3)
W = torch.linspace(-0.5, 0.7, 9, dtype=torch.float64).reshape(3, 3)


@pytest.fixture(autouse=True)
def no_level_stays_open():
    yield
    assert STATE.levels == []
    assert torch._C._len_torch_dispatch_stack() == 0


def by_cond(x):
    return cond(
        x.sum() > 0, lambda x, w: torch.sin(w @ x), lambda x, w: x * w[0] + W[1], x, W
    )


def plain_cond(x):
    return torch.sin(W @ x) if x.sum() > 0 else x * W[0] + W[1]


def by_captured_cond(x):
    y = x.exp()
    return cond(x[0] > 0, lambda: y * x, lambda: y.sum() + x)


def plain_captured_cond(x):
    return x.exp() * x if x[0] > 0 else x.exp().sum() + x


def by_scan(x):
    def step(carry, row):
        new = torch.tanh(W @ carry["h"] + row * x)
        return {"h": new}, (new.sum() * row, carry["h"])

    carry, (sums, states) = scan(step, {"h": x}, W)
    return carry["h"] + sums.sum(0) + states.prod(0)


def plain_scan(x):
    h, sums, states = x, [], []
    for row in W:
        states.append(h)
        h = torch.tanh(W @ h + row * x)
        sums.append(h.sum() * row)
    return h + torch.stack(sums).sum(0) + torch.stack(states).prod(0)


def by_reversed_scan(x):
    return scan(lambda c, v: (c * v + x.sum(), c.sin()), x[0], x, reverse=True)[1]


def plain_reversed_scan(x):
    c, ys = x[0], []
    for v in reversed(x.unbind()):
        ys.append(c.sin())
        c = c * v + x.sum()
    return torch.stack(ys[::-1])


def by_fori(x):
    return fori_loop(1, 4, lambda i, c: torch.cos(c) * i + x[i - 1], x)


def plain_fori(x):
    c = x
    for i in range(1, 4):
        c = torch.cos(c) * i + x[i - 1]
    return c


def by_while(x):
    out = while_loop(
        lambda s: s[0].square().sum() < 30,
        lambda s: (s[0] * 1.7 + W[0], s[1] + s[0].sin()),
        (x, 0 * x),
    )
    return out[0] + out[1]


def plain_while(x):
    a, b = x, 0 * x
    while a.square().sum() < 30:
        a, b = a * 1.7 + W[0], b + a.sin()
    return a + b


def by_map(x):
    return jaxtorch.map(lambda v: torch.sin(v * x).sum(), x)


def plain_map(x):
    return torch.stack([torch.sin(v * x).sum() for v in x])


def by_nested(x):
    def step(carry, v):
        carry = cond(v > 0, lambda c: torch.sin(c) * v, lambda c: c * c, carry)
        return carry, fori_loop(0, 2, lambda i, c: c * x + carry, carry)

    return scan(step, x, x)[1].sum(0)


def plain_nested(x):
    c, total = x, 0
    for v in x:
        c = torch.sin(c) * v if v > 0 else c * c
        y = c
        for _ in range(2):
            y = y * x + c
        total = total + y
    return total


CASES = {
    "cond": (by_cond, plain_cond),
    "captured cond": (by_captured_cond, plain_captured_cond),
    "scan": (by_scan, plain_scan),
    "reversed scan": (by_reversed_scan, plain_reversed_scan),
    "fori_loop": (by_fori, plain_fori),
    "while_loop": (by_while, plain_while),
    "map": (by_map, plain_map),
    "nested": (by_nested, plain_nested),
}
V = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)


def total(f):
    return lambda x: (f(x) ** 2).sum()


def exact_grad(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(total(f)(x), x)[0]


def exact_hessian(f, x):
    return torch.autograd.functional.hessian(total(f), x)


TRANSFORMS = {
    "call": (lambda f: f, lambda f, x: f(x)),
    "grad": (lambda f: grad(total(f)), exact_grad),
    "jvp": (
        lambda f: lambda x: jvp(f, (x,), (V,))[1],
        lambda f, x: torch.autograd.functional.jacobian(f, x) @ V,
    ),
    "linearize": (
        lambda f: lambda x: jaxtorch.linearize(f, x)[1](V),
        lambda f, x: torch.autograd.functional.jacobian(f, x) @ V,
    ),
    "jacrev": (jaxtorch.jacrev, torch.autograd.functional.jacobian),
    "jacfwd": (jaxtorch.jacfwd, torch.autograd.functional.jacobian),
    "hessian": (lambda f: hessian(total(f)), exact_hessian),
    "grad(grad)": (
        lambda f: grad(lambda x: grad(total(f))(x) @ V),
        lambda f, x: exact_hessian(f, x) @ V,
    ),
}
REVERSE = {"grad", "jacrev", "hessian", "grad(grad)"}


@pytest.mark.parametrize("staged", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_python_loop(case, transform, staged):
    by, plain = CASES[case]
    lift, exact = TRANSFORMS[transform]
    own = lift(by)
    if staged:
        own = jit(own)
    for x in X[:: 3 if staged else 1]:
        if staged and case == "while_loop" and transform in REVERSE:
            with pytest.raises(UsageError, match=r"test_control_flow\.py"):
                own(x)
        else:
            torch.testing.assert_close(own(x), exact(plain, x))


@pytest.mark.parametrize("staged", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES)
def test_under_vmap(case, transform, staged):
    by, plain = CASES[case]
    lift, exact = TRANSFORMS[transform]
    own = vmap(lift(by))
    if staged and case == "while_loop" and transform in REVERSE:
        return
    own = jit(own) if staged else own
    torch.testing.assert_close(own(X), torch.stack([exact(plain, x) for x in X]))


@pytest.mark.parametrize("case", CASES)
def test_vmap_inside(case):
    by, plain = CASES[case]
    exact = torch.stack([exact_grad(plain, x) for x in X])
    own = grad(lambda x: (vmap(by)(x) ** 2).sum())
    torch.testing.assert_close(own(X), exact)
    if case != "while_loop":
        torch.testing.assert_close(jit(own)(X), exact)


@pytest.mark.parametrize("case", CASES)
def test_under_torch_autograd(case):
    by, plain = CASES[case]
    for func in (by, jit(by)):
        x = X[2].clone().requires_grad_()
        if case == "while_loop" and func is not by:
            continue
        (pulled,) = torch.autograd.grad(total(func)(x), x)
        torch.testing.assert_close(pulled, exact_grad(plain, X[2]))


def test_the_loop_is_one_call_of_the_graph():
    graph = jaxtorch.make_graph(by_scan)(X[0])
    assert [str(node.target) for node in graph.nodes].count("scan") == 1
    unrolled = jit(lambda x: scan(lambda c, v: (c * v, c), x, W, unroll=True))
    assert "scan" not in unrolled.lower(X[0]).code
    flops = jit(lambda x: fori_loop(0, 5, lambda i, c: c @ c, x)).lower(W).flops
    assert flops == 5 * 2 * 27


def test_only_the_chosen_branch_runs():
    runs = []

    def first(x):
        runs.append("first")
        return x

    cond(torch.tensor(True), first, lambda x: runs.append("second"), X)
    assert runs == ["first"]
    fails = jit(lambda p, x: cond(p, torch.linalg.cholesky, lambda x: x, x))
    torch.testing.assert_close(fails(torch.tensor(False), -W), -W)


@pytest.mark.parametrize("x", [0.0, -1.0, 4.0])
def test_no_nan_from_the_branch_not_taken(x):
    def root(x):
        return cond(x > 0, torch.sqrt, torch.neg, x)

    batch = torch.tensor([x, 1.0])
    expected = torch.stack([grad(root)(v) for v in batch])
    assert expected.isfinite().all()
    for func in (vmap(grad(root)), grad(lambda z: vmap(root)(z).sum())):
        torch.testing.assert_close(func(batch), expected)
        torch.testing.assert_close(jit(func)(batch), expected)
    z = batch.clone().requires_grad_()
    jit(vmap(root))(z).sum().backward()
    torch.testing.assert_close(z.grad, expected)


def test_random_numbers_are_the_same_on_the_way_back():
    def noisy(x):
        return scan(
            lambda c, v: (torch.nn.functional.dropout(c * v, 0.5), c), x, 2 + W
        )[0].sum()

    for _ in range(8):
        out, slope = jit(jaxtorch.value_and_grad(noisy))(torch.ones(3).double())
        torch.testing.assert_close(out, slope.sum())


def test_no_grad_and_detach_within_staged_functions():
    def func(x):
        with torch.no_grad():
            scale = (x * x).sin().sum() + 1
        return (scale * x * x.detach()).sum()

    def looped(x):
        return scan(lambda c, v: (func(c) * v + c, c), x, W)[0].sum()

    for f in (func, looped):
        x = X[1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(f(x), x)
        torch.testing.assert_close(jit(grad(f))(X[1]), expected)
        torch.testing.assert_close(torch.autograd.grad(jit(f)(x), x)[0], expected)


def test_captured_parameters_are_tracked_by_torch_autograd():
    layer = torch.nn.Linear(3, 3).double()

    def loss(x):
        return scan(lambda h, v: (torch.tanh(layer(h) + v), None), x, W)[0].sum()

    expected = torch.autograd.grad(loss(X[0]), layer.weight)[0]
    pulled = torch.autograd.grad(jit(loss)(X[0]), layer.weight)[0]
    torch.testing.assert_close(pulled, expected)
    with torch.no_grad():
        layer.weight.mul_(2)
    staged = jit(loss)
    torch.testing.assert_close(staged(X[0]), loss(X[0]))


def test_two_maps_and_bounds_that_differ():
    def power(x, n):
        return fori_loop(0, n, lambda i, c: c * x, 1.0)

    n = torch.tensor([0, 1, 3])
    x = torch.tensor([2.0, 3.0])
    both = vmap(vmap(power, (None, 0)), (0, None))
    expected = x[:, None] ** n
    torch.testing.assert_close(both(x, n), expected)
    torch.testing.assert_close(jit(both)(x, n), expected)
    slope = vmap(vmap(jaxtorch.jacfwd(power), (None, 0)), (0, None))
    torch.testing.assert_close(jit(slope)(x, n), n * x[:, None] ** (n - 1.0))


def test_the_predicate_stays_one_where_it_is_the_same_for_all():
    def func(x, n):
        return while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] * x), (0, x))

    own = jit(vmap(func, (0, None)))
    torch.testing.assert_close(own(X[0], 3)[1], X[0] ** 4)
    torch.testing.assert_close(own(X[0], torch.tensor(3))[1], X[0] ** 4)
    assert "where" not in own.lower(X[0], torch.tensor(3)).code


@pytest.mark.parametrize("staged", [False, True], ids=["eager", "jit"])
def test_edges_of_scan(staged):
    lift = jit if staged else lambda f: f

    def step(c, v):
        return c + v.sum(), (v, None)

    carry, (ys, nothing) = lift(lambda xs: scan(step, 0.0, xs))(torch.ones(0, 2))
    assert (carry.item(), ys.shape, nothing) == (0.0, (0, 2), None)
    carry, ys = lift(lambda x: scan(lambda c, v: (c * 2, c), x, length=3))(X[0])
    torch.testing.assert_close(ys, torch.stack([X[0], 2 * X[0], 4 * X[0]]))
    carry, _ = lift(lambda x: scan(lambda c, v: (c + v, ()), 0, x))(X[0])
    torch.testing.assert_close(carry, X[0].sum())
    assert lift(lambda x: fori_loop(3, 1, lambda i, c: c + i, x))(1.5) == 1.5


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 4, 7])
def test_map_in_batches(batch_size):
    def func(row):
        return {"a": row["x"].sin().sum() * row["y"], "b": row["x"]}

    xs = {"x": X, "y": X[:, 0]}
    for lift in (lambda f: f, jit):
        out = lift(lambda xs: jaxtorch.map(func, xs, batch_size=batch_size))(xs)
        torch.testing.assert_close(out, vmap(func)(xs))


def grow(c):
    return torch.cat([c, c])


def write(c):
    c.add_(1)
    return c


ERRORS = {
    "branches of other shapes": lambda x: cond(x[0] > 9, torch.sum, torch.sin, x),
    "branches of other trees": lambda x: cond(x[0] > 9, lambda: (x,), lambda: x),
    "predicate with dims": lambda x: cond(x > 0, torch.sin, torch.cos, x),
    "carry grows": lambda x: fori_loop(0, 2, lambda i, c: grow(c), x),
    "carry changes its dtype": lambda x: scan(lambda c, v: (c.float(), v), x, x),
    "while carry grows": lambda x: while_loop(lambda c: c.sum() < 1e9, grow, x + 9),
    "condition with dims": lambda x: while_loop(lambda c: c < 9, torch.sin, x),
    "bound": lambda x: fori_loop(0, 2.5, lambda i, c: c, x),
    "xs of other lengths": lambda x: scan(lambda c, v: (c, v[0]), x, (x, W[:2])),
    "no length": lambda x: scan(lambda c, v: (c, v), x),
    "no pair": lambda x: scan(lambda c, v: c, x, W),
    "writes": lambda x: fori_loop(0, 2, lambda i, c: write(c), x * 1),
    "batch size": lambda x: jaxtorch.map(torch.sin, x, batch_size=0),
}
NEEDS_BOTH = {"branches of other shapes", "branches of other trees"}


@pytest.mark.parametrize("lift", ["eager", "jit", "vmap", "grad", "jit(grad)"])
@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_remedy(name, lift):
    func = ERRORS[name]
    if lift == "eager" or lift == "grad":
        if name in NEEDS_BOTH:
            return
    own = {
        "eager": func,
        "jit": jit(func),
        "vmap": vmap(func),
        "grad": grad(lambda x: torch.as_tensor(func(x)).sum()),
        "jit(grad)": jit(grad(lambda x: torch.as_tensor(func(x)).sum())),
    }[lift]
    with pytest.raises(JaxtorchError, match="Fix: "):
        own(X if lift == "vmap" else X[0])


def test_a_value_that_is_not_known_names_the_line():
    def func(x):
        return scan(lambda c, v: (c.sin() if c[0] > 0 else c, v), x, x)

    with pytest.raises(JaxtorchError, match=r"test_control_flow.py:\d+: return scan"):
        jit(func)(X[0])


def test_an_error_of_the_user_goes_through():
    def fails(*args):
        raise KeyError("mine")

    for lift in (lambda f: f, jit, vmap, grad, lambda f: jit(vmap(f))):
        x = torch.ones(2)
        for call in (
            lambda x: scan(fails, x, torch.ones(2)),
            lambda x: cond(x.sum() > 0, fails, fails, x),
            lambda x: while_loop(lambda c: True, fails, x),
        ):
            with pytest.raises(KeyError, match="mine"):
                lift(call)(x)


def test_writes_are_refused_by_their_own_error():
    for lift in (lambda f: f, jit, vmap):
        with pytest.raises(MutationError, match="writes in place"):
            lift(ERRORS["writes"])(X)
