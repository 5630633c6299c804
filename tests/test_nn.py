"""functional_call against plain module calls and torch.func."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import jaxtorch
from jaxtorch.errors import JaxtorchError
from tests.small_modules import Counter, Fails, Mlp, Tied, same, state_of


def test_call_with_other_parameters():
    torch.manual_seed(0)
    model, other, x = Mlp().eval(), Mlp().eval(), torch.randn(5, 3)
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    same(jaxtorch.functional_call(model, state, x), other(x))
    same(torch.func.functional_call(model, state, x), other(x))


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_dicts(kind):
    model, x = Mlp().eval(), torch.randn(5, 3)
    dicts = kind([dict(model.named_parameters()), dict(model.named_buffers())])
    same(jaxtorch.functional_call(model, dicts, (x,), {"scale": 2.0}), model(x) * 2)


def test_missing_names_come_from_the_module_and_unknown_ones_are_ignored():
    model, x = nn.Linear(2, 2), torch.randn(2)
    given = {"weight": torch.eye(2), "nosuch": x, "no.such": x}
    same(jaxtorch.functional_call(model, given, x), x + model.bias)
    assert not hasattr(model, "nosuch")


def test_no_arguments():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(2))

        def forward(self):
            return self.value + 1

    same(
        jaxtorch.functional_call(Constant(), {"value": torch.ones(2)}),
        torch.ones(2) + 1,
    )


def test_module_keeps_its_tensors():
    model = Mlp()
    before = state_of(model)
    state = {name: p * 2 for name, p in model.named_parameters()}
    jaxtorch.functional_call(model, state, torch.randn(5, 3))
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(before[k] is after[k] for k in before)


def test_module_keeps_its_tensors_when_forward_raises():
    model, x = Fails(), torch.ones(2)
    before = state_of(model)
    given = {"weight": torch.zeros(2), "seen": torch.full((2,), 5.0)}
    with pytest.raises(ZeroDivisionError):
        jaxtorch.functional_call(model, given, x)
    after = state_of(model)
    assert all(before[k] is after[k] for k in before)
    same(given["seen"], torch.full((2,), 6.0))
    same(model.seen, torch.zeros(2))


def test_shared_module_is_restored():
    inner = nn.Linear(2, 2, bias=False)
    model, weight, x = nn.Sequential(inner, inner), inner.weight, torch.randn(2)
    eye = 2 * torch.eye(2)
    same(jaxtorch.functional_call(model, {"0.weight": eye, "1.weight": eye}, x), 4 * x)
    same(jaxtorch.functional_call(model, {"1.weight": eye}, x), 4 * x)
    assert inner.weight is weight
    two = {"0.weight": eye, "1.weight": torch.eye(2)}
    with pytest.raises(ValueError, match="tied"):
        jaxtorch.functional_call(model, two, x, tie_weights=False)
    assert inner.weight is weight


def test_written_buffers_land_in_the_dict():
    model, x = Mlp(), torch.randn(5, 3)
    oracle = copy.deepcopy(model)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    passed = dict(buffers)
    jaxtorch.functional_call(model, (dict(model.named_parameters()), passed), x)
    oracle(x)
    for name, expected in oracle.named_buffers():
        assert passed[name] is buffers[name]
        same(passed[name], expected)
    same(model.norm.running_mean, torch.zeros(4))


def test_assigned_buffers_land_in_the_dict():
    model, given = Counter(), {"count": torch.tensor(4.0)}
    same(jaxtorch.functional_call(model, given, torch.ones(2)), torch.full((2,), 5.0))
    same(given["count"], torch.tensor(5.0))
    same(model.count, torch.tensor(0.0))
    jaxtorch.functional_call(model, ({}, given), torch.ones(2))
    same(given["count"], torch.tensor(6.0))


def test_tied_weights():
    model, x, value = Tied(), torch.full((2,), 3.0), torch.full((2,), 10.0)
    same(jaxtorch.functional_call(model, {"left": value}, x), value * x + value)
    same(jaxtorch.functional_call(model, {"right": value}, x), value * x + value)
    both = {"left": value, "right": value}
    same(jaxtorch.functional_call(model, both, x), value * x + value)
    loose = jaxtorch.functional_call(model, {"left": value}, x, tie_weights=False)
    same(loose, value * x + 1)
    two = {"left": value, "right": x}
    with pytest.raises(ValueError, match="tie_weights"):
        jaxtorch.functional_call(model, two, x)
    same(jaxtorch.functional_call(model, two, x, tie_weights=False), value * x + x)
    assert model.left is model.right


def test_strict():
    model, x = nn.Linear(2, 2), torch.randn(2)
    full = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    same(jaxtorch.functional_call(model, full, x, strict=True), x)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\): 'bias'"):
        jaxtorch.functional_call(model, {"weight": x}, x, strict=True)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\): 'nosuch'"):
        jaxtorch.functional_call(model, {**full, "nosuch": x}, x, strict=True)
    tied = {"left": torch.ones(2)}
    jaxtorch.functional_call(Tied(), tied, x, strict=True)
    with pytest.raises(RuntimeError, match="Missing"):
        jaxtorch.functional_call(Tied(), tied, x, strict=True, tie_weights=False)
    off = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    jaxtorch.functional_call(off, {}, torch.randn(4, 2), strict=True)


@pytest.mark.parametrize(
    ("module", "dicts", "kind", "text"),
    [
        (nn.Linear(2, 2), ({"bias": 1}, {"bias": 2}), ValueError, "multiple dict"),
        (nn.Linear(2, 2), 3, ValueError, "Expected parameter_and_buffer_dicts"),
        (nn.Linear(2, 2), [torch.ones(2)], ValueError, "list/tuple of dicts"),
        (nn.Linear(2, 2), {"bias": 1.0}, TypeError, "'bias' is of type float"),
        (torch.sin, {}, TypeError, "expected a torch.nn.Module"),
        (nn.DataParallel(nn.Linear(2, 2)), {}, RuntimeError, "DataParallel"),
    ],
)
def test_refused_calls(module, dicts, kind, text):
    with pytest.raises(kind, match=text) as caught:
        jaxtorch.functional_call(module, dicts, torch.ones(2))
    assert isinstance(caught.value, JaxtorchError)
    assert "functional_call(" in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_plain_tensor_attributes_can_be_given():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.tensor(2.0)

        def forward(self, x):
            return x * self.scale

    model, x = nn.Sequential(Scaled()), torch.randn(2)
    same(jaxtorch.functional_call(model, {"0.scale": torch.tensor(3.0)}, x), x * 3)
    same(model(x), x * 2)


def test_parametrized_module():
    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).mT

    model, x = nn.Linear(3, 3, bias=False), torch.randn(2, 3)
    parametrize.register_parametrization(model, "weight", Symmetric())
    before = model(x)
    original, value = "parametrizations.weight.original", torch.randn(3, 3)
    full = Symmetric()(value)
    same(jaxtorch.functional_call(model, {original: value}, x), x @ full)
    same(jaxtorch.functional_call(model, {"weight": value}, x), x @ value.mT)
    same(model(x), before)


def test_recurrent_module_keeps_nothing_of_the_call():
    torch.manual_seed(0)
    model, other, x = nn.LSTM(3, 4), nn.LSTM(3, 4), torch.randn(5, 2, 3)
    state = {name: p.detach().clone() for name, p in other.named_parameters()}
    same(jaxtorch.functional_call(model, state, x)[0], other(x)[0])
    gone = [weakref.ref(value) for value in state.values()]
    del state
    gc.collect()
    assert all(ref() is None for ref in gone)
    assert all(
        a is b for a, b in zip(model._flat_weights, model.parameters(), strict=True)
    )
