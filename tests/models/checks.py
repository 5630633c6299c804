"""What is checked of every model, against torch.autograd in float64. No model here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import jaxtorch

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A model with examples to put through it.

    Attributes:
        module: the model; it takes a batch of examples.
        inputs: the examples, stacked at dim 0.
        targets: a target for each example.
        criterion: takes the model's output for a batch and its targets.
        point: one batch that the output can be differentiated by: ``inputs[:1]``, or
            the embedding of it. The module takes it as well.
        peer: stands in for the module where torch.autograd can't differentiate that
            twice: the same mathematics with other operators.
    """

    module: nn.Module
    inputs: Tensor
    targets: Tensor
    criterion: Callable[[Any, Tensor], Tensor]
    point: Tensor
    peer: nn.Module | None = None

    @property
    def params(self) -> Params:
        """The parameters, none of them tracked by torch.autograd."""
        return {k: v.detach() for k, v in self.module.named_parameters()}

    def output(self, params: Params, x: Tensor) -> Any:
        """Return the module's output for a batch."""
        return jaxtorch.functional_call(self.module, params, x)

    def loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return self.criterion(self.output(params, x), y)

    def loss_of_one(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one example."""
        return self.loss(params, x.unsqueeze(0), y.unsqueeze(0))

    def plain_output(self, params: Params, x: Tensor) -> Any:
        """Return the module's output for a batch; nothing of jaxtorch runs."""
        module = self.module if self.peer is None else self.peer
        # PyTorch differentiates only this form of attention twice.
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.functional_call(module, params, x)

    def plain_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch; nothing of jaxtorch runs."""
        return self.criterion(self.plain_output(params, x), y)


def freeze(module: nn.Module) -> nn.Module:
    """Put a module in float64, with every parameter away from zero and one."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def leaves_of(params: Params) -> Params:
    """Return copies that torch.autograd tracks."""
    return {name: value.clone().requires_grad_() for name, value in params.items()}


def directions_like(params: Params) -> Params:
    """Draw a direction for each parameter."""
    return {name: torch.randn_like(value) for name, value in params.items()}


def compare(actual: Params, expected: Params, rtol: float = 1e-7) -> None:
    """Refuse dicts that differ, and those in which everything is zero."""
    assert actual.keys() == expected.keys()
    assert any(value.any() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name],
            value,
            rtol=rtol,
            atol=1e-9,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def gradient_by_autograd(loss: Tensor, leaves: Params, **options: Any) -> Params:
    """Return the gradients of a loss by ``torch.autograd``."""
    found = torch.autograd.grad(
        loss, list(leaves.values()), materialize_grads=True, **options
    )
    return dict(zip(leaves, found, strict=True))


def per_sample_by_loop(problem: Problem) -> Params:
    """Return the gradient of each example, one call of torch.autograd for each."""
    rows = []
    for i in range(len(problem.inputs)):
        leaves = leaves_of(problem.params)
        example = problem.inputs[i : i + 1], problem.targets[i : i + 1]
        rows.append(gradient_by_autograd(problem.plain_loss(leaves, *example), leaves))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def per_sample(problem: Problem, **options: Any) -> Callable[..., Params]:
    """Return the function that gives the gradient of each example."""
    gradient = jaxtorch.grad(problem.loss_of_one)
    return jaxtorch.vmap(gradient, in_dims=(None, 0, 0), **options)


def check_per_sample(problem: Problem) -> None:
    """``vmap(grad)`` equals the loop, and no operator runs once per example."""
    own = per_sample(problem, strict=True)
    found = own(problem.params, problem.inputs, problem.targets)
    compare(found, per_sample_by_loop(problem))


def check_hvp(problem: Problem) -> None:
    """``hvp`` equals double backward."""
    directions = directions_like(problem.params)

    def loss(params: Params) -> Tensor:
        return problem.loss(params, problem.inputs, problem.targets)

    value, product = jaxtorch.hvp(loss, (problem.params,), (directions,))
    leaves = leaves_of(problem.params)
    expected = problem.plain_loss(leaves, problem.inputs, problem.targets)
    torch.testing.assert_close(value, expected.detach())
    first = gradient_by_autograd(expected, leaves, create_graph=True)
    slope = torch.stack([(first[k] * directions[k]).sum() for k in first]).sum()
    compare(product, gradient_by_autograd(slope, leaves))


def check_jvp(problem: Problem) -> None:
    """``jvp`` equals the derivative of ``J^T w`` by ``w``, by torch.autograd."""
    directions = directions_like(problem.params)

    def output(params: Params) -> Tensor:
        return problem.output(params, problem.inputs)

    value, pushed = jaxtorch.jvp(output, (problem.params,), (directions,))
    leaves = leaves_of(problem.params)
    expected = problem.plain_output(leaves, problem.inputs)
    torch.testing.assert_close(value, expected.detach())
    weights = torch.zeros_like(expected, requires_grad=True)
    pulled = gradient_by_autograd((expected * weights).sum(), leaves, create_graph=True)
    slope = torch.stack([(pulled[k] * directions[k]).sum() for k in pulled]).sum()
    compare({"output": pushed}, {"output": torch.autograd.grad(slope, weights)[0]})


def check_jacobian(problem: Problem) -> None:
    """Both Jacobians by the input equal torch.autograd's, one row at a time."""
    leaf = problem.point.clone().requires_grad_()
    output = problem.plain_output(problem.params, leaf)
    rows = [
        torch.autograd.grad(entry, leaf, retain_graph=True, materialize_grads=True)[0]
        for entry in output.flatten()
    ]
    expected = torch.stack(rows).reshape(*output.shape, *leaf.shape)
    for transform in (jaxtorch.jacrev, jaxtorch.jacfwd):
        found = transform(problem.output, argnums=1)(problem.params, problem.point)
        compare({"jacobian": found}, {"jacobian": expected})


def check_jit(problem: Problem) -> None:
    """The gradients of all examples are the same from one optimized graph."""
    args = problem.params, problem.inputs, problem.targets
    own = per_sample(problem)
    compare(jaxtorch.jit(own)(*args), own(*args))


CHECKS = (check_per_sample, check_hvp, check_jvp, check_jacobian, check_jit)
