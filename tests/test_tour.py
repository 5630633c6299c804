"""One tour over the public names, taken with jaxtorch and with torch.func."""

from functools import partial

import pytest
import torch
from torch import nn

import jaxtorch

# torch.func.linearize inserts its constants into a graph that does not hold them.
pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr")

X = torch.linspace(-2.0, 2.0, 5)
MATRIX = torch.sin(torch.arange(20.0)).reshape(4, 5)
BIAS = torch.tensor([0.5, -1.0, 0.25, 0.0])
BATCH = torch.cos(torch.arange(15.0)).reshape(3, 5)
TARGETS = torch.tensor([[0.0, 1.0, -1.0, 0.5]]).repeat(3, 1)


def layer(weight, bias, x):
    return torch.tanh(weight @ x + bias)


def loss(weight, bias, x, y):
    return (layer(weight, bias, x) - y).square().mean()


def energy(x):
    return x.sin().sum() * x.square().mean().exp()


def with_aux(x):
    return energy(x), {"angle": x.cos()}


def nested(tree):
    return {"product": tree["a"] * tree["b"].sum(), "square": tree["a"] ** 2}


def tree_of(x):
    return {"a": x, "b": x[:2]}


def gradients(api):
    yield api.grad(energy)(X)
    yield api.grad(api.grad(torch.sin))(X[1])
    yield api.grad(loss, argnums=(0, 1))(MATRIX, BIAS, BATCH[0], TARGETS[0])
    yield api.grad(loss, argnums=-2)(MATRIX, BIAS, BATCH[0], TARGETS[0])
    yield api.grad(with_aux, has_aux=True)(X)
    yield api.grad_and_value(energy)(X)
    yield api.grad_and_value(with_aux, has_aux=True)(X)
    yield api.grad(lambda t: nested(t)["product"].sum())(tree_of(X))


def batches(api):
    yield api.vmap(torch.dot)(BATCH, BATCH)
    yield api.vmap(layer, in_dims=(None, None, 0))(MATRIX, BIAS, BATCH)
    yield api.vmap(layer, in_dims=(None, None, 1), out_dims=1)(MATRIX, BIAS, BATCH.mT)
    yield api.vmap(nested, in_dims=({"a": 0, "b": None},))({"a": BATCH, "b": X})
    yield api.vmap(api.vmap(torch.mul, (0, None)), (None, 0))(X, BIAS)
    yield api.vmap(lambda x: (x.sum(), x * 2), out_dims=(0, 1))(BATCH)
    yield api.vmap(layer, (None, None, 0), chunk_size=2)(MATRIX, BIAS, BATCH)
    yield api.vmap(torch.mul, in_dims=(0, None))(BATCH, 2.0)


def per_sample(api):
    mapped = (None, None, 0, 0)
    yield api.vmap(api.grad(loss), mapped)(MATRIX, BIAS, BATCH, TARGETS)
    both = api.grad_and_value(loss, argnums=(0, 1))
    yield api.vmap(both, mapped)(MATRIX, BIAS, BATCH, TARGETS)


def products(api):
    out, pull = api.vjp(layer, MATRIX, BIAS, X)
    yield out, pull(torch.ones(4)), api.vmap(pull)(torch.eye(4))
    yield api.jvp(partial(layer, MATRIX, BIAS), (X,), (X.cos(),))
    yield api.jvp(with_aux, (X,), (X.cos(),), has_aux=True)
    out, push = api.linearize(partial(layer, MATRIX, BIAS), X)
    yield out, push(X.cos()), api.vmap(push)(torch.eye(5))
    out, pull, aux = api.vjp(with_aux, X, has_aux=True)
    yield out, pull(torch.ones(())), aux


def jacobians(api):
    for transform in (api.jacrev, api.jacfwd):
        yield transform(torch.sin)(X)
        yield transform(layer, argnums=(0, 2))(MATRIX, BIAS, X)
        yield transform(nested)(tree_of(X))
        yield transform(with_aux, has_aux=True)(X)
        yield api.vmap(transform(layer, 2), (None, None, 0))(MATRIX, BIAS, BATCH)
    yield api.jacrev(layer, 2, chunk_size=3)(MATRIX, BIAS, X)


def hessians(api):
    yield api.hessian(energy)(X)
    yield api.jacfwd(api.jacfwd(energy))(X)
    yield api.jacrev(api.jacrev(energy))(X)
    yield api.jacrev(api.jacfwd(energy))(X)
    yield api.hessian(loss, argnums=(1, 2))(MATRIX, BIAS, X, TARGETS[0])
    yield api.vmap(api.hessian(energy))(BATCH)
    yield api.jvp(api.grad(energy), (X,), (X.cos(),))
    yield api.vjp(api.grad(energy), X)[1](X.cos())


def modules(api):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(5, 3), nn.Tanh()) for _ in range(2)]
    params = dict(models[0].named_parameters())

    def call(params, x):
        return api.functional_call(models[0], params, x)

    yield api.grad(lambda p: call(p, BATCH).sum())(params)
    yield api.vmap(api.jacrev(call), (None, 0))(params, BATCH)
    stacked, _ = api.stack_module_state(models)
    yield api.vmap(call, (0, None))(stacked, BATCH)


PARTS = [gradients, batches, per_sample, products, jacobians, hessians, modules]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_tour_is_the_same(part):
    stops = list(part(jaxtorch))
    peers = list(part(torch.func))
    assert len(stops) > 1
    for own, peer in zip(stops, peers, strict=True):
        torch.testing.assert_close(own, peer)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_tour_uses_public_names_only(part):
    class Listed:
        def __getattr__(self, name):
            assert name in jaxtorch.__all__
            return getattr(jaxtorch, name)

    list(part(Listed()))
