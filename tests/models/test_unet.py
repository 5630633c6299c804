"""A U-Net of one level: down, a bottom, up by a transposed convolution, and across."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.checks import CHECKS, Problem, freeze


def twice(inputs: int, outputs: int) -> nn.Module:
    """Build two convolutions."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(1, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding="same", padding_mode="reflect"),
        nn.SiLU(),
    )


class UNet(nn.Module):
    """One level of a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = twice(2, 3), twice(3, 4)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.across, self.head = twice(6, 3), nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x)
        up = self.up(self.bottom(F.max_pool2d(down, 2)))
        return self.head(self.across(torch.cat([down, up], 1)))


class Resizing(UNet):
    """The same, but resizing goes up where the transposed convolution did."""

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x)
        bottom = self.bottom(F.avg_pool2d(down, 2))[:, :3]
        up = F.interpolate(bottom, scale_factor=2.0, mode="bilinear")
        return self.head(self.across(torch.cat([down, up], 1)))


def images(kind: type[UNet]) -> Problem:
    """Draw images and masks."""
    inputs = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    masks = torch.randint(2, (3, 1, 6, 4)).double()
    loss = F.binary_cross_entropy_with_logits
    return Problem(freeze(kind()), inputs, masks, loss, inputs[:1])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", [UNet, Resizing])
def test_unet(kind: type[UNet], check: Callable[[Problem], None]) -> None:
    check(images(kind))
