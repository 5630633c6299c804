"""Write what was measured for people: ``python -m benchmarks.report``.

Reads ``results/*.json``; writes ``results/REPORT.md``, pictures, and README's table.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.account import words
from benchmarks.causes import CAUSES, UNKNOWN
from benchmarks.harness import JIT, SIZES

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
README = FOLDER.parent / "README.md"
BEGIN = "<!-- speed: written by python -m benchmarks.report -->\n"
END = "<!-- end of speed -->\n"
EAGER, FUNC = "jaxtorch", "torch.func"
OWN = (JIT, EAGER, "jit inductor")
RIVALS = (FUNC, "torch.compile", "jax.jit")
HEADLINES = {
    "per-sample-gradients-mlp-256": "per-sample gradients, MLP, batch 256",
    "per-sample-norms-mlp-256": "norms of them",
    "dp-sgd-block-16": "DP-SGD step, transformer block",
    "jacobian-tall-1024": "Jacobian, 16 to 1024",
    "jacobian-arm-4096": "Jacobians of 4096 robot arms",
    "hessian-single-512": "Hessian, n = 512",
    "hessian-batched-8": "256 Hessians, n = 8",
    "laplacian-10": "Laplacian of a PINN, 10 dims, 2048 points",
    "hvp-50": "50 Hessian-vector products",
    "ggn-1": "Gauss-Newton product",
    "ensemble-16": "gradients of 16 networks",
    "maml-25": "MAML's outer gradient",
    "ntk-32": "neural tangent kernel",
    "lennard-jones-hessian-27": "Hessian of 27 atoms",
}
BUSY = 3.0  # a load average above what a run makes itself
Entry = dict[str, Any]
Results = dict[str, Entry]


def main() -> None:
    """Write all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-pictures", action="store_true")
    options = parser.parse_args()
    results = read_results()
    RESULTS.joinpath("REPORT.md").write_text(report(results))
    README.write_text(with_table(README.read_text(), readme_table(results["cpu"])))
    if not options.no_pictures:
        # Drawn only here: reading results needs no matplotlib.
        from benchmarks import pictures  # noqa: PLC0415

        for size, own in results.items():
            pictures.draw(own, RESULTS, size)


def read_results() -> dict[str, Results]:
    """Return the results of each size that has some."""
    paths = {size: RESULTS / f"{size}.json" for size in SIZES}
    return {
        size: json.loads(path.read_text())
        for size, path in paths.items()
        if path.exists()
    }


def time_of(entry: Entry, contender: str) -> float | None:
    """Return a contender's median, if it has one."""
    own = entry["contenders"].get(contender)
    return own and own["median"]


def best_peer(entry: Entry) -> tuple[str, float]:
    """Return the fastest contender that is not ours, and its time."""
    peers = {n: c["median"] for n, c in entry["contenders"].items() if n not in OWN}
    name = min(peers, key=peers.__getitem__)
    return name, peers[name]


def single(results: Results) -> Results:
    """Return the workloads that are more than a point of a row of sizes."""
    return {name: own for name, own in results.items() if own["counted"]}


def ratios(results: Results, ours: str, theirs: str) -> list[float]:
    """Return how many times faster ours is than theirs, for each workload with both."""
    pairs = [(time_of(e, ours), time_of(e, theirs)) for e in single(results).values()]
    return [b / a for a, b in pairs if a and b]


def geometric_mean(numbers: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def seconds(value: float | None) -> str:
    """Write a time with three digits."""
    return scaled(value, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)))


def size_of(value: float | None) -> str:
    """Write a number of bytes with three digits."""
    return scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)))


def scaled(value: float | None, units: Iterable[tuple[str, float]]) -> str:
    """Write a number in the first unit that it fills."""
    if value is None:
        return ""
    *_, last = units
    name, unit = next((u for u in units if value >= u[1]), last)
    digits = value / unit
    decimals = max(0, 2 - int(math.log10(digits))) if digits >= 1 else 2
    return f"{digits:.{decimals}f} {name}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table of Markdown; all columns but the first align to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fastest(texts: list[str], values: Sequence[float | None]) -> list[str]:
    """Print the smallest of a row in bold."""
    known = [v for v in values if v is not None]
    return [
        f"**{t}**" if v == min(known) else t for t, v in zip(texts, values, strict=True)
    ]


def readme_table(results: Results) -> str:
    """Return README's table: one line per question."""
    columns = (JIT, EAGER, *RIVALS)
    rows = []
    for name, title in HEADLINES.items():
        if name in results:
            times = [time_of(results[name], c) for c in columns]
            rows.append([title, *fastest([seconds(t) or "-" for t in times], times)])
    means = ["", *(mean_cell(results, JIT, c) for c in columns[1:])]
    rows.append([f"`jit` is faster by (mean of {len(single(results))} jobs)", *means])
    return f"{table(['', '`jit`', *columns[1:]], rows)}\n{machines(results)}\n"


def mean_cell(results: Results, ours: str, theirs: str) -> str:
    """Write the geometric mean of the ratios."""
    found = ratios(results, ours, theirs)
    return f"{geometric_mean(found):.2f} x" if found else "-"


def machines(results: Results) -> str:
    """Name the machines and versions, and say what else they were doing."""
    names = "; ".join(sorted({entry["machine"] for entry in results.values()}))
    loads = sorted(entry["load"] for entry in results.values())
    busy = "" if loads[-1] < BUSY else " It was busy: trust large ratios only."
    return f"{names}. Load average {loads[0]} to {loads[-1]}.{busy}"


def with_table(readme: str, new: str) -> str:
    """Put the table between its markers in README."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise LookupError(f"README.md has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}{new}{END}{after}"


def report(results: dict[str, Results]) -> str:
    """Return the whole report."""
    parts = [
        "# Speed and memory, measured\n\n"
        "Written by `python -m benchmarks.report` from the JSON files beside it; "
        "`python -m benchmarks --size cpu` measures anew. Each contender's result was "
        "checked against a float64 reference before it was timed; all took turns in "
        "one process. Times are medians; peak memory is what a call holds at most, "
        "beyond its inputs. `jaxtorch jit` is `jaxtorch.jit` as it comes.\n"
    ]
    for size, own in results.items():
        parts += [f"\n## Size {size}\n\n{machines(own)}\n", summary(own, size)]
        parts += [slower(own), heavier(own), overhead(own)]
        parts += [detail(name, own) for name in sorted(questions_of(own))]
    return "".join(parts)


def questions_of(results: Results) -> set[str]:
    """Return the questions that have results."""
    return {entry["question"] for entry in results.values()}


def summary(results: Results, size: str) -> str:
    """Return the means, and one line per workload."""
    means = [
        [name, *(mean_cell(results, name, rival) for rival in RIVALS)] for name in OWN
    ]
    rows = []
    for name, entry in single(results).items():
        own, (peer, best) = time_of(entry, JIT), best_peer(entry)
        ratio = f"{own / best:.2f}" if own else "-"
        cells = [time_of(entry, c) for c in (JIT, EAGER, *RIVALS)]
        rows.append([name, *map(seconds, cells), peer, ratio])
    header = ["workload", JIT, EAGER, *RIVALS, "best peer", "jit / best peer"]
    return (
        "\nFaster by, geometric mean over the workloads:\n\n"
        f"{table(['', *RIVALS], means)}\n"
        f"![ratios]({size}-ratios.png)\n\n![growth]({size}-growth.png)\n\n"
        f"{table(header, rows)}"
    )


def slower(results: Results) -> str:
    """Return where a peer beats jit, the worst first, and why."""
    rows = []
    for name, entry in results.items():
        own, (peer, best) = time_of(entry, JIT), best_peer(entry)
        if own and own > best:
            rows.append((own / best, name, peer))
    lines = [
        [name, peer, f"{ratio:.2f}", CAUSES.get(name, UNKNOWN), spent(results[name])]
        for ratio, name, peer in sorted(rows, reverse=True)
    ]
    title = "\n### Where a peer is faster than jit, and why\n\n"
    header = ["workload", "peer", "jit / peer", "cause", "jit's time, by the profiler"]
    return title + table(header, lines)


def spent(entry: Entry) -> str:
    """Write where jit's time goes."""
    return words(entry["contenders"][JIT].get("shares", {}))


def heavier(results: Results) -> str:
    """Return where we need more memory than torch.func."""
    rows = []
    for name, entry in results.items():
        theirs = entry["contenders"].get(FUNC, {}).get("peak_bytes")
        for own in (JIT, EAGER):
            bytes_ = entry["contenders"].get(own, {}).get("peak_bytes")
            if theirs and bytes_ and bytes_ > 1.01 * theirs:
                row = [name, own, size_of(bytes_), size_of(theirs)]
                rows.append((bytes_ / theirs, [*row, f"{bytes_ / theirs:.2f}"]))
    title = "\n### Where the peak memory is above torch.func's\n\n"
    if not rows:
        return f"{title}Nowhere.\n"
    header = ["workload", "", "peak", FUNC, "ratio"]
    return title + table(header, [row for _, row in sorted(rows, reverse=True)])


def overhead(results: Results) -> str:
    """Return the fixed cost and the cost per operation of each transform."""
    names = (EAGER, FUNC, JIT, "jax.jit")
    chains: dict[str, list[tuple[int, Entry]]] = {}
    for entry in results.values():
        if entry["question"] == "overhead":
            what, length = entry["sweep"]
            chains.setdefault(what, []).append((length, entry))
    rows = []
    for what, points in chains.items():
        cells = [line_of(points, name) for name in names]
        rows.append([what.removeprefix("operations in "), *cells])
    title = "\n### Cost of a call + cost of each tiny operation, microseconds\n\n"
    return title + table(["", *names], rows) if rows else ""


def line_of(points: list[tuple[int, Entry]], name: str) -> str:
    """Write the line through a contender's times of chains."""
    times = [(length, time_of(entry, name)) for length, entry in points]
    known = [(length, value * 1e6) for length, value in times if value]
    if len(known) < 2:
        return ""
    fixed, per_op = fit(*zip(*known, strict=True))
    return f"{fixed:.1f} + {per_op:.1f}"


def fit(lengths: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """Return the fixed cost and the cost per operation by least squares.

    Each time is weighted by its inverse square, for a timing's error is relative.
    """
    weights = [1.0 / s**2 for s in times]
    rows = list(zip(weights, lengths, times, strict=True))
    mean: Callable[[Iterable[float]], float] = lambda xs: sum(xs) / sum(weights)  # noqa: E731
    length = mean(w * n for w, n, _ in rows)
    level = mean(w * s for w, _, s in rows)
    covariance = sum(w * (n - length) * (s - level) for w, n, s in rows)
    slope = covariance / sum(w * (n - length) ** 2 for w, n, _ in rows)
    return level - slope * length, slope


def detail(question: str, results: Results) -> str:
    """Return all that was measured for a question."""
    parts = [f"\n### {question.replace('_', ' ')}\n"]
    for name, entry in results.items():
        if entry["question"] != question:
            continue
        rows = []
        order = sorted(entry["contenders"].items(), key=lambda item: item[1]["median"])
        for contender, own in order:
            spread = f"{seconds(own['low'])} to {seconds(own['high'])}"
            cells = [seconds(own["median"]), spread, size_of(own["peak_bytes"])]
            first, error = seconds(own["first_call"]), f"{own['error']:.0e}"
            rows.append([contender, *cells, first, error])
        header = ["", "median", "20 to 80 %", "peak memory", "first call", "error"]
        parts.append(f"\n**{name}**: {entry['title']}\n\n{table(header, rows)}")
        parts += [f"\n{who}: {why}\n" for who, why in entry["left_out"].items()]
    return "".join(parts)


if __name__ == "__main__":
    main()
