"""pytest's side of the benchmarks: options, one test per contender, the record."""

import fnmatch
from typing import Any

import pytest

from benchmarks import harness

ROUNDS = {"tiny": (3, 0.05), "cpu": (11, 1.0), "gpu": (11, 1.0)}


class Clock:
    """Stands where pytest-benchmark looks for the time: shows what was measured.

    pytest-benchmark times one function after the other; ours are timed in turns, and
    then played back to it, round by round, for its tables, files and comparisons.
    """

    now = 0.0


def read_clock() -> float:
    """Return the time of the play-back."""
    return Clock.now


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the benchmarks."""
    parser.addoption("--size", choices=harness.SIZES, default="tiny")
    parser.addoption("--only", default="*", help="names of workloads, with * and ?")
    parser.addoption("--no-compilers", action="store_true", help="see benchmarks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each contender of each workload."""
    if "entry" not in metafunc.fixturenames:
        return
    pattern = metafunc.config.getoption("only")
    entries = [
        pytest.param((workload, name), id=f"{workload.name}: {name}")
        for workload in metafunc.module.workloads(metafunc.config.getoption("size"))
        if fnmatch.fnmatchcase(workload.name, pattern)
        for name in workload.contenders
    ]
    metafunc.parametrize("entry", entries)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hide the peers' warnings; let pytest-benchmark read the play-back's clock."""
    for item in items:
        if "entry" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.benchmark(timer=read_clock))


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark: Any) -> Any:
    """Measure a contender (and, the first time, all it is compared with)."""
    size = request.config.getoption("size")
    device = "cuda" if size == "gpu" else "cpu"
    rounds, seconds = ROUNDS[size]
    compiling = size != "tiny" and not request.config.getoption("no_compilers")

    def run(entry: tuple[harness.Workload, str]) -> None:
        workload, name = entry
        outcomes = harness.measure(workload, device, rounds, seconds, compiling)
        own = outcomes[name]
        if own.left_out.endswith((harness.ABSENT, harness.NOT_COMPILED)):
            pytest.skip(own.left_out)
        if own.timing is None:
            pytest.fail(own.left_out)
        left_out = {n: o.left_out for n, o in outcomes.items() if o.left_out}
        benchmark.group = workload.name
        benchmark.extra_info.update(
            title=workload.title,
            sweep=workload.sweep,
            counted=workload.counted,
            contender=name,
            first_call=own.first_call,
            error=own.error,
            peak_bytes=own.peak,
            shares=own.shares,
            left_out=left_out,
        )
        play_back(benchmark, own.timing.samples)

    return run


def play_back(benchmark: Any, samples: tuple[float, ...]) -> None:
    """Give pytest-benchmark the seconds of each round."""
    rest = iter(samples)

    def advance() -> None:
        Clock.now = Clock.now + next(rest, 0.0)

    benchmark.pedantic(advance, rounds=len(samples))
