"""``cond``, ``while_loop``, ``fori_loop``, ``scan`` and ``map`` against Python loops."""

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
            with pytest.raises(UsageError, match="test_control_flow.py"):
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
