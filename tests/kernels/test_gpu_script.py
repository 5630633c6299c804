"""The script for a GPU runs through on tiny tensors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import Report, table
from benchmarks.gpu_measure import Clock, OutOfTimeError, poisoned, relative_error
from benchmarks.kernels import FAMILIES
from benchmarks.kernels.__main__ import merged

ROOT = Path(__file__).parents[2]


def test_dry_run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", tmp_path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["complete"]
    cases = {case.name for family in FAMILIES.values() for case in family.CASES}
    assert set(result["kernels"]) == cases
    for rows in (result["kernels"], result["transforms"]):
        for name, row in rows.items():
            assert all(isinstance(value, float) for value in row.values()), name


def test_what_fails_is_a_row(tmp_path):
    report = Report(tmp_path / "new", complete=False)

    def fails():
        raise RuntimeError("no memory")

    report.add("kernels", "good", lambda: {"kernel": 1e-6, "ATen": 2e-6})
    report.add("kernels", "bad", fails)
    report.add("kernels", "good", lambda: {"config wide": 5e-7, "Inductor": "no"})
    rows = json.loads((tmp_path / "new" / "gpu.json").read_text())["kernels"]
    assert rows["bad"] == {"failed": "RuntimeError: no memory"}
    assert table(rows, "kernel") == [
        "good: 1.0 us; ATen 2.00x, config wide 0.50x, Inductor no",
        "bad: {'failed': 'RuntimeError: no memory'}",
    ]


def test_the_minutes_end_it(tmp_path):
    report = Report(tmp_path)
    with pytest.raises(OutOfTimeError):
        report.add("kernels", "k", Clock(0, dry=True).check)


def test_new_memory_is_poisoned():
    with poisoned():
        assert torch.empty(3).isnan().all()
    assert relative_error(torch.tensor([1.0, float("nan")]), torch.ones(2)) != 0.0
    assert not relative_error(torch.full((2,), float("nan")), torch.ones(2)) < 1


def test_runs_are_merged():
    run = "python -m benchmarks.gpu --slice "
    first = {"command": f"{run}a", "kernels": {"x": 1, "y": 2}, "transforms": {}}
    second = {
        "command": f"{run}b --slice c",
        "kernels": {"x": 3},
        "transforms": {"t": 4},
    }
    assert merged([first, second]) == {
        "command": f"{run}a --slice b --slice c",
        "kernels": {"x": 3, "y": 2},
        "transforms": {"t": 4},
    }
