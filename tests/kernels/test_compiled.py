"""Machine code of every kernel for three targets, made without a GPU."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

from benchmarks.kernels import FAMILIES

FOLDER = Path(__file__).with_name("compiled")
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}


@functools.cache
def compiled(family: str) -> dict[str, dict[str, int]]:
    """Compile a family in a process whose Triton compiles."""
    env = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.kernels.compiled", family]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    own: dict[str, Any] = json.loads(run.stdout)["kernels"]
    return own


def builds(family: str, what: str) -> list[str]:
    """Return the labels of the builds of which something is asked."""
    return [b.label for b in FAMILIES[family].BUILDS if getattr(b, what)]


def rows(family: str, labels: list[str]) -> dict[str, dict[str, int]]:
    """Return the rows of some builds."""
    return {k: r for k, r in compiled(family).items() if k.split(" / ")[1] in labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_spilled(family):
    assert not {name: r for name, r in compiled(family).items() if r["spilled"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_memory_suffices(family):
    for name, row in compiled(family).items():
        assert row["shared"] <= SHARED_LIMIT[name.split(" / ")[2]], name


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_take_sixteen_bytes(family):
    labels = builds(family, "streams")
    wrong = [n for n, r in rows(family, labels).items() if not r["load16"]]
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_products_run_on_tensor_cores(family):
    labels = builds(family, "multiplies")
    wrong = [n for n, r in rows(family, labels).items() if not r["tensor core"]]
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_holds(family):
    table = json.loads((FOLDER / f"{family}.json").read_text())
    if table["triton"] != triton.__version__:
        pytest.skip(f"the table is of triton {table['triton']}")
    command = f"python -m tests.kernels.compiled {family} --write"
    assert compiled(family) == table["kernels"], command
