"""Machine code of every kernel for three targets, made without a GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module as module_of
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import triton

from benchmarks.kernels import FAMILIES
from benchmarks.kernels.cases import Build
from jaxtorch import kernels as package
from jaxtorch.kernels import attention_tiles
from jaxtorch.kernels.language import Config, dot

FOLDER = Path(__file__).with_name("compiled")
MODULES = [f"{package.__name__}.{m.name}" for m in iter_modules(package.__path__)]
Kernel = type(dot)
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
    if build.multiplies and build.small is None and name.endswith("sm_90"):
        if row["warp group"] < row["tensor core"]:
            yield f"{name} multiplies by warps in place of warp groups"


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
    assert len(list(faults("k / b / sm_90", {**row, "warp group": 0}, build))) == 4
    row = {"spilled": 0, "shared": 0, "load16": 1, "tensor core": 2, "warp group": 1}
    assert len(list(faults("k / b / sm_90", row, build))) == 1
    assert not list(faults("k / b / sm_100", row, build))
    assert not list(faults("k / b / sm_90", row, replace(build, small="few rows")))


def test_every_kernel_and_config_is_compiled(monkeypatch):
    """Launchers run with and without warp groups, and tell what they launch."""
    launched = []
    modules = [m for m in map(module_of, MODULES) if hasattr(m, "launch")]
    for module in modules:
        monkeypatch.setattr(
            module, "launch", lambda kernel, _, config, *a, **k: launched.append(
                (kernel, config.why)
            ),
        )  # fmt: skip
    for groups in (True, False):
        monkeypatch.setattr(attention_tiles, "warp_groups", lambda own=groups: own)
        for family in FAMILIES.values():
            for build in family.BUILDS:
                build.launch()
    reasons = {why for _, why in launched}
    missing = [
        f"{module.__name__}: {name}"
        for module in modules
        for configs in vars(module).values()
        if isinstance(configs, dict)
        for name, config in configs.items()
        if isinstance(config, Config) and config.why not in reasons
    ]
    assert not missing
    kernels = {id(kernel) for kernel, _ in launched}
    for module in modules:
        for name, kernel in vars(module).items():
            if isinstance(kernel, Kernel) and name.endswith("_kernel"):
                assert id(kernel) in kernels, name
