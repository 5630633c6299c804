"""How a call on a GPU is checked and timed. What is called is in ``gpu.py``."""

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import triton.testing
from torch import Tensor
from torch.utils import _pytree as pytree

Call = Callable[[], Any]
ROUNDS = 5
ROUND_SECONDS = 0.05


class OutOfTimeError(Exception):
    """The minutes are over."""


class Clock:
    """Says how long each call takes on the device, until the minutes are over."""

    def __init__(self, minutes: float, dry: bool) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.dry = dry

    def check(self) -> None:
        """Raise if the minutes are over."""
        if time.monotonic() > self.end:
            raise OutOfTimeError

    def alone(self, call: Call) -> float:
        """Return the median of single calls, each with a cold cache."""
        self.check()
        if self.dry:
            return once(call)
        bench = triton.testing.do_bench
        ms: float = bench(call, warmup=20, rep=80, return_mode="median")
        return ms / 1e3

    def in_a_row(self, call: Call, wait: Callable[[Any], Any]) -> float:
        """Return the median for a call of many, of which the last is waited for.

        So what the host does is hidden behind the device where it can be, and libraries
        with streams of their own are timed alike.
        """
        self.check()
        wait(call())
        first = once(lambda: wait(call()))
        if self.dry:
            return first
        count = max(1, min(1000, int(ROUND_SECONDS / first)))

        def several() -> None:
            for _ in range(count - 1):
                call()
            wait(call())

        return statistics.median(once(several) for _ in range(ROUNDS)) / count

    def all(
        self, calls: Mapping[str, Call], time_one: Callable[[Call], float]
    ) -> dict[str, Any]:
        """Time some calls; of one that fails, say why."""
        return {name: self.attempt(call, time_one) for name, call in calls.items()}

    def attempt(self, call: Call, time_one: Callable[[Call], float]) -> float | str:
        """Time a call; if it fails, return why."""
        try:
            return time_one(call)
        except OutOfTimeError:
            raise
        except Exception as error:
            return why(error)


def once(call: Call) -> float:
    """Return the seconds of one call by the clock on the wall."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def why(error: Exception) -> str:
    """Return an error in a line."""
    return f"{type(error).__name__}: {error}"[:200]


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def relative_error(out: Any, expected: Any) -> float:
    """Return the largest ``|out - expected| / |expected|``; NaN never passes."""
    errors = [0.0]
    for own, other in zip(leaves(out), leaves(expected), strict=True):
        scale = torch.linalg.vector_norm(other.double())
        distance = torch.linalg.vector_norm(own.double() - other.double())
        errors.append(float(distance / scale.clamp(min=1e-300)))
    return max(errors, key=lambda e: float("inf") if e != e else e)


def leaves(out: Any) -> tuple[Tensor, ...]:
    """Return the results of a call."""
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def widened(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments in float64."""
    own: tuple[Any, ...] = pytree.tree_map_only(
        Tensor, lambda t: t.double() if t.is_floating_point() else t, args
    )
    return own
