"""Every example runs in its smallest size; each checks its own results."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "dp_resnet",
    "ensembling",
    "jacobians_hessians",
    "lennard_jones",
    "maml_regression",
    "neural_tangent_kernel",
    "parallel_train",
    "per_sample_gradients",
    "whirlwind_tour",
]


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name, capsys):
    example = importlib.import_module(f"examples.{name}")
    assert f"python -m examples.{name}" in example.__doc__
    example.main(["--tiny"])
    assert ": equal" in capsys.readouterr().out


def test_example_runs_as_a_command():
    command = [sys.executable, "-m", "examples.whirlwind_tour", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "per-sample gradients: equal" in done.stdout
