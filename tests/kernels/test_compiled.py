"""Machine code of every kernel for three targets, made without a GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import triton

from benchmarks.kernels import FAMILIES
from benchmarks.kernels.cases import Build

FOLDER = Path(__file__).with_name("compiled")
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}


def compiled(family: str) -> dict[str, dict[str, int]]:
    """Compile a family in a process whose Triton compiles."""
    env = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.kernels.compiled", family]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    own: dict[str, Any] = json.loads(run.stdout)["kernels"]
    return own


def faults(name: str, row: dict[str, int], build: Build) -> Iterator[str]:
    """Yield what is wrong with a kernel."""
    if row["spilled"]:
        yield f"{name} spills registers"
    if row["shared"] > SHARED_LIMIT[name.split(" / ")[2]]:
        yield f"{name} takes too much shared memory"
    if build.streams and not row["load16"]:
        yield f"{name} does not load 16 bytes at once"
    if build.multiplies and not row["tensor core"]:
        yield f"{name} does not use the tensor cores"


@pytest.mark.parametrize("family", FAMILIES)
def test_machine_code(family):
    """One test for each family, so that each is compiled by one process."""
    kernels = compiled(family)
    builds = {build.label: build for build in FAMILIES[family].BUILDS}
    own = [(name, row, builds[name.split(" / ")[1]]) for name, row in kernels.items()]
    assert not [fault for each in own for fault in faults(*each)]
    table = json.loads((FOLDER / f"{family}.json").read_text())
    if table["triton"] == triton.__version__:
        command = f"python -m tests.kernels.compiled {family} --write"
        assert kernels == table["kernels"], command


def test_faults_are_seen():
    row = {"spilled": 1, "shared": 1 << 20, "load16": 0, "tensor core": 0}
    build = Build("b", lambda: None, streams=True, multiplies=True)
    assert len(list(faults("k / b / sm_90", row, build))) == 4
