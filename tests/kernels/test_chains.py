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
    assert set(twice) <= {FUSED, "aten.mul.Tensor"}


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
