"""Transforms through functional_call: gradients, recurrent modules, buffers."""

import pytest
import torch
from torch import nn

import jaxtorch
from tests.small_modules import Fails, Tied, mse, same, state_of


def test_grad_through_functional_call():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    params = dict(model.named_parameters())
    grads = jaxtorch.grad(mse, argnums=1)(model, params, x, y)
    loss = nn.functional.mse_loss(model(x), y)
    oracle = torch.autograd.grad(loss, list(params.values()))
    assert list(grads) == list(params)
    same(list(grads.values()), list(oracle))
    peer = torch.func.grad(
        lambda p: nn.functional.mse_loss(torch.func.functional_call(model, p, x), y)
    )(params)
    same(grads, peer)


def test_grad_of_tied_weights_adds_up():
    model, x = Tied(), torch.tensor([3.0, 5.0])
    grads = jaxtorch.grad(
        lambda p: jaxtorch.functional_call(model, p, x).sum(),
    )({"left": model.left.detach()})
    same(grads, {"left": x + 1})


def test_per_sample_gradients_equal_a_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    params = {name: p.detach() for name, p in model.named_parameters()}
    per_sample = jaxtorch.vmap(
        jaxtorch.grad(lambda p, x, y: mse(model, p, x, y)), in_dims=(None, 0, 0)
    )(params, x, y)
    for index in range(5):
        loss = nn.functional.mse_loss(model(x[index]), y[index])
        oracle = torch.autograd.grad(loss, list(model.parameters()))
        same([g[index] for g in per_sample.values()], list(oracle))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules_under_transforms(kind):
    torch.manual_seed(0)
    model, x = kind(3, 4).double(), torch.randn(3, 5, 2, 3).double()
    params = {name: p.detach() for name, p in model.named_parameters()}

    def energy(params, x):
        return jaxtorch.functional_call(model, params, x)[0].square().sum()

    per_sample = jaxtorch.vmap(jaxtorch.grad(energy), in_dims=(None, 0))(params, x)
    hessians = jaxtorch.hessian(energy, argnums=1)(params, x[0, :2, :1])
    for index, own in enumerate(x):
        loss = model(own)[0].square().sum()
        oracle = torch.autograd.grad(loss, list(model.parameters()))
        same([g[index] for g in per_sample.values()], list(oracle))
    plain = torch.autograd.functional.hessian(
        lambda x: model(x)[0].square().sum(), x[0, :2, :1]
    )
    same(hessians, plain)


def test_module_is_whole_after_an_error_inside_a_transform():
    model = Fails()
    before = state_of(model)
    with pytest.raises(ZeroDivisionError):
        jaxtorch.vmap(
            lambda w: jaxtorch.functional_call(model, {"weight": w}, torch.ones(2))
        )(torch.randn(3, 2))
    after = state_of(model)
    assert all(after[k] is before[k] for k in before if k != ("", "seen"))


def test_buffers_are_written_per_example_under_vmap():
    model = nn.BatchNorm1d(2)
    buffers = {name: b.expand(3, *b.shape).clone() for name, b in model.named_buffers()}
    x = torch.randn(3, 5, 2)
    out = jaxtorch.vmap(
        lambda b, x: jaxtorch.functional_call(model, b, x),
    )(buffers, x)
    for index in range(3):
        oracle = nn.BatchNorm1d(2)
        same(out[index], oracle(x[index]))
        same(buffers["running_mean"][index], oracle.running_mean)
        same(buffers["running_var"][index], oracle.running_var)
        same(buffers["num_batches_tracked"][index], oracle.num_batches_tracked)
