"""The benchmarks compute what they should; the report says what was measured."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import harness, report
from benchmarks.__main__ import run
from benchmarks.account import account, words
from benchmarks.causes import CAUSES, UNKNOWN
from benchmarks.harness import Contender, Workload

WORKLOADS = [
    pytest.param(workload, id=workload.name)
    for module in harness.questions().values()
    for workload in module.workloads("tiny")
]
RESULTS = report.read_results()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_contender_is_right(workload: Workload) -> None:
    outcomes = harness.prepare(workload, compiling=False)
    expected = (harness.ABSENT, harness.NOT_COMPILED)
    reasons = {name: own.left_out for name, own in outcomes.items()}
    wrong = {n: why for n, why in reasons.items() if why and not why.endswith(expected)}
    assert not wrong
    assert not reasons["jaxtorch"]
    assert not reasons["jaxtorch jit"]


@pytest.mark.parametrize("size", harness.SIZES)
def test_names_are_unique(size: str) -> None:
    modules = harness.questions().values()
    names = [workload.name for module in modules for workload in module.workloads(size)]
    assert len(names) == len(set(names))


def doubling() -> Workload:
    """Return a workload with contenders that are right, wrong, broken and absent."""

    def broken(x: torch.Tensor) -> Any:
        raise RuntimeError("no way")

    return Workload(
        "doubling",
        "twice a vector",
        lambda: (np.ones(3, dtype=np.float32),),
        {
            "right": Contender(lambda x: lambda: 2 * x),
            "wrong": Contender(lambda x: lambda: 2 * x + 1e-3),
            "misshapen": Contender(lambda x: lambda: 2 * x[:1]),
            "not a number": Contender(lambda x: lambda: x * float("nan")),
            "broken": Contender(broken),
            "absent": Contender(lambda x: lambda: x, needs="a_package_that_is_not"),
            "slow": Contender(lambda x: lambda: x, compiles=True),
        },
        reference=lambda x: lambda: x + x,
    )


def test_only_what_is_right_is_timed() -> None:
    outcomes = harness.measure(doubling(), "cpu", 3, 0.01, False)
    assert [name for name, own in outcomes.items() if own.timing] == ["right"]
    reasons = {name: own.left_out for name, own in outcomes.items()}
    assert reasons["right"] == ""
    assert reasons["wrong"] == "wrong: its error is 5.0e-04"
    assert reasons["misshapen"] == "wrong: its error is inf"
    assert reasons["not a number"] == "wrong: its error is inf"
    assert reasons["broken"] == "RuntimeError: no way"
    assert reasons["absent"].endswith(harness.ABSENT)
    assert reasons["slow"] == harness.NOT_COMPILED


def test_peak_memory_counts_what_lives_at_once() -> None:
    x = torch.ones(1000)

    def call() -> torch.Tensor:
        first = x * x
        second = first * x  # both are alive here: 8000 bytes
        del first
        return second + x  # and here second and the result

    call()
    assert harness.peak_bytes(call) == 8000


def test_a_run_records_what_was_measured_in_turns() -> None:
    entry = run("overhead", "overhead-vmap-1", "tiny")
    assert entry is not None
    assert entry["sweep"] == ["operations in vmap", 1]
    own = entry["contenders"]["jaxtorch jit"]
    assert own["rounds"] == 3
    assert 0.0 < own["low"] <= own["median"] <= own["high"] < 0.1
    assert own["error"] < 1e-6


def test_fit_recovers_a_line() -> None:
    lengths = (1, 10, 50)
    fixed, per_op = report.fit(lengths, [5.0 + 2.0 * n for n in lengths])
    assert fixed == pytest.approx(5.0)
    assert per_op == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 us"), (1.5e-6, "1.50 us"), (0.0123, "12.3 ms"), (123.4, "123 s")],
)
def test_times_have_three_digits(value: float, text: str) -> None:
    assert report.seconds(value) == text


def test_readme_says_what_was_measured() -> None:
    readme = report.README.read_text()
    assert report.with_table(readme, report.readme_table(RESULTS["cpu"])) == readme


def test_report_says_what_was_measured() -> None:
    written = report.RESULTS.joinpath("REPORT.md").read_text()
    assert written == report.report(RESULTS)


def test_shares_of_a_call_name_its_dearest_operation() -> None:
    x = torch.ones(300, 300)
    shares = account(lambda: (x @ x) + 1.0)
    assert next(iter(shares)) in {"mm", "addmm"}
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.2)
    assert words({"mm": 0.751, "add": 0.2}) == "mm 75 %, add 20 %"


def test_a_row_without_a_cause_says_so() -> None:
    jit = {"median": 2.0, "shares": {"mm": 0.5}}
    entry = {"contenders": {"jaxtorch jit": jit, "torch.func": {"median": 1.0}}}
    row = report.slower({"new": entry}).splitlines()[-1]
    assert row == f"| new | torch.func | 2.00 | {UNKNOWN} | mm 50 % |"


def test_every_cause_is_of_a_workload() -> None:
    modules = harness.questions().values()
    names = {workload.name for m in modules for workload in m.workloads("cpu")}
    assert set(CAUSES) <= names


def test_every_headline_is_a_workload() -> None:
    modules = harness.questions().values()
    names = {w.name for module in modules for w in module.workloads("cpu")}
    assert set(report.HEADLINES) <= names
    assert set(report.CAUSES) <= names
