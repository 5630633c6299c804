"""Every kernel and the transforms on a GPU: checked, then measured beside their peers.

    python -m benchmarks.gpu --out DIR [--slice NAME ...] [--minutes 8.5] [--dry-run]

A slice is a family of kernels, or ``transforms``. A kernel that is wrong is not timed.
Kernels and their peers come first, then the transforms, then what takes long to
compile: other configs and Inductor. DIR/gpu.json is written after each row, and a short
table is printed last. ``--dry-run`` goes through it all on tiny tensors on the CPU, in
Triton's interpreter.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DRY = "--dry-run" in sys.argv
if DRY:  # Triton reads it when a kernel is defined
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import torch  # noqa: E402
import triton  # noqa: E402

import jaxtorch  # noqa: E402
from benchmarks.gpu_measure import (  # noqa: E402
    Call,
    Clock,
    OutOfTimeError,
    poisoned,
    relative_error,
    why,
    widened,
)
from benchmarks.gpu_transforms import WORKLOADS  # noqa: E402
from benchmarks.kernels import FAMILIES  # noqa: E402
from benchmarks.kernels.cases import Case  # noqa: E402

DEVICE = "cpu" if DRY else "cuda"
ERROR = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""The largest relative error, in the norm, of a kernel that is timed."""
Row = dict[str, Any]


def error_of(case: Case, tiny: bool) -> float:
    """Compare a kernel with the reference in float64, on numbers drawn for it."""
    args = case.arguments(DEVICE, tiny)
    with poisoned():
        out = case.kernel.launcher(*args)
    return relative_error(out, case.kernel.reference(*widened(args)))


def measure_kernel(case: Case, clock: Clock) -> Row:
    """Check one kernel, then time it beside the reference and its peers."""
    clock.check()
    error = error_of(case, tiny=True)
    if not DRY and error < ERROR[case.dtype]:
        error = error_of(case, tiny=False)
    row: Row = {"error": error, "roofline": case.roofline()}
    if not error < ERROR[case.dtype]:
        return {**row, "wrong": True}
    args = case.arguments(DEVICE, DRY)
    calls: dict[str, Call] = {
        "kernel": lambda: case.kernel.launcher(*args),
        "ATen": lambda: case.kernel.reference(*args),
    }
    for name, peer in case.peers.items():
        calls[name] = functools.partial(peer, *args)
    return {**row, **clock.all(calls, clock.alone)}


def measure_choices(case: Case, clock: Clock) -> Row:
    """Time what Inductor makes of the reference, and the kernel's other configs."""
    args = case.arguments(DEVICE, DRY)
    calls: dict[str, Call] = {}
    if not DRY:
        torch._dynamo.reset()
        compiled = torch.compile(case.kernel.reference, dynamic=False)
        calls["Inductor"] = lambda: compiled(*args)
    for name, config in case.configs.items():
        launch = functools.partial(case.kernel.launcher, *args, config=config)
        calls[f"config {name}"] = launch
    return clock.all(calls, clock.alone)


def measure_transform(name: str, clock: Clock) -> Row:
    """Check that the contenders agree, then time them."""
    clock.check()
    contenders = WORKLOADS[name](DEVICE, DRY)
    row: Row = {}
    expected = contenders["torch.func"].result()
    for who, contender in contenders.items():
        clock.check()
        try:
            error = relative_error(contender.result(), expected)
        except Exception as problem:
            row[who] = why(problem)
            continue
        if error < 1e-2:
            time_one = functools.partial(clock.in_a_row, wait=contender.wait)
            row[who] = clock.attempt(contender.call, time_one)
        else:
            row[who] = f"wrong: relative error {error:.1e}"
    return row


def ceilings(clock: Clock) -> dict[str, float]:
    """Measure what the device can: copying, and products of bfloat16."""
    size = 1 << (8 if DRY else 13)
    x = torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE)
    y = torch.empty_like(x)
    copying = clock.alone(lambda: y.copy_(x))
    product = clock.alone(lambda: torch.mm(x, x))
    return {"TB/s": 2 * x.nbytes / copying / 1e12, "TFLOP/s": 2e-12 * size**3 / product}


def commit() -> str:
    """Return the commit, where there is one to see."""
    command = ["git", "rev-parse", "HEAD"]
    root = Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Name what the numbers belong to."""
    return {
        "device": "cpu" if DRY else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "commit": commit(),
    }


class Report:
    """What was measured, in a file that is whole after each row."""

    def __init__(self, folder: Path, **about: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "gpu.json"
        self.found: dict[str, Any] = {**about, "kernels": {}, "transforms": {}}

    def add(self, kind: str, name: str, measure: Callable[[], Row]) -> None:
        """Measure a row, or more of one; what raises is a part of it."""
        row = self.found[kind].setdefault(name, {})
        try:
            row.update(measure())
        except OutOfTimeError:
            raise
        except Exception as error:
            row["failed"] = why(error)
        self.write()
        if not DRY:
            torch.cuda.empty_cache()

    def write(self) -> None:
        """Write the file."""
        self.file.write_text(json.dumps(self.found, indent=1))


def measure(report: Report, chosen: list[str], clock: Clock) -> None:
    """Fill the report: what matters most comes first."""
    cases = [c for f in chosen if f in FAMILIES for c in FAMILIES[f].CASES]
    report.found["ceilings"] = ceilings(clock)
    for case in cases:
        report.add("kernels", case.name, functools.partial(measure_kernel, case, clock))
    for name in WORKLOADS if "transforms" in chosen else ():
        report.add(
            "transforms", name, functools.partial(measure_transform, name, clock)
        )
    for case in cases:
        if "kernel" in report.found["kernels"][case.name]:
            run = functools.partial(measure_choices, case, clock)
            report.add("kernels", case.name, run)


def table(rows: dict[str, Row], own: str) -> list[str]:
    """Return a line for each row: our time, and how many times that others take."""
    lines = []
    for name, row in rows.items():
        times = {k: v for k, v in row.items() if isinstance(v, float)}
        problems = {k: v for k, v in row.items() if k not in times}
        best = times.get(own)
        if best is None or DRY:
            lines.append(f"{name}: {problems or 'ran'}")
            continue
        others = [
            f"{k} {v / best:.2f}x"
            for k, v in times.items()
            if k not in (own, "error", "roofline")
        ]
        if "roofline" in row:
            others.insert(0, f"{row['roofline'] / best:.0%} of roofline")
        others += [f"{k} {v}"[:60] for k, v in problems.items()]
        lines.append(f"{name}: {best * 1e6:.1f} us; {', '.join(others)}")
    return lines


def main() -> int:
    """Run the chosen slices; fails where a kernel is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*FAMILIES, "transforms"]
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slice", action="append", choices=names)
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    chosen = options.slice or names
    clock = Clock(options.minutes, DRY)
    seed = int(time.time())
    torch.manual_seed(seed)
    about = versions()
    machine = ", ".join(f"{k} {v}" for k, v in about.items())
    report = Report(
        options.out,
        command=f"python -m benchmarks.gpu --slice {' --slice '.join(chosen)}",
        machine=machine,
        versions=about,
        seed=seed,
        complete=False,
    )
    try:
        with jaxtorch.kernels_mode("force" if DRY else "auto"):
            measure(report, chosen, clock)
        report.found["complete"] = True
    except OutOfTimeError:
        print("the minutes are over; the rest is left out")
    report.write()
    print(f"{machine}\n{'dry run' if DRY else report.found.get('ceilings')}")
    kernels, transforms = report.found["kernels"], report.found["transforms"]
    print(*table(kernels, "kernel"), sep="\n")
    print(*table(transforms, "jaxtorch.jit"), sep="\n")
    rows = [*kernels.values(), *transforms.values()]
    return int(any("wrong" in row or "failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
