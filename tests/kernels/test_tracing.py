"""Formulas of rules become kernels: where they run, and that the numbers stay."""

import pytest
import torch
from torch.nn import functional

import jaxtorch
from jaxtorch.kernels import tracing
from jaxtorch.kernels.tracing import Kind, fused, program_of
from tests.kernels.harness import DEVICE

ACTIVATIONS = ["silu", "gelu", "mish", "softplus", "elu", "tanh", "sigmoid", "celu"]


@pytest.fixture
def programs(monkeypatch):
    """Collect the programs that run."""
    found = []
    run = tracing.run_fused

    def noted(formula, args, kwargs):
        out = run(formula, args, kwargs)
        if out is not None:
            found.append(formula.__name__)
        return out

    monkeypatch.setattr(tracing, "run_fused", noted)
    return found


def second(func):
    """Return the derivative of the gradient along a direction."""
    return lambda x, v: jaxtorch.jvp(jaxtorch.grad(func), (x,), (v,))[1]


def compare(func, *args):
    """Check that kernels change no number."""
    with jaxtorch.kernels_mode("off"):
        expected = func(*args)
    with jaxtorch.kernels_mode("force"):
        torch.testing.assert_close(func(*args), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives_of_activations(name, programs):
    activation = getattr(functional, name)
    x, v = torch.randn(7, 9, device=DEVICE) * 3, torch.randn(7, 9, device=DEVICE)
    compare(second(lambda x: activation(x).sum()), x, v)
    assert programs


def test_gelu_with_tanh(programs):
    x, v = torch.randn(7, 9, device=DEVICE), torch.randn(7, 9, device=DEVICE)
    compare(second(lambda x: functional.gelu(x, approximate="tanh").sum()), x, v)
    assert programs


def test_derivatives_of_elementary_functions(programs):
    x, v = torch.rand(7, 9, device=DEVICE), torch.randn(7, 9, device=DEVICE)
    for func in (torch.sin, torch.cos, torch.tan, torch.rsqrt, torch.log1p, torch.atan):
        compare(lambda x, v, func=func: jaxtorch.jvp(func, (x,), (v,)), x, v)
    assert len(programs) == 6


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dim", [0, -1])
def test_softmax(name, dim, programs):
    call = getattr(functional, name)
    x, v = torch.randn(7, 9, device=DEVICE), torch.randn(7, 9, device=DEVICE)
    compare(lambda x, v: jaxtorch.jvp(lambda x: call(x, dim), (x,), (v,)), x, v)
    compare(second(lambda x: call(x, dim).square().sum()), x, v)
    compare(
        jaxtorch.vmap(lambda x, v: jaxtorch.jvp(lambda x: call(x, 0), (x,), (v,))), x, v
    )
    assert programs


def fused_rms_norm(x, w):
    return torch.ops.aten._fused_rms_norm(x, [9], w, 1e-5)[0]


NORMS = {
    "layer norm": lambda x, w: functional.layer_norm(x, (9,), w, w),
    "plain layer norm": lambda x, w: functional.layer_norm(x, (9,)),
    "rms norm": fused_rms_norm,
    "plain rms norm": lambda x, w: fused_rms_norm(x, None),
    "group norm": lambda x, w: functional.group_norm(x, 3, w, w),
    "plain group norm": lambda x, w: functional.group_norm(x, 3),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_norms(norm, programs):
    x, v, h = torch.randn(3, 7, 9, device=DEVICE)
    w, u = torch.rand(2, 9, device=DEVICE)
    compare(lambda x, v: jaxtorch.jvp(lambda x: norm(x, w), (x,), (v,)), x, v)
    compare(lambda x, v: jaxtorch.jvp(norm, (x, w), (v, u)), x, v)
    ran = len(programs)
    compare(second(lambda x: norm(x, w).pow(3).sum()), x, v)
    assert len(programs) > ran > 0
    gradient = jaxtorch.vjp(lambda x: norm(x, w).sin(), x)[1]
    compare(lambda x, h: jaxtorch.jvp(lambda h: gradient(h)[0], (x,), (h,)), x, h)
    both = jaxtorch.grad(lambda x, w: norm(x, w).pow(3).sum(), (0, 1))
    compare(lambda x, v: jaxtorch.jvp(both, (x, w), (v, u)), x, v)


def test_gradients_of_norms_and_their_tangents(programs):
    """All tangents at once, and each alone."""
    g, x, *tangents = torch.randn(4, 7, 9, device=DEVICE)
    mean, rstd, tmean, trstd = torch.rand(4, 7, 1, device=DEVICE)
    w, tw = torch.rand(2, 9, device=DEVICE)
    values, moves = (g, x, mean, rstd, w), (*tangents, tmean, trstd, tw)

    def layer(g, x, mean, rstd, w):
        mask = [True, False, False]
        call = torch.ops.aten.native_layer_norm_backward
        return call(g, x, [9], mean, rstd, w, None, mask)[0]

    def rms(g, x, rstd, w):
        call = torch.ops.aten._fused_rms_norm_backward
        return call(g, x, [9], rstd, w, [True, False])[0]

    for i in range(5):
        own = [v if i in (j, 4) else v * 0 for j, v in enumerate(moves)]
        compare(lambda *m: jaxtorch.jvp(layer, values, m), *own)
    for i in range(4):
        place = [0, 1, 3, 4][i]
        fixed = [values[j] for j in (0, 1, 3, 4)]

        def alone(part, i=i, fixed=fixed):
            return rms(*fixed[:i], part, *fixed[i + 1 :])

        def of_layer(part, place=place):
            return layer(*values[:place], part, *values[place + 1 :])

        pairs = fixed[i], moves[place]
        compare(lambda x, v, f=of_layer: jaxtorch.jvp(f, (x,), (v,)), *pairs)
        compare(lambda x, v, f=alone: jaxtorch.jvp(f, (x,), (v,)), *pairs)
    assert len(programs) >= 13


def test_broadcasting_formulas(programs):
    x, y = torch.randn(7, 9, device=DEVICE), torch.rand(9, device=DEVICE)
    v = torch.randn(7, 9, device=DEVICE)
    compare(lambda x, v: jaxtorch.jvp(lambda x: torch.atan2(x, y), (x,), (v,)), x, v)


def test_tensors_of_other_kinds_run_as_they_are(programs):
    formula = fused(lambda t, x: t * torch.cos(x))
    with jaxtorch.kernels_mode("force"):
        formula(torch.ones(3).double(), torch.ones(3).double())
        formula(torch.ones(3), torch.ones(3, requires_grad=True))
        formula(torch.ones(3, 2), torch.ones(2, 3).T)
        formula(2.0, torch.ones(3))
    assert not programs


@pytest.mark.skipif(DEVICE == "cuda", reason="kernels run there")
def test_the_cpu_is_left_alone(programs):
    fused(lambda t, x: t * torch.cos(x))(torch.ones(3), torch.ones(3))
    assert not programs


def test_small_tensors_are_not_worth_it():
    with jaxtorch.kernels_mode("auto"):
        assert not tracing.is_worth(torch.Size([1000, 1000]), ())
        assert tracing.is_worth(torch.Size([1024, 1024]), ())
        assert tracing.is_worth(torch.Size([1024, 1024]), (1,))
        assert not tracing.is_worth(torch.Size([1024, 1024]), (0,))
        assert not tracing.is_worth(torch.Size([2, 1 << 20]), (1,))


def test_what_is_no_program():
    row = Kind(torch.Size([3, 4]), torch.float32)
    assert program_of(lambda t, x: t * torch.cos(x), (row, row), ()) is not None
    assert program_of(lambda t, x: torch.cos(x), (row, row), ()) is None, "one call"
    assert program_of(lambda t, x: t * torch.erfinv(x), (row, row), ()) is None
    assert program_of(lambda t, x: t * torch.ones(3, 4), (row, row), ()) is None
    assert program_of(lambda t, x: (t * x).sum(1), (row, row), ()) is None, "shape"
    assert program_of(lambda t, x: (t * x).double(), (row, row), ()) is None, "dtype"

    def both_dims(t, x):
        return t * x.sum(0, True) * x.sum(1, True)

    assert program_of(both_dims, (row, row), ()) is None
