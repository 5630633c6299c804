"""Every kernel and the transforms on a GPU: checked, then measured beside their peers.

    python -m benchmarks.gpu --out DIR [--slice NAME ...] [--minutes 9] [--dry-run]

A slice is a family of kernels, or ``transforms``. A kernel that is wrong is not timed.
The full numbers go to DIR/gpu.json, a short table is printed last. ``--dry-run`` goes
through it all on tiny tensors on the CPU, in Triton's interpreter.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DRY = "--dry-run" in sys.argv
if DRY:  # Triton reads it when a kernel is defined
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import torch  # noqa: E402
import triton  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

import jaxtorch  # noqa: E402
from benchmarks.gpu_transforms import WORKLOADS  # noqa: E402
from benchmarks.kernels import FAMILIES  # noqa: E402
from benchmarks.kernels.cases import Case  # noqa: E402

DEVICE = "cpu" if DRY else "cuda"
ERROR = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""The largest relative error, in the norm, of a kernel that is timed."""
Call = Callable[[], Any]


class OutOfTimeError(Exception):
    """The minutes are over."""


class Clock:
    """Says how long each call takes on the device, until the minutes are over."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def seconds(self, call: Call) -> float:
        """Return the median, with a cold cache; on the CPU the time of one call."""
        if time.monotonic() > self.end:
            raise OutOfTimeError
        if DRY:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        ms: float = triton.testing.do_bench(
            call, warmup=20, rep=80, return_mode="median"
        )
        return ms / 1e3

    def all(self, calls: Mapping[str, Call]) -> dict[str, Any]:
        """Time some calls; of one that fails, say why."""
        found: dict[str, Any] = {}
        for name, call in calls.items():
            try:
                found[name] = self.seconds(call)
            except OutOfTimeError:
                raise
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"[:200]
        return found


def relative_error(out: Any, expected: Any) -> float:
    """Return the largest ``|out - expected| / |expected|``; NaN never passes."""
    outs = out if isinstance(out, (tuple, list)) else (out,)
    wanted = expected if isinstance(expected, (tuple, list)) else (expected,)
    errors = []
    for own, other in zip(outs, wanted, strict=True):
        scale = torch.linalg.vector_norm(other.double())
        distance = torch.linalg.vector_norm(own.double() - other.double())
        errors.append(float(distance / scale.clamp(min=1e-300)))
    return max(errors)


def widened(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments in float64."""
    own: tuple[Any, ...] = pytree.tree_map_only(
        Tensor, lambda t: t.double() if t.is_floating_point() else t, args
    )
    return own


def measure_kernel(case: Case, clock: Clock) -> dict[str, Any]:
    """Check one kernel, then time it beside the reference, Inductor and its peers."""
    operator = case.kernel
    args: tuple[Any, ...] = ()
    error = 0.0
    for tiny in (True, DRY):
        args = case.arguments(DEVICE, tiny)
        expected = operator.reference(*widened(args))
        error = max(error, relative_error(operator.launcher(*args), expected))
    del expected
    row: dict[str, Any] = {"error": error, "roofline": case.roofline()}
    if not error < ERROR[case.dtype]:
        return {**row, "wrong": True}
    calls: dict[str, Call] = {
        "kernel": lambda: operator.launcher(*args),
        "ATen": lambda: operator.reference(*args),
    }
    for name, peer in case.peers.items():
        calls[name] = lambda peer=peer: peer(*args)
    for name, config in case.configs.items():
        calls[f"config {name}"] = lambda config=config: operator.launcher(
            *args, config=config
        )
    if not DRY:
        compiled = torch.compile(operator.reference)
        calls["Inductor"] = lambda: compiled(*args)
    return {**row, **clock.all(calls)}


def measure_transform(name: str, clock: Clock) -> dict[str, Any]:
    """Check that the contenders agree, then time them."""
    contenders: dict[str, Call] = WORKLOADS[name](DEVICE, DRY)
    expected = contenders["torch.func"]()
    row: dict[str, Any] = {}
    timed = {}
    for who, call in contenders.items():
        try:
            error = relative_error(call(), expected)
        except Exception as problem:
            row[who] = f"{type(problem).__name__}: {problem}"[:200]
            continue
        if error < 1e-2:
            timed[who] = call
        else:
            row[who] = f"wrong: relative error {error:.1e}"
    return {**row, **clock.all(timed)}


def ceilings(clock: Clock) -> dict[str, float]:
    """Measure what the device can: copying, and products of bfloat16."""
    size = 1 << (8 if DRY else 13)
    x = torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE)
    y = torch.empty_like(x)
    copying = clock.seconds(lambda: y.copy_(x))
    product = clock.seconds(lambda: torch.mm(x, x))
    return {"TB/s": 2 * x.nbytes / copying / 1e12, "TFLOP/s": 2e-12 * size**3 / product}


def versions() -> dict[str, str]:
    """Name what the numbers belong to."""
    command = ["git", "rev-parse", "HEAD"]
    root = Path(__file__).parent
    commit = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return {
        "device": "cpu" if DRY else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "commit": commit.stdout.strip() or "unknown",
    }


def table(rows: dict[str, dict[str, Any]], own: str) -> list[str]:
    """Return a line for each row: our time, and how many times that others take."""
    lines = []
    for name, row in rows.items():
        times = {k: v for k, v in row.items() if isinstance(v, float)}
        best = times.get(own)
        if best is None or DRY:
            problems = {k: v for k, v in row.items() if k not in times}
            lines.append(f"{name}: {problems or 'ran'}")
            continue
        others = [
            f"{k} {v / best:.2f}x"
            for k, v in times.items()
            if k not in (own, "error", "roofline")
        ]
        if "roofline" in row:
            others.insert(0, f"{row['roofline'] / best:.0%} of roofline")
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
    clock = Clock(options.minutes)
    torch.manual_seed(int(time.time()))
    about = versions()
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.gpu --slice {' --slice '.join(chosen)}",
        "machine": ", ".join(f"{k} {v}" for k, v in about.items()),
        "versions": about,
        "kernels": {},
        "transforms": {},
        "complete": False,
    }
    mode = "force" if DRY else "auto"
    try:
        with jaxtorch.kernels_mode(mode):
            result["ceilings"] = ceilings(clock)
            for family in (f for f in chosen if f in FAMILIES):
                for case in FAMILIES[family].CASES:
                    result["kernels"][case.name] = measure_kernel(case, clock)
            for name in WORKLOADS if "transforms" in chosen else ():
                result["transforms"][name] = measure_transform(name, clock)
        result["complete"] = True
    except OutOfTimeError:
        print("the minutes are over; the rest is left out")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(result, indent=1))
    print(f"{result['machine']}\n{'dry run' if DRY else result.get('ceilings')}")
    print(*table(result["kernels"], "kernel"), sep="\n")
    print(*table(result["transforms"], "jaxtorch.jit"), sep="\n")
    return int(any("wrong" in row for row in result["kernels"].values()))


if __name__ == "__main__":
    sys.exit(main())
