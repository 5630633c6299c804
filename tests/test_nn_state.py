"""Stacked state, make_functional and batch norm against torch.func and functorch."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import jaxtorch
from jaxtorch.errors import JaxtorchError
from tests.small_modules import Mlp, frozen, same

# stack_module_state


def test_stacked_state_calls_each_model():
    torch.manual_seed(0)
    models, x = [Mlp().eval() for _ in range(3)], torch.randn(5, 3)
    params, buffers = jaxtorch.stack_module_state(models)
    peer = torch.func.stack_module_state(models)
    same((params, buffers), peer)
    assert all(p.requires_grad and p.is_leaf for p in params.values())
    assert not any(b.requires_grad for b in buffers.values())
    out = jaxtorch.vmap(
        lambda p, b: jaxtorch.functional_call(models[0], (p, b), x),
    )(params, buffers)
    same(out, torch.stack([model(x) for model in models]))
    out.sum().backward()
    oracle = torch.autograd.grad(
        sum(model(x).sum() for model in models), models[1].first.weight
    )
    same(params["first.weight"].grad[1], oracle[0])


def test_stack_takes_a_module_list_and_frozen_parameters():
    models = nn.ModuleList([nn.Linear(2, 2).requires_grad_(False) for _ in range(2)])
    params, _ = jaxtorch.stack_module_state(models)
    assert not params["weight"].requires_grad


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ([], "at least one model"),
        ([nn.Linear(2, 2), nn.Linear(2, 2).eval()], "training/eval"),
        ([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)], "same class"),
        ([nn.Linear(2, 2), frozen(nn.Linear(2, 2))], "requires_grad"),
        ([nn.Linear(2, 2), nn.Linear(2, 3)], "weight from each model .* .shape"),
        ([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)], "names of model 1"),
    ],
)
def test_stack_refuses_models_that_differ(models, text):
    with pytest.raises(RuntimeError, match=text) as caught:
        jaxtorch.stack_module_state(models)
    assert isinstance(caught.value, JaxtorchError)
    assert "Fix: " in str(caught.value)


# make_functional, make_functional_with_buffers, combine_state_for_ensemble


def test_make_functional():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), torch.randn(3)
    func, params = jaxtorch.make_functional(model)
    assert isinstance(func, jaxtorch.FunctionalModule)
    assert func.param_names == ["0.weight", "0.bias"]
    assert all(p.requires_grad and p.is_leaf for p in params)
    same(func(params, x), model(x))
    same(func([2 * p for p in params], x), torch.tanh(2 * model[0](x)))
    with torch.no_grad():
        model[0].weight.zero_()
    assert params[0].abs().sum() > 0
    assert all(p.is_meta for p in func.stateless_model.parameters())


def test_make_functional_without_tracking():
    _, params = jaxtorch.make_functional(nn.Linear(2, 2), True)
    assert not any(p.requires_grad for p in params)
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    _, params = jaxtorch.make_functional(model)
    assert [p.requires_grad for p in params] == [True, False]


def test_make_functional_with_buffers():
    model, x = Mlp(), torch.randn(5, 3)
    func, params, buffers = jaxtorch.make_functional_with_buffers(model)
    assert isinstance(func, jaxtorch.FunctionalModuleWithBuffers)
    assert len(params) == 6
    assert func.buffer_names == [name for name, _ in model.named_buffers()]
    same(func(params, buffers, x, scale=3.0), 3 * model(x))
    same(list(buffers), list(model.buffers()))


def test_make_functional_grads_equal_autograd():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), torch.randn(5, 3)
    func, params = jaxtorch.make_functional(model)
    grads = jaxtorch.grad(lambda p: func(p, x).sum())(params)
    same(list(grads), list(torch.autograd.grad(model(x).sum(), model.parameters())))
    func(params, x).sum().backward()
    same([p.grad for p in params], list(grads))


def test_make_functional_keeps_ties():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = nn.Linear(2, 2)
            self.second.weight = self.first.weight
            self.third = self.first
            self.register_buffer("a", torch.ones(2))
            self.register_buffer("b", self.a)

        def forward(self, x):
            return self.third(self.second(self.first(x))) + self.a * self.b

    model, x = Three(), torch.randn(2)
    func, params, buffers = jaxtorch.make_functional_with_buffers(model)
    assert (len(params), len(buffers)) == (3, 1)
    same(func(params, buffers, x), model(x))
    doubled = [2 * p for p in params]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    same(func(doubled, buffers, x), model(x))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))]
)
def test_functional_modules_can_be_copied(clone):
    model, x = nn.Linear(2, 2), torch.randn(2)
    func, params = jaxtorch.make_functional(model)
    same(clone(func)(params, x), model(x))


def test_make_functional_refuses_buffers_and_wrong_counts():
    with pytest.raises(RuntimeError, match="make_functional_with_buffers"):
        jaxtorch.make_functional(nn.BatchNorm1d(2))
    func, params = jaxtorch.make_functional(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="got 1 parameters, the module has 2"):
        func(params[:1], torch.ones(2))


def test_combined_ensemble():
    torch.manual_seed(0)
    models, x = [Mlp().eval() for _ in range(3)], torch.randn(3, 5, 3)
    func, params, buffers = jaxtorch.combine_state_for_ensemble(models)
    assert not any(p.requires_grad for p in params)
    out = jaxtorch.vmap(func)(params, buffers, x)
    same(out, torch.stack([model(own) for model, own in zip(models, x, strict=True)]))
    shared = jaxtorch.vmap(func, in_dims=(0, 0, None))(params, buffers, x[0])
    same(shared, torch.stack([model(x[0]) for model in models]))


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ([], "at least one model"),
        ([nn.Linear(2, 2), nn.Linear(2, 2).eval()], "training/eval"),
        ([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)], "same class"),
        ([nn.Linear(2, 2), nn.Linear(3, 2)], "the same .shape"),
    ],
)
def test_combine_refuses_models_that_differ(models, text):
    with pytest.raises(RuntimeError, match=text):
        jaxtorch.combine_state_for_ensemble(models)


# replace_all_batch_norm_modules_


def test_replace_all_batch_norm_modules():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(3)))
    assert jaxtorch.replace_all_batch_norm_modules_(model) is model
    assert list(model.buffers()) == []
    assert not any(m.track_running_stats for m in (model[0], model[1][0]))
    root = jaxtorch.replace_all_batch_norm_modules_(nn.BatchNorm1d(2))
    assert root.running_mean is None
    x = torch.randn(4, 2)
    same(root.eval()(x), nn.BatchNorm1d(2)(x))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        jaxtorch.replace_all_batch_norm_modules_(torch.sin)


def test_replaced_batch_norm_under_vmap():
    model = jaxtorch.replace_all_batch_norm_modules_(nn.BatchNorm1d(2))
    x = torch.randn(3, 4, 2)
    same(jaxtorch.vmap(model)(x), torch.stack([nn.BatchNorm1d(2)(own) for own in x]))


def test_weight_norm_under_grad():
    model, x = weight_norm(nn.Linear(3, 2)).double(), torch.randn(4, 3).double()
    params = dict(model.named_parameters())
    grads = jaxtorch.grad(lambda p: jaxtorch.functional_call(model, p, x).sum())(params)
    oracle = torch.autograd.grad(model(x).sum(), list(params.values()))
    same(list(grads.values()), list(oracle))
