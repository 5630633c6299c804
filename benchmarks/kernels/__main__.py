"""The command that writes docs/kernels.md from the sizes of all families.

    python -m benchmarks.kernels [--measured DIR/gpu.json ...]

``--measured`` takes over the times that ``benchmarks.gpu`` has written, of several runs
on one machine for several slices too.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.kernels import FAMILIES
from benchmarks.kernels.cases import BANDWIDTH, MATRIX_RATES, VECTOR_RATE, Case
from jaxtorch.kernels import attention, attention_backward, attention_hessian

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
MEASURED = Path(__file__).with_name("measured.json")
UNKNOWN = "not measured"

SPEED = ", ".join(
    f"{rate / 1e12:.0f} in {str(dtype)[6:]}" for dtype, rate in MATRIX_RATES.items()
)
HEAD = f"""# Kernels

Written by `python -m benchmarks.kernels`. On CUDA tensors of half or single precision
the rules, and through them `jit`, call these operators in the place of ATen's; all else
runs on ATen. `jaxtorch.config.kernels = "off"` turns them off.

*MB* counts each input read once and each output written once, *Gflop* is what the
operator's formula tells `torch.utils.flop_counter`. The *roofline* is the longer of the
times that they take on an H100, at {BANDWIDTH / 1e12:.2f} TB/s and at the rate of the
units that the kernel runs on: {VECTOR_RATE / 1e12:.0f} TFLOP/s without tensor cores,
with them {SPEED} (three products in tf32 make one in
float32): a bound, not an estimate.
"""


LIMITS = {
    "out": attention.CONFIGS,
    "jvp": attention.TANGENT_CONFIGS,
    "vjp": attention_backward.CONFIGS,
    "jvp of vjp, vjp of vjp": attention_hessian.CONFIGS,
}
ATTENTION = """## Attention, where it takes little memory

The kernels never hold the matrix of weights: memory grows with the length of the
sequences and not with its square. They take boolean and additive masks, causal ones,
any strides, odd lengths, and leading dims of any number, so those of `vmap` too. The
largest number of features of a head:

{table}

For more features, and in float64, the same derivative is made with the matrix in
memory, and so is what is rare: the derivative by an additive mask, the jvp of a jvp,
third derivatives, and dropout, which has to draw its matrix.
"""


def limits() -> str:
    """Return the table of the largest heads that each kernel takes."""
    rows = []
    for name, configs in LIMITS.items():
        own = [
            max(int(c.split()[1].strip(",")) for c in configs if c.startswith(kind))
            for kind in ("half", "single")
        ]
        rows.append(f"| {name} | {own[0]} | {own[1]} |")
    head = ["| | float16, bfloat16 | float32 |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows])


def line(case: Case, measured: dict[str, Any]) -> str:
    """Return the row of one case."""
    memory = case.traffic() / BANDWIDTH
    bound = "memory" if case.roofline() == memory else "arithmetic"
    cells = [
        f"`{case.operator}`",
        case.label,
        str(case.dtype).removeprefix("torch."),
        f"{case.traffic() / 1e6:.1f}",
        f"{case.flops() / 1e9:.2f}",
        f"{case.roofline() * 1e6:.1f}, {bound}",
        ", ".join(case.peers) or "ATen",
        measured.get(case.name, UNKNOWN),
    ]
    return f"| {' | '.join(cells)} |"


def render() -> str:
    """Return the text of the page."""
    found = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    times = {
        name: f"{row['kernel'] * 1e6:.1f} us"
        for name, row in found.get("kernels", {}).items()
        if isinstance(row.get("kernel"), float)
    }
    parts = [HEAD, ATTENTION.format(table=limits())]
    if found:
        parts.append(f"Measured by `{found['command']}`: {found['machine']}.\n")
    for family, module in FAMILIES.items():
        summary = (module.__doc__ or "").partition(":")[0]
        parts.append(f"## {family}\n\n{summary}.\n")
        header = "kernel|size|dtype|MB|Gflop|roofline (us)|competes with|measured"
        names = header.split("|")
        parts.append(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
        parts[-1] += "".join(f"\n{line(case, times)}" for case in module.CASES) + "\n"
    return "\n".join(parts)


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Join runs for several slices; later ones win."""
    out = dict(runs[-1])
    for kind in ("kernels", "transforms"):
        out[kind] = {name: row for run in runs for name, row in run[kind].items()}
    slices = [run["command"].partition(" --slice ")[2] for run in runs]
    command = runs[0]["command"].partition(" --slice ")[0]
    out["command"] = " --slice ".join([command, *slices])
    return out


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=Path, nargs="+")
    options = parser.parse_args()
    if options.measured:
        runs = [json.loads(path.read_text()) for path in options.measured]
        MEASURED.write_text(json.dumps(merged(runs), indent=1) + "\n")
    PAGE.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
