"""Differentially private training (DP-SGD) of a ResNet-18 with group norm.

Every sample's gradient is clipped to a norm before the gradients are summed and noise
is added, so that no single image can show in the weights. ``vmap(grad_and_value)``
computes the per-sample gradients of the whole network. The images are made up: ten
patterns of the size of CIFAR-10, under noise.

    python -m examples.dp_resnet [--tiny] [--batch N] [--width C]
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.common import agree, options
from jaxtorch import functional_call, grad_and_value, vmap

Params = dict[str, Tensor]
CLIP = 1.0
NOISE = 0.1
RATE = 0.1


def norm(channels: int) -> nn.Module:
    """Group norm: unlike batch norm it doesn't mix the samples of a batch."""
    return nn.GroupNorm(min(32, channels // 2), channels)


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False),
            norm(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out_channels:
            self.shortcut.append(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            )
            self.shortcut.append(norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both paths, rectified."""
        return nn.functional.relu(self.layers(x) + self.shortcut(x), inplace=True)


def resnet18(width: int, classes: int = 10) -> nn.Module:
    """ResNet-18 as for ImageNet (He et al., 2015), with group norm."""
    widths = [width, 2 * width, 4 * width, 8 * width]
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, padding=3, bias=False),
        norm(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    channels = width
    for index, out_channels in enumerate(widths):
        layers.append(Block(channels, out_channels, 1 if index == 0 else 2))
        layers.append(Block(out_channels, out_channels, 1))
        channels = out_channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers)


def sample(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return images ``[N, 3, size, size]`` of ten patterns, and classes ``[N]``."""
    labels = torch.arange(count) % 10
    patterns = torch.randn(
        10, 3, size, size, generator=torch.Generator().manual_seed(1)
    )
    return patterns[labels] + 0.3 * torch.randn(count, 3, size, size), labels


def sample_loss(
    model: nn.Module, params: Params, image: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss of one sample, and its scores."""
    scores = functional_call(model, params, image.unsqueeze(0))
    return nn.functional.cross_entropy(scores, label.unsqueeze(0)), scores.squeeze(0)


def clipped_sum(
    model: nn.Module, params: Params, images: Tensor, labels: Tensor
) -> tuple[Params, Tensor, Tensor]:
    """Return the sum of the clipped gradients, the losses ``[B]`` and the scores."""
    compute = vmap(
        grad_and_value(
            lambda p, image, label: sample_loss(model, p, image, label), has_aux=True
        ),
        in_dims=(None, 0, 0),
    )
    grads, (losses, scores) = compute(params, images, labels)
    norms = torch.stack([g.flatten(1).norm(dim=-1) for g in grads.values()]).norm(dim=0)
    factors = (CLIP / (norms + 1e-6)).clamp(max=1.0)
    summed = {n: torch.einsum("b,b...->...", factors, g) for n, g in grads.items()}
    return summed, losses, scores


def clipped_sum_by_loop(model: nn.Module, images: Tensor, labels: Tensor) -> Params:
    """The same, a backward pass for each sample."""
    params = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = nn.functional.cross_entropy(model(image), label)
        grads = torch.autograd.grad(loss, list(params.values()))
        size = torch.cat([g.flatten() for g in grads]).norm()
        for name, own in zip(params, grads, strict=True):
            total[name] += own * (CLIP / (size + 1e-6)).clamp(max=1.0)
    return total


def private_step(params: Params, summed: Params, batch: int) -> Params:
    """Add noise to the sum, then descend."""
    return {
        name: p - RATE * (summed[name] + NOISE * CLIP * torch.randn_like(p)) / batch
        for name, p in params.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Check one clipped sum against a loop, then train."""
    args = options(
        __doc__, argv, batch=(16, 2), width=(64, 4), size=(32, 32), steps=(4, 1)
    )
    torch.manual_seed(0)
    model = resnet18(args.width)
    params: Params = {name: p.detach() for name, p in model.named_parameters()}
    count = sum(p.numel() for p in params.values())
    print(f"  {count} parameters, {len(params)} tensors")
    images, labels = sample(args.batch, args.size)
    for step in range(args.steps):
        summed, losses, scores = clipped_sum(model, params, images, labels)
        if step == 0:
            expected = clipped_sum_by_loop(model, images, labels)
            agree("clipped gradients", summed, expected, rtol=1e-3, atol=1e-4)
        right = (scores.argmax(-1) == labels).float().mean()
        print(f"  step {step}: loss {losses.mean():.3f}, right {right:.2f}")
        params = private_step(params, summed, args.batch)
        images, labels = sample(args.batch, args.size)


if __name__ == "__main__":
    main()
