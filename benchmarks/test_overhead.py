"""What a transform costs beside the work itself: chains of tiny operations.

The time of a call is ``fixed + per_op * operations``; both are read off chains of 1, 10
and 50 operations by least squares. ``python -m benchmarks.test_overhead`` prints them
for jaxtorch and torch.func, ``pytest benchmarks/test_overhead.py`` keeps a record.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.func
from torch import Tensor

import jaxtorch
from benchmarks.timing import (
    Call,
    Timing,
    format_table,
    machine,
    time_in_turns,
    write_csv,
)

LENGTHS = (1, 10, 50)
LIBRARIES: dict[str, Any] = {"jaxtorch": jaxtorch, "torch.func": torch.func}
ROWS = torch.linspace(-1.0, 1.0, 24).reshape(8, 3)
SCALARS = torch.linspace(-1.0, 1.0, 8)


def chain(length: int) -> Callable[[Tensor], Tensor]:
    """Return a function that runs ``length`` tiny operations in a row."""

    def run(x: Tensor) -> Tensor:
        for index in range(length):
            x = x * x if index % 2 else torch.sin(x)
        return x

    return run


def call_vmap(library: Any, func: Callable[[Tensor], Tensor]) -> Call:
    """Map over 8 rows of 3."""
    mapped = library.vmap(func)
    return lambda: mapped(ROWS)


def call_grad(library: Any, func: Callable[[Tensor], Tensor]) -> Call:
    """Differentiate at one number."""
    gradient = library.grad(func)
    point = SCALARS[0]
    return lambda: gradient(point)


def call_vmap_grad(library: Any, func: Callable[[Tensor], Tensor]) -> Call:
    """Differentiate at 8 numbers at once."""
    gradients = library.vmap(library.grad(func))
    return lambda: gradients(SCALARS)


def call_jvp(library: Any, func: Callable[[Tensor], Tensor]) -> Call:
    """Push one tangent forward."""
    return lambda: library.jvp(func, (ROWS,), (ROWS,))


def call_jacrev(library: Any, func: Callable[[Tensor], Tensor]) -> Call:
    """Make one 3 x 3 Jacobian."""
    jacobian = library.jacrev(func)
    point = ROWS[0]
    return lambda: jacobian(point)


def call_vmap_hessian(library: Any, func: Callable[[Tensor], Tensor]) -> Call:
    """Make 8 Hessians of 3 x 3."""
    hessians = library.vmap(library.hessian(lambda x: func(x).sum()))
    return lambda: hessians(ROWS)


TRANSFORMS: dict[str, Callable[[Any, Callable[[Tensor], Tensor]], Call]] = {
    "vmap": call_vmap,
    "grad": call_grad,
    "vmap(grad)": call_vmap_grad,
    "jvp": call_jvp,
    "jacrev": call_jacrev,
    "vmap(hessian)": call_vmap_hessian,
}


def compare(transform: str, length: int, rounds: int = 15) -> dict[str, Timing]:
    """Check that the libraries agree on a chain, then time them in turns."""
    make = TRANSFORMS[transform]
    calls = {name: make(lib, chain(length)) for name, lib in LIBRARIES.items()}
    torch.testing.assert_close(calls["jaxtorch"](), calls["torch.func"]())
    return time_in_turns(calls, rounds=rounds)


def fit(lengths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the fixed cost and the cost per operation by least squares.

    Each time is weighted by its inverse square, for a timing's error is relative.
    """
    weights = [1.0 / s**2 for s in seconds]
    total = sum(weights)
    mean_length = sum(w * n for w, n in zip(weights, lengths, strict=True)) / total
    mean_seconds = sum(w * s for w, s in zip(weights, seconds, strict=True)) / total
    rows = list(zip(weights, lengths, seconds, strict=True))
    covariance = sum(w * (n - mean_length) * (s - mean_seconds) for w, n, s in rows)
    slope = covariance / sum(w * (n - mean_length) ** 2 for w, n, _ in rows)
    return mean_seconds - slope * mean_length, slope


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Time on one thread: the operations are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_overhead(transform: str, length: int, benchmark: Any) -> None:
    """Record jaxtorch's time, and beside it the ratio to torch.func."""
    timings = compare(transform, length, rounds=5)
    own, peer = timings["jaxtorch"].best, timings["torch.func"].best
    benchmark.extra_info["ratio to torch.func"] = own / peer
    benchmark(TRANSFORMS[transform](jaxtorch, chain(length)))


def test_fit_recovers_a_line() -> None:
    """The fit finds the two numbers that made the times."""
    fixed, per_op = fit(LENGTHS, [5.0 + 2.0 * n for n in LENGTHS])
    assert fixed == pytest.approx(5.0)
    assert per_op == pytest.approx(2.0)


def main() -> None:
    """Print fixed cost and cost per operation of every transform."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, help="write all quantiles to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    timings: dict[str, dict[str, Timing]] = {}
    rows = []
    for transform in TRANSFORMS:
        cells: list[str] = []
        for length in LENGTHS:
            own = compare(transform, length, options.rounds)
            timings[f"{transform} x {length}"] = own
        costs = {}
        for name in LIBRARIES:
            best = [timings[f"{transform} x {n}"][name].best * 1e6 for n in LENGTHS]
            costs[name] = fit(LENGTHS, best)
        for part in (0, 1):
            ours, theirs = (costs[name][part] for name in LIBRARIES)
            cells += [f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"]
        rows.append([transform, *cells])
    print(machine())
    print("microseconds; ratio is jaxtorch / torch.func, below 1 jaxtorch is faster\n")
    header = ["", "fixed jt", "torch.func", "ratio", "per op jt", "torch.func", "ratio"]
    print(format_table(header, rows))
    if options.csv:
        write_csv(options.csv, timings)


if __name__ == "__main__":
    main()
