"""torch.compile around the transforms and inside of them: it runs what it can't see."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import jaxtorch
from jaxtorch import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)


def energy(x: Tensor) -> Tensor:
    """Return a scalar."""
    return (x.sin() * x.flip(0)).sum()


TRANSFORMS: dict[str, Callable[[Tensor], Any]] = {
    "vmap of grad": vmap(grad(energy)),
    "jacrev": jacrev(torch.sin),
    "jacfwd": jacfwd(torch.sin),
    "hessian": lambda x: hessian(energy)(x[0]),
    "jvp": lambda x: jvp(torch.sin, (x,), (x,)),
    "vjp": lambda x: vjp(torch.sin, x)[1](x),
    "linearize": lambda x: jaxtorch.linearize(torch.sin, x)[1](x),
    "hvp": lambda x: jaxtorch.hvp(energy, (x[0],), (x[1],)),
    "laplacian": vmap(jaxtorch.laplacian(energy)),
    "jit": jaxtorch.jit(vmap(grad(energy))),
    "scan": lambda x: jaxtorch.scan(lambda c, y: (c + y, c * y), x[0], x),
    "checkpoint": lambda x: grad(jaxtorch.checkpoint(energy))(x[0]),
    "step": lambda x: x - 0.1 * vmap(grad(energy))(x * 2),
    "name in a closure": lambda x: vmap(lambda y: grad(energy)(y) * y)(x),
}


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    """Start with nothing compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_around_a_transform(name: str) -> None:
    func = TRANSFORMS[name]
    assert_close(torch.compile(func, backend="eager")(X), func(X))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own
def test_compiled_training_step() -> None:
    model = nn.Linear(3, 2)

    def loss(x: Tensor) -> Tensor:
        def one(row: Tensor) -> Tensor:
            return functional_call(model, dict(model.named_parameters()), row)

        return vmap(one)(x).square().mean()

    torch.compile(loss, backend="aot_eager")(X).backward()
    compiled = [p.grad for p in model.parameters()]
    expected = torch.autograd.grad(loss(X), list(model.parameters()))
    assert_close(compiled, list(expected))


def test_the_function_of_the_user_is_run_as_it_is() -> None:
    seen = []

    def func(x: Tensor) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return energy(x)

    torch.compile(grad(func), backend="eager")(X[0])
    torch.compile(lambda x: grad(func)(x), backend="eager")(X[0])
    assert seen == [False, False]


def test_gradient_of_a_compiled_function_is_not_taken_for_the_function() -> None:
    inner = torch.compile(torch.nn.Tanh(), backend="eager")
    func = jacrev(inner)
    assert not hasattr(func, "_torchdynamo_orig_callable")
    assert not hasattr(jacrev(nn.Linear(3, 1)), "_parameters")


def test_whole_graphs_are_refused_with_a_remedy() -> None:
    func = torch.compile(lambda x: vmap(torch.sin)(x), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"Use jaxtorch\.jit"):
        func(X)
