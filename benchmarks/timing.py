"""Timing of contenders in turns, and the tables and CSV files of it. No workload."""

import csv
import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contender: quantiles over the rounds.

    Attributes:
        low: the 20 % quantile.
        median: the median.
        high: the 80 % quantile.
        best: the fastest round, which other load on the machine disturbs least.
    """

    low: float
    median: float
    high: float
    best: float


def time_in_turns(
    calls: Mapping[str, Call], *, rounds: int = 15, round_seconds: float = 0.02
) -> dict[str, Timing]:
    """Time every call in every round, one after the other, in turning order.

    Interleaving makes the contenders share whatever else the machine is doing, so that
    their ratio holds where the times themselves do not; nobody is always the first.

    Args:
        calls: the contenders by name.
        rounds: how often each has its turn.
        round_seconds: how long one turn lasts, roughly.

    Returns:
        The timing of each contender.
    """
    counts = {name: repeats_for(call, round_seconds) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(rounds):
            gc.collect()
            order = list(calls) if index % 2 else list(reversed(calls))
            for name in order:
                samples[name].append(seconds_per_call(calls[name], counts[name]))
    finally:
        if was_collecting:
            gc.enable()
    return {name: summarize(own) for name, own in samples.items()}


def repeats_for(call: Call, seconds: float) -> int:
    """Return how many calls fill about ``seconds``; also warms the call up."""
    for _ in range(2):
        call()
    once = seconds_per_call(call, 3)
    return max(1, int(seconds / max(once, 1e-9)))


def seconds_per_call(call: Call, count: int) -> float:
    """Return the mean duration of ``count`` calls."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def summarize(samples: Sequence[float]) -> Timing:
    """Return the quantiles of a contender's rounds."""
    if len(samples) == 1:
        return Timing(*[samples[0]] * 4)
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return Timing(fifths[0], statistics.median(samples), fifths[3], min(samples))


def machine() -> str:
    """Name the machine and the versions that the timings belong to."""
    return (
        f"{processor()}, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns; the first is aligned to the left."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_csv(path: Path, timings: Mapping[str, Mapping[str, Timing]]) -> None:
    """Write the quantiles of ``timings[workload][contender]``, and the versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ["low_s", "median_s", "high_s", "best_s"]
        writer.writerow(["workload", "contender", *columns, "machine"])
        for workload, contenders in timings.items():
            for name, timing in contenders.items():
                quantiles = (timing.low, timing.median, timing.high, timing.best)
                cells = [f"{value:.3e}" for value in quantiles]
                writer.writerow([workload, name, *cells, machine()])
