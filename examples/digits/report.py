"""Checks against torch.autograd, timings beside it, and the printed table."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One derivative: what it gave, and how it stands beside torch.autograd.

    Attributes:
        name: the derivative.
        finding: what it told about the classifier.
        error: the largest difference to torch.autograd, relative to the largest entry.
        seconds: the best time of jaxtorch.
        peer_seconds: the best time of torch.autograd for the same result.
    """

    name: str
    finding: str
    error: float
    seconds: float
    peer_seconds: float


def check(
    name: str,
    finding: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    rounds: int = 3,
) -> Row:
    """Compare two ways to one result, and time them in turns."""
    error = relative_error(ours(), theirs())
    seconds, peer_seconds = [], []
    for _ in range(rounds):
        seconds.append(duration(ours))
        peer_seconds.append(duration(theirs))
    return Row(name, finding, error, min(seconds), min(peer_seconds))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the largest difference over the largest entry of the reference."""
    if value.shape != reference.shape:
        raise ValueError(f"shapes differ: {value.shape} and {reference.shape}")
    return ((value - reference).abs().max() / reference.abs().max()).item()


def duration(call: Callable[[], Any]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def table(rows: list[Row]) -> str:
    """Lay out the rows for the terminal."""
    header = ("derivative", "max error", "jaxtorch", "autograd", "speed-up", "finding")
    cells = [
        (
            row.name,
            f"{row.error:.1e}",
            f"{row.seconds * 1e3:.2f} ms",
            f"{row.peer_seconds * 1e3:.2f} ms",
            f"{row.peer_seconds / row.seconds:.1f}x",
            row.finding,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (header, *cells)) for i in range(6)]
    lines = []
    for line in (header, tuple("-" * w for w in widths), *cells):
        middle = [c.rjust(w) for c, w in zip(line[1:5], widths[1:5], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *middle, line[5]]))
    return "\n".join(lines)
