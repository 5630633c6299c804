"""ResNet-18, narrow, with group normalization and with batch normalization."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jaxtorch
from tests.models.checks import (
    CHECKS,
    Params,
    Problem,
    compare,
    freeze,
    gradient_by_autograd,
    leaves_of,
)

WIDTH = 4
CLASSES = 3
SEVERAL = 33
Norm = Callable[[int], nn.Module]


class Block(nn.Module):
    """Two convolutions beside the identity, or beside a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            norm(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            norm(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = nn.Sequential(conv, norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def resnet18(norm: Norm) -> nn.Module:
    """Build the network with two blocks in each of its four stages."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False),
        norm(WIDTH),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = WIDTH
    for stage in range(4):
        outputs = WIDTH * 2**stage
        layers += [
            Block(inputs, outputs, 1 if stage == 0 else 2, norm),
            Block(outputs, outputs, 1, norm),
        ]
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return freeze(nn.Sequential(*layers))


def images(module: nn.Module, count: int = 3, size: int = 16) -> Problem:
    """Draw images with labels."""
    inputs = torch.randn(count, 3, size, size, dtype=torch.float64)
    targets = torch.randint(CLASSES, (count,))
    return Problem(module, inputs, targets, F.cross_entropy, inputs[:1])


def group_norm(channels: int) -> nn.Module:
    """Normalize in groups of four channels."""
    return nn.GroupNorm(channels // 4, channels)


@pytest.mark.parametrize("check", CHECKS)
def test_group_norm(check: Callable[[Problem], None]) -> None:
    check(images(resnet18(group_norm)))


@pytest.mark.parametrize("check", CHECKS)
def test_batch_norm_that_evaluates(check: Callable[[Problem], None]) -> None:
    module = resnet18(nn.BatchNorm2d)
    with torch.no_grad():
        module(torch.randn(8, 3, 16, 16, dtype=torch.float64))
    check(images(module.eval()))


class Training(Problem):
    """Each call starts from copies of the buffers, made inside the transforms."""

    def copies(self) -> Params:
        """Copy the buffers."""
        return {name: value.clone() for name, value in self.module.named_buffers()}

    def output(self, params: Params, x: Tensor) -> Any:
        return jaxtorch.functional_call(self.module, (params, self.copies()), x)

    def plain_output(self, params: Params, x: Tensor) -> Any:
        return torch.func.functional_call(self.module, (params, self.copies()), x)


@pytest.mark.parametrize("check", CHECKS)
def test_batch_norm_that_trains_on_copies(check: Callable[[Problem], None]) -> None:
    """The images are so large that one has several places in the last stage."""
    module = resnet18(nn.BatchNorm2d)
    inputs = torch.randn(3, 3, SEVERAL, SEVERAL, dtype=torch.float64)
    targets = torch.randint(CLASSES, (3,))
    kept = {name: value.clone() for name, value in module.named_buffers()}
    check(Training(module, inputs, targets, F.cross_entropy, inputs[:1]))
    compare(dict(module.named_buffers()), kept)


def training() -> tuple[nn.Module, Params, Params, Tensor, Tensor]:
    """Build a network that updates its running statistics, and groups of images."""
    module = resnet18(nn.BatchNorm2d)
    params = {k: v.detach() for k, v in module.named_parameters()}
    buffers = {k: v.clone() for k, v in module.named_buffers()}
    inputs = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    return module, params, buffers, inputs, torch.randint(CLASSES, (2, 4))


def expected_step(
    module: nn.Module, params: Params, buffers: Params, x: Tensor, y: Tensor
) -> tuple[Params, Params]:
    """Return the gradient and the new buffers by torch.autograd."""
    leaves, own = leaves_of(params), {k: v.clone() for k, v in buffers.items()}
    output = torch.func.functional_call(module, (leaves, own), (x,))
    return gradient_by_autograd(F.cross_entropy(output, y), leaves), own


def test_batch_norm_that_trains() -> None:
    module, params, buffers, inputs, targets = training()
    x, y = inputs[0], targets[0]
    grads, new = expected_step(module, params, buffers, x, y)
    kept = {k: v.clone() for k, v in module.named_buffers()}

    def loss(params: Params, buffers: Params) -> tuple[Tensor, Params]:
        own = dict(buffers)
        output = jaxtorch.functional_call(module, (params, own), (x,))
        return F.cross_entropy(output, y), own

    found, own = jaxtorch.grad(loss, has_aux=True)(params, buffers)
    compare(found, grads)
    compare(own, new)
    compare(dict(module.named_buffers()), kept)


@pytest.mark.parametrize("jit", [False, True])
def test_batch_norm_that_trains_on_groups(jit: bool) -> None:
    """Each group of images has its own statistics, new ones and running ones."""
    module, params, buffers, inputs, targets = training()
    steps = [
        expected_step(module, params, buffers, x, y)
        for x, y in zip(inputs, targets, strict=True)
    ]

    def loss(
        params: Params, buffers: Params, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Params]:
        own = dict(buffers)
        output = jaxtorch.functional_call(module, (params, own), (x,))
        return F.cross_entropy(output, y), own

    gradient = jaxtorch.grad(loss, has_aux=True)
    step = jaxtorch.vmap(gradient, in_dims=(None, 0, 0, 0))
    several = {k: torch.stack([v, v]) for k, v in buffers.items()}
    found, own = (jaxtorch.jit(step) if jit else step)(params, several, inputs, targets)
    for ours, theirs in zip((found, own), zip(*steps, strict=True), strict=True):
        compare(ours, {k: torch.stack([s[k] for s in theirs]) for k in theirs[0]})
