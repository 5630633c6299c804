"""``jit`` beside torch.func, torch.compile of the same code, and jax.jit.

``python -m benchmarks.test_jit`` prints times and first-call times; ``pytest
benchmarks/test_jit.py`` keeps a record. Results are compared before anything is timed;
jax is left out where it is not installed.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.func

import jaxtorch
from benchmarks.timing import (
    Call,
    Timing,
    format_table,
    machine,
    time_in_turns,
    write_csv,
)

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None


@dataclass(frozen=True)
class Library:
    """A namespace of transforms and one of functions, and how arrays are made."""

    transforms: Any
    functions: Any
    array: Callable[[np.ndarray], Any]


TORCH_FUNC = Library(torch.func, torch, torch.from_numpy)
JAXTORCH = Library(jaxtorch, torch, torch.from_numpy)
Build = Callable[[Library], tuple[Callable[..., Any], tuple[Any, ...]]]


def data(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random float32 numbers."""
    numbers = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(numbers, dtype=np.float32)


def tiny(lib: Library) -> Any:
    """vmap(grad) of five operations, batch 8."""

    def func(x: Any) -> Any:
        x = lib.functions.sin(x) * x
        return lib.functions.tanh(lib.functions.cos(x) * x)

    mapped = lib.transforms.vmap(lib.transforms.grad(func))
    return mapped, (lib.array(data(8)),)


def deep(lib: Library) -> Any:
    """vmap(grad) of 20 layers of width 16, batch 32."""
    weights = [lib.array(data(16, 16, seed=i) / 4) for i in range(20)]

    def func(x: Any) -> Any:
        for weight in weights:
            x = lib.functions.tanh(weight @ x)
        return x.sum()

    mapped = lib.transforms.vmap(lib.transforms.grad(func))
    return mapped, (lib.array(data(32, 16)),)


def toy_hessian(lib: Library) -> Any:
    """hessian of a toy function of 4 numbers."""
    weight = lib.array(data(4, 4))

    def func(x: Any) -> Any:
        return (lib.functions.tanh(weight @ x) ** 2).sum()

    return lib.transforms.hessian(func), (lib.array(data(4)),)


def layer_jacobian(lib: Library) -> Any:
    """jacrev of tanh(Wx + b), 256 -> 64."""
    weight, bias = lib.array(data(64, 256)), lib.array(data(64))

    def func(x: Any) -> Any:
        return lib.functions.tanh(weight @ x + bias)

    return lib.transforms.jacrev(func), (lib.array(data(256)),)


def layer_hessian(lib: Library) -> Any:
    """hessian of tanh(Wx + b), 64 -> 16."""
    weight, bias = lib.array(data(16, 64)), lib.array(data(16))

    def func(x: Any) -> Any:
        return lib.functions.tanh(weight @ x + bias)

    return lib.transforms.hessian(func), (lib.array(data(64)),)


def simple(lib: Library) -> Any:
    """grad of sum(sin(x)), 100 numbers."""
    gradient = lib.transforms.grad(lambda x: lib.functions.sin(x).sum())
    return gradient, (lib.array(data(100)),)


WORKLOADS: dict[str, Build] = {
    "vmap(grad), 5 ops": tiny,
    "vmap(grad), 20 layers": deep,
    "hessian, n = 4": toy_hessian,
    "jacrev, 256 -> 64": layer_jacobian,
    "hessian, 64 -> 16": layer_hessian,
    "grad of sum(sin)": simple,
}


def contenders(workload: str) -> tuple[dict[str, Call], dict[str, float]]:
    """Make all calls and check that they agree; returns first-call seconds as well."""
    build = WORKLOADS[workload]
    theirs, args = build(TORCH_FUNC)
    ours, _ = build(JAXTORCH)
    expected = np.asarray(build(TORCH_FUNC)[0](*args))
    staged = {
        "jaxtorch jit": jaxtorch.jit(ours),
        "jit inductor": jaxtorch.jit(ours, backend="inductor"),
        "torch.compile": torch.compile(build(TORCH_FUNC)[0]),
    }
    calls: dict[str, Call] = {
        "torch.func": lambda: theirs(*args),
        "jaxtorch": lambda: ours(*args),
    }
    for name, func in staged.items():
        calls[name] = lambda func=func: func(*args)
    if jax is not None:
        func, jax_args = build(Library(jax, jnp, jnp.asarray))
        compiled = jax.jit(func)
        calls["jax.jit"] = lambda: compiled(*jax_args).block_until_ready()
    first = {}
    for name, call in calls.items():
        start = time.perf_counter()
        result = call()
        first[name] = time.perf_counter() - start
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-3, atol=1e-4)
    return calls, first


@pytest.mark.parametrize("workload", WORKLOADS)
def test_jit(workload: str, benchmark: Any) -> None:
    """Record the time of a staged call, and beside it the ratios to the peers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls, first = contenders(workload)
    timings = time_in_turns(calls, rounds=5)
    own = timings["jaxtorch jit"].best
    for name, timing in timings.items():
        benchmark.extra_info[f"{name} / jit"] = timing.best / own
        benchmark.extra_info[f"{name}, first call in s"] = first[name]
    benchmark(calls["jaxtorch jit"])


def main() -> None:
    """Print the time of every workload by contender, and of the first calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, help="write all quantiles to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    timings: dict[str, dict[str, Timing]] = {}
    rows, first_rows = [], []
    names: list[str] = []
    for workload in WORKLOADS:
        calls, first = contenders(workload)
        names = list(calls)
        timing = timings[workload] = time_in_turns(calls, rounds=options.rounds)
        rows.append([workload, *(f"{timing[n].best * 1e6:.1f}" for n in names)])
        first_rows.append([workload, *(f"{first[n] * 1e3:.1f}" for n in names)])
    print(machine())
    print("\nmicroseconds per call\n")
    print(format_table(["", *names], rows))
    print("\nmilliseconds of the first call\n")
    print(format_table(["", *names], first_rows))
    if options.csv:
        write_csv(options.csv, timings)


if __name__ == "__main__":
    main()
