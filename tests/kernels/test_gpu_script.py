"""The script for a GPU runs through on tiny tensors."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.kernels import FAMILIES

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
