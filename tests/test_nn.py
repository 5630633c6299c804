"""Modules as functions: jaxtorch.nn against plain module calls and torch.func."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import jaxtorch
from jaxtorch.errors import JaxtorchError


def same(actual, expected):
    torch.testing.assert_close(actual, expected)


def state_of(module):
    """Every slot of a module and the very object in it."""
    return {
        (path, key): value
        for path, child in module.named_modules(remove_duplicate=False)
        for table in (child._parameters, child._buffers, child.__dict__)
        for key, value in table.items()
        if value is None or isinstance(value, torch.Tensor)
    }


class Mlp(nn.Module):
    """Two layers around a batch norm."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, 2)

    def forward(self, x, *, scale=1.0):
        return self.second(self.norm(self.first(x)).tanh()) * scale


class Counter(nn.Module):
    """Assigns a new tensor to its buffer in every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return x * self.count


class Tied(nn.Module):
    """Two names, one parameter."""

    def __init__(self):
        super().__init__()
        self.left = nn.Parameter(torch.ones(2))
        self.right = self.left

    def forward(self, x):
        return x * self.left + self.right


class Fails(nn.Module):
    """Writes to a buffer, then raises."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen = self.seen + x
        raise ZeroDivisionError


# functional_call


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


# transforms through a module


def mse(model, params, x, y):
    return nn.functional.mse_loss(jaxtorch.functional_call(model, params, x), y)


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


def frozen(module):
    return module.requires_grad_(False)


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
