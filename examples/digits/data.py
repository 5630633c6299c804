"""The UCI digits as tensors, with some training labels made wrong on purpose."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor


@dataclass(frozen=True)
class Digits:
    """A split of the digits.

    Attributes:
        images: training images in [0, 1], shape [n, 1, 8, 8].
        labels: their labels, some of them wrong, shape [n].
        wrong: which of the labels are wrong, shape [n].
        test_images: images held out, shape [m, 1, 8, 8].
        test_labels: their labels, shape [m].
    """

    images: Tensor
    labels: Tensor
    wrong: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(train: int, test: int, wrong: int, generator: torch.Generator) -> Digits:
    """Shuffle and split the digits; ``wrong`` training labels become another digit."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=generator)[: train + test]
    images = torch.from_numpy(bunch.images).float().unsqueeze(1)[order] / 16.0
    labels = torch.from_numpy(bunch.target).long()[order]
    own = labels[:train].clone()
    chosen = torch.randperm(train, generator=generator)[:wrong]
    shift = torch.randint(1, 10, (wrong,), generator=generator)
    own[chosen] = (own[chosen] + shift) % 10
    return Digits(
        images=images[:train],
        labels=own,
        wrong=own != labels[:train],
        test_images=images[train:],
        test_labels=labels[train:],
    )
