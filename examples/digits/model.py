"""A convolutional classifier as a function of its parameters, and its training."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

import jaxtorch
from examples.digits.data import Digits

Params = dict[str, Tensor]
SHAPES = {
    "conv1.weight": (8, 1, 3, 3),
    "conv1.bias": (8,),
    "conv2.weight": (16, 8, 3, 3),
    "conv2.bias": (16,),
    "linear.weight": (10, 64),
    "linear.bias": (10,),
}


def initial_params(generator: torch.Generator) -> Params:
    """Draw weights of variance 2 / fan-in; biases are zero."""
    params = {}
    for name, shape in SHAPES.items():
        fan_in = torch.Size(shape[1:]).numel()
        scale = (2.0 / fan_in) ** 0.5 if name.endswith("weight") else 0.0
        params[name] = torch.randn(shape, generator=generator) * scale
    return params


def features(params: Params, images: Tensor) -> Tensor:
    """Return what the last layer sees, shape [n, 64]."""
    x = F.conv2d(images, params["conv1.weight"], params["conv1.bias"], padding=1)
    x = F.max_pool2d(x.relu(), 2)
    x = F.conv2d(x, params["conv2.weight"], params["conv2.bias"], padding=1)
    return F.max_pool2d(x.relu(), 2).flatten(1)


def logits(params: Params, images: Tensor) -> Tensor:
    """Return the scores of the ten digits, shape [n, 10]."""
    x = features(params, images)
    return F.linear(x, params["linear.weight"], params["linear.bias"])


def batch_loss(params: Params, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of a batch."""
    return F.cross_entropy(logits(params, images), labels)


def sample_loss(params: Params, image: Tensor, label: Tensor) -> Tensor:
    """Return the cross entropy of one image of shape [1, 8, 8]."""
    return batch_loss(params, image.unsqueeze(0), label.unsqueeze(0))


def accuracy(params: Params, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose highest score is at their label."""
    return (logits(params, images).argmax(1) == labels).float().mean().item()


def train(
    params: Params,
    digits: Digits,
    epochs: Iterable[int],
    generator: torch.Generator,
    rate: float = 3e-3,
    batch: int = 64,
) -> tuple[Params, list[tuple[float, float]]]:
    """Run Adam; returns the parameters and (loss, test accuracy) of every epoch."""
    step = jaxtorch.value_and_grad(batch_loss)
    update = adam(params, rate)
    history = []
    for _ in epochs:
        losses = []
        for chosen in torch.randperm(len(digits.labels), generator=generator).split(
            batch
        ):
            loss, grads = step(params, digits.images[chosen], digits.labels[chosen])
            params = update(params, grads)
            losses.append(loss.item())
        score = accuracy(params, digits.test_images, digits.test_labels)
        history.append((sum(losses) / len(losses), score))
    return params, history


def adam(params: Params, rate: float) -> Callable[[Params, Params], Params]:
    """Return the update of Adam (Kingma and Ba, 2015) with its usual constants."""
    first = {name: torch.zeros_like(p) for name, p in params.items()}
    second = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0

    def update(params: Params, grads: Params) -> Params:
        nonlocal count
        count += 1
        new = {}
        for name, grad in grads.items():
            first[name].lerp_(grad, 0.1)
            second[name].lerp_(grad * grad, 0.001)
            mean = first[name] / (1 - 0.9**count)
            spread = (second[name] / (1 - 0.999**count)).sqrt()
            new[name] = params[name] - rate * mean / (spread + 1e-8)
        return new

    return update
