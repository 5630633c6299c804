"""Kernels compiled without a GPU, and what their machine code holds.

    python -m tests.kernels.compiled per_sample --write  # compiled/per_sample.json
    python -m tests.kernels.compiled per_sample          # prints it

Launchers run on meta tensors; what they launch is compiled for each target in place of
being run, specialized exactly as it would be. Must run without ``TRITON_INTERPRET``.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

from benchmarks.kernels import FAMILIES

FOLDER = Path(__file__).with_name("compiled")
TARGETS = (80, 90, 100)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
COUNTED = {
    "load16": r"\bLDG\.E\.[\w.]*128|\bLDGSTS\.E\.[\w.]*128|\bUBLKCP|\bUTMALDG",
    "store16": r"\bSTG\.E\.[\w.]*128|\bUTMASTG",
    "tensor core": r"\b(HMMA|HGMMA|UTCHMMA|UTCQMMA|QGMMA)",
    "warp group": r"\b(HGMMA|QGMMA)",
    "local": r"\b(LDL|STL)\b",
}


class Offline:
    """Stands in for Triton's driver: says what to compile for, and has no device."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches(call: Any, capability: int) -> list[Any]:
    """Return the compiled kernels of all that ``call`` launches."""
    found = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> None:
        found.append(run(self, *args, **{**kwargs, "warmup": True}))

    driver.set_active(Offline(capability))
    JITFunction.run = compile_only
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def describe(kernel: Any) -> dict[str, int]:
    """Read registers, spills, shared memory and instruction counts of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = dump("--dump-resource-usage", file.name)
        sass = dump("-sass", file.name)
    count = {name: len(re.findall(p, sass)) for name, p in COUNTED.items()}
    return {
        "registers": int(re.search(r"REG:(\d+)", usage).group(1)),
        "spilled": int(re.search(r"LOCAL:(\d+)", usage).group(1)) + count.pop("local"),
        "shared": kernel.metadata.shared,
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", sass, re.M)),
        **count,
    }


def dump(option: str, path: str) -> str:
    """Run cuobjdump."""
    command = [str(CUOBJDUMP), option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows(family: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the name of each kernel and what it compiles to."""
    for build in FAMILIES[family].BUILDS:
        for capability in TARGETS:
            kernels = compile_launches(build.launch, capability)
            for kernel in kernels:
                name = kernel.metadata.name.strip("_")
                yield f"{name} / {build.label} / sm_{capability}", describe(kernel)


def table(family: str) -> dict[str, dict[str, int]]:
    """Compile a family; two rows of one name are an error."""
    found: dict[str, dict[str, int]] = {}
    for name, row in rows(family):
        if name in found:
            raise ValueError(f"two kernels are named {name}")
        found[name] = row
    return found


def main() -> int:
    """Print a family, or write its file; all of them if none is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*", choices=[*FAMILIES, []])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for family in options.family or FAMILIES:
        text = layout(table(family))
        if options.write:
            (FOLDER / f"{family}.json").write_text(text)
        else:
            print(text)
    return 0


def layout(own: dict[str, dict[str, int]]) -> str:
    """Lay out a file with one kernel a line."""
    lines = [f"  {json.dumps(k)}: {json.dumps(row)}" for k, row in own.items()]
    inner = ",\n".join(lines)
    version = json.dumps(triton.__version__)
    return f'{{\n "triton": {version},\n "kernels": {{\n{inner}\n }}\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
