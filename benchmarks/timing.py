"""Timing of contenders in turns, and the machine that it is done on. No workload."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
PACKAGES = (
    "torch",
    "jax",
    "opacus",
    "backpack-for-pytorch",
    "curvlinops-for-pytorch",
    "numpy",
)


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contender, one number per round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """The 20 % quantile."""
        return quantile(self.samples, 0.2)

    @property
    def high(self) -> float:
        """The 80 % quantile."""
        return quantile(self.samples, 0.8)


def quantile(samples: Sequence[float], share: float) -> float:
    """Return a quantile, linear between samples."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def time_in_turns(
    calls: Mapping[str, Call],
    *,
    rounds: int = 15,
    seconds: float = 1.5,
    round_seconds: float = 0.02,
    finish: Call | None = None,
) -> dict[str, Timing]:
    """Time every call in every round, one after the other, in turning order.

    Interleaving makes the contenders share whatever else the machine is doing, so that
    their ratio holds where the times themselves do not; nobody is always the first. A
    call that has used up its seconds sits out after its third round.

    Args:
        calls: the contenders by name.
        rounds: how often each has its turn.
        seconds: how long one contender is timed, at most, beyond three rounds.
        round_seconds: how long one turn lasts, roughly.
        finish: waits until what a call began is done, on an accelerator.

    Returns:
        The timing of each contender.
    """
    counts = {
        name: repeats_for(call, round_seconds, finish) for name, call in calls.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(rounds):
            gc.collect()
            for name in list(calls) if index % 2 else list(reversed(calls)):
                own, count = samples[name], counts[name]
                if len(own) < 3 or sum(own) * count < seconds:
                    own.append(seconds_per_call(calls[name], count, finish))
    finally:
        if was_collecting:
            gc.enable()
    return {name: Timing(tuple(own)) for name, own in samples.items()}


def repeats_for(call: Call, seconds: float, finish: Call | None = None) -> int:
    """Return how many calls fill about ``seconds``; also warms the call up."""
    once = seconds_per_call(call, 1, finish)
    if once < seconds:
        once = seconds_per_call(call, 3, finish)
    return max(1, int(seconds / max(once, 1e-9)))


def seconds_per_call(call: Call, count: int, finish: Call | None = None) -> float:
    """Return the mean duration of ``count`` calls."""
    if finish:
        finish()
    start = time.perf_counter()
    for _ in range(count):
        call()
    if finish:
        finish()
    return (time.perf_counter() - start) / count


def machine() -> str:
    """Name the machine and the versions that timings belong to."""
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor()}, torch on {torch.get_num_threads()} thread(s){device}; "
        f"Python {platform.python_version()}, {', '.join(versions())}"
    )


def versions() -> list[str]:
    """Return the names and versions of the peers that are installed."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()
