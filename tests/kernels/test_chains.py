"""jit makes kernels of elementwise chains and row sums: same numbers, fewer calls."""

import pytest
import torch
from torch.nn import functional

import jaxtorch
from jaxtorch.kernels.language import INTERPRETED
from tests.kernels.harness import DEVICE

pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="kernels run nowhere"
)
FUSED = "jaxtorch.pointwise.default"
ROWS, COLS = 70, 33


def inputs():
    return torch.randn(ROWS, COLS, device=DEVICE), torch.randn(
        ROWS, COLS, device=DEVICE
    )


def calls(func, *args):
    """Check what jit computes with kernels; return the calls that are not views."""
    with jaxtorch.kernels_mode("off"):
        expected = func(*args)
    with jaxtorch.kernels_mode("force"):
        staged = jaxtorch.jit(func, backend="python")
        torch.testing.assert_close(staged(*args), expected, rtol=1e-4, atol=1e-5)
        graph = staged.lower(*args).graph
    names = [str(n.target) for n in graph.nodes if n.op == "call_function"]
    return [n for n in names if "getitem" not in n and "view" not in n]


def second(func):
    """Return the derivative of the gradient along a direction."""
    return lambda x, v: jaxtorch.jvp(jaxtorch.grad(func), (x,), (v,))


def test_a_chain_is_one_kernel():
    assert calls(lambda x, v: torch.tanh(x * 2 + v).sin(), *inputs()) == [FUSED]


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "silu", "mish", "softplus", "elu", "leaky_relu", "celu"]
)
def test_value_and_derivatives_in_one_pass(name):
    activation = getattr(functional, name)

    def func(x, v):
        return jaxtorch.jvp(activation, (x * 3,), (v,))

    assert calls(func, *inputs()) == [FUSED]
    twice = calls(second(lambda x: (activation(x) * 2 + x * x).sum()), *inputs())
    assert FUSED in twice
    assert set(twice) <= {FUSED, "aten.mul.Tensor", "aten.add.Tensor"}, "v + v alone"


WORDS = {
    "maximum": lambda x, v: torch.maximum(x, v) * torch.minimum(x, -v),
    "clamp": lambda x, v: x.clamp(-0.5, 0.5) * v.clamp(min=0) + v.clamp(max=1),
    "power": lambda x, v: x**3 + v**2 - 2 / (x * x + 1) ** 0.5 + (v * v + 1) ** -1,
    "sign": lambda x, v: torch.sign(x) * v.abs(),
    "conditions": lambda x, v: torch.where((x > 0) & ~(v > 0) | (x < -1), x, v) * 2,
    "factors": lambda x, v: torch.add(x, v, alpha=3) - torch.rsub(x, v, alpha=2),
    "hardswish": lambda x, v: functional.hardswish(x * 4) * functional.logsigmoid(v),
    "exponentials": lambda x, v: torch.expm1(x) + torch.log1p(v * v) - torch.erf(x),
}


@pytest.mark.parametrize("func", WORDS.values(), ids=WORDS)
def test_words(func):
    x, v = inputs()
    x[0, 0], v[1, 1], x[2, 2], v[3, 3] = torch.nan, torch.nan, torch.inf, -torch.inf
    with jaxtorch.kernels_mode("off"):
        expected = func(x, v)
    with jaxtorch.kernels_mode("force"):
        staged = jaxtorch.jit(func, backend="python")
        out, code = staged(x, v), staged.lower(x, v).code
    torch.testing.assert_close(out, expected, equal_nan=True)
    assert "pointwise" in code


def test_a_loss_and_its_gradient_in_one_pass():
    def func(x):
        return jaxtorch.vmap(jaxtorch.grad(lambda x: torch.tanh(x).square().sum()))(x)

    assert calls(func, inputs()[0]) == [FUSED]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows(name):
    def loss(x):
        return getattr(functional, name)(x, -1).square().sum()

    assert calls(jaxtorch.vmap(jaxtorch.grad(loss)), inputs()[0]) == [FUSED]
    assert set(calls(second(loss), *inputs())) == {FUSED}


NORMS = {
    "layer norm": lambda x, w: functional.layer_norm(x, (COLS,), w, w),
    "plain layer norm": lambda x, w: functional.layer_norm(x, (COLS,)),
    "rms norm": lambda x, w: functional.rms_norm(x, (COLS,), w),
    "plain rms norm": lambda x, w: functional.rms_norm(x, (COLS,), eps=1e-3),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_norms_join_their_chains(norm):
    x, v = inputs()
    w = torch.randn(COLS, device=DEVICE)
    assert calls(lambda x, v: torch.tanh(norm(x + v, w)), x, v) == [FUSED]

    def loss(x):
        return norm(x, w).pow(3).sum()

    own = calls(jaxtorch.vmap(jaxtorch.grad(loss)), x)
    own += calls(second(loss), x, v)
    own += calls(jaxtorch.grad(lambda w: norm(x, w).pow(3).sum() + w.sum()), w)
    assert not [name for name in own if "norm" in name]


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("positions", [(9,), (4, 2)])
def test_group_norms_join_their_chains(groups, positions):
    x, v = torch.randn(2, 70, 6, *positions, device=DEVICE)
    w, b = torch.randn(2, 6, device=DEVICE)

    def norm(x):
        return functional.group_norm(x, groups, w, b)

    assert calls(norm, x) == [FUSED]
    own = calls(lambda x: norm(x).sin().sum(), x)
    own += calls(second(lambda x: norm(x).sin().sum()), x, v)
    own += calls(jaxtorch.grad(lambda x: norm(x).sin().sum()), x)
    plain = calls(lambda x, v: functional.group_norm(x + v, groups), x, v)
    assert not [name for name in own + plain if "norm" in name]


def test_norms_over_several_dims():
    x, w = torch.randn(70, 3, 5, device=DEVICE), torch.randn(3, 5, device=DEVICE)

    def func(x, w):
        return torch.tanh(functional.layer_norm(x, (3, 5), w))

    assert calls(func, x, w) == [FUSED]


def test_norms_of_half_precision_stay_with_aten():
    x = inputs()[0].bfloat16()
    own = calls(lambda x: functional.layer_norm(x, (COLS,)), x)
    assert own == ["aten.native_layer_norm.default"]


def test_casts_stay_inside():
    x, v = inputs()

    def func(x, v):
        return torch.softmax((x.float() * 2 + v).sin(), 1).bfloat16() * x

    with jaxtorch.kernels_mode("off"):
        expected = func(x.bfloat16(), v)
    with jaxtorch.kernels_mode("force"):
        staged = jaxtorch.jit(func, backend="python")
        out = staged(x.bfloat16(), v)
        code = staged.lower(x.bfloat16(), v).code
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=1e-3)
    assert code.count("pointwise_default(") == 1
    assert "to_copy" not in code


LOSSES = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "ignored": {"ignore_index": -1},
}


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
def test_cross_entropy_reads_scores_once(options):
    x, v = inputs()
    y = torch.randint(0, COLS, (ROWS,), device=DEVICE)
    y[::7] = options.get("ignore_index", -100)

    def loss(x):
        return functional.cross_entropy(x, y, **options)

    own = calls(jaxtorch.value_and_grad(loss), x)
    assert not [name for name in own if "softmax" in name or "nll" in name]
    calls(second(loss), x, v)


def test_cross_entropy_of_each_row():
    y = torch.randint(0, COLS, (ROWS,), device=DEVICE)

    def func(x):
        return functional.cross_entropy(x, y, reduction="none")

    assert FUSED in calls(func, inputs()[0])
    assert FUSED in calls(jaxtorch.grad(lambda x: func(x).square().sum()), inputs()[0])


@pytest.mark.parametrize("options", [{"weight": torch.rand(COLS)}, {"ignore_index": 3}])
def test_other_losses_stay_with_aten(options):
    y = torch.randint(0, COLS, (ROWS,), device=DEVICE)
    options = {k: v.to(DEVICE) if k == "weight" else v for k, v in options.items()}
    own = calls(lambda x: functional.cross_entropy(x, y, **options), inputs()[0])
    assert "aten.nll_loss_forward.default" in own


def test_a_chain_that_would_wait_for_itself_is_split():
    """The product is made of the chain, and read by its end."""

    def func(x, v):
        y = torch.tanh(x)
        return torch.sin(y) + torch.mm(y, v.T)[:, :COLS].contiguous()

    own = calls(func, *inputs())
    assert own.index(FUSED) < own.index("aten.addmm.default")


def test_a_value_that_is_read_early():
    """What a kernel needs late is moved before the first reader of its results."""

    def func(x, v):
        y = torch.tanh(x)
        early = torch.mm(y, y.T)
        late = torch.mm(v, v.T)[:, :COLS].contiguous()
        return early, torch.sin(y) * late

    calls(func, *inputs())


def test_broadcasting_in_a_chain():
    def func(x, b):
        return torch.exp((b * 2).expand(ROWS, COLS) + x) * x.sum(1, keepdim=True)

    assert FUSED in calls(func, inputs()[0], torch.randn(COLS, device=DEVICE))


def test_columns_and_few_long_rows_stay_with_aten():
    """A kernel would read columns element by element, and a row with one program."""
    tall = torch.randn(300, 70, device=DEVICE)
    assert "aten.sum.dim_IntList" in calls(lambda x: torch.sin(x).sum(0), tall)
    wide = torch.randn(2, 300, device=DEVICE)
    assert "aten.mean.dim" in calls(lambda x: torch.sin(x).mean(1), wide)
    assert calls(lambda x: torch.sin(x).sum(1), wide) == [FUSED]


def test_conditions_stay_inside():
    def func(x):
        big = x > 0.5
        return torch.where(big, x * 2, torch.sin(x)), big

    assert "aten.gt.Scalar" in calls(func, inputs()[0])


def test_other_dtypes_stay_with_aten():
    x = inputs()[0]
    assert FUSED not in calls(lambda x: torch.sin(x) * 2, x.double())
    assert FUSED not in calls(lambda x: torch.sin(x).double() * 2, x)


def test_torch_autograd_sees_through():
    x = inputs()[0].requires_grad_()

    def func(x):
        return (torch.tanh(torch.sin(x) * 2) * x.softmax(1)).sum()

    with jaxtorch.kernels_mode("force"):
        staged = jaxtorch.jit(func, backend="python")
        (out,) = torch.autograd.grad(staged(x), x)
    torch.testing.assert_close(out, *torch.autograd.grad(func(x), x))


def test_safe_keeps_every_bit():
    with jaxtorch.kernels_mode("force"):
        staged = jaxtorch.jit(lambda x: torch.sin(x) * 2, optimize="safe")
        assert FUSED not in staged.lower(inputs()[0]).code
