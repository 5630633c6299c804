"""What the examples share: size options, comparisons, a clock, a small CNN."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def options(
    description: str | None, argv: Sequence[str] | None, **sizes: tuple[int, int]
) -> argparse.Namespace:
    """Parse ``--tiny`` and one option per size, given as (full, tiny)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    for name, (full, tiny) in sizes.items():
        parser.add_argument(
            f"--{name}", type=int, help=f"default {full}, with --tiny {tiny}"
        )
    args = parser.parse_args(argv)
    for name, (full, tiny) in sizes.items():
        if getattr(args, name) is None:
            setattr(args, name, tiny if args.tiny else full)
    return args


def agree(
    what: str, actual: Any, expected: Any, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Raise unless two results (tensors, or containers of them) are equal; say so."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
    print(f"  {what}: equal")


def seconds(func: Callable[[], Any], repeat: int = 3) -> float:
    """Return the shortest time of ``repeat`` calls, after one to warm up."""
    func()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        func()
        times.append(time.perf_counter() - start)
    return min(times)


class SmallCnn(nn.Module):
    """Two convolutions, a pooling and two linear layers: images to class scores.

    Takes ``[N, 1, size, size]``, returns ``[N, 10]``.
    """

    def __init__(self, size: int = 28, width: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3)
        self.conv2 = nn.Conv2d(width, 2 * width, 3)
        self.fc1 = nn.Linear(2 * width * (size // 2 - 2) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of the classes."""
        x = self.conv2(self.conv1(images).relu()).relu()
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        scores: Tensor = self.fc2(self.fc1(x).relu())
        return scores
