"""The pictures of the report. Nothing is computed here but where a mark goes."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.report import EAGER, FUNC, JIT, RIVALS, Results, best_peer, single

COLORS = {
    JIT: "#c03028",
    EAGER: "#e89890",
    "jit inductor": "#803060",
    FUNC: "#3060a0",
    "torch.compile": "#70a0d8",
    "jax.jit": "#389048",
}
OTHER = "#909090"


def draw(results: Results, folder: Path, size: str) -> None:
    """Draw the ratios and the growth of a size."""
    mpl.use("Agg")
    draw_ratios(single(results), folder / f"{size}-ratios.png")
    draw_growth(results, folder / f"{size}-growth.png")


def draw_ratios(results: Results, path: Path) -> None:
    """Draw jit's time over the best peer's as a bar per workload, and all marks."""
    ordered = sorted(results.items(), key=lambda item: jit_ratio(item[1]), reverse=True)
    ordered = [(name, entry) for name, entry in ordered if JIT in entry["contenders"]]
    figure, axes = plt.subplots(figsize=(9, 0.27 * len(ordered) + 1.6))
    for row, (_, entry) in enumerate(ordered):
        best = best_peer(entry)[1]
        own = jit_ratio(entry)
        axes.barh(row, own - 1.0, left=1.0, height=0.6, color=COLORS[JIT], alpha=0.35)
        for name, contender in entry["contenders"].items():
            ratio, color = contender["median"] / best, COLORS.get(name, OTHER)
            axes.plot(ratio, row, "o", color=color, ms=7 if name == JIT else 4)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=8)
    axes.set_xlabel("time / time of the best peer (left: faster than every peer)")
    axes.grid(axis="x", alpha=0.3)
    marks = {**COLORS, "other peers": OTHER}
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=color, label=name)
        for name, color in marks.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncols=7, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def jit_ratio(entry: dict[str, Any]) -> float:
    """Return jit's time over the best peer's."""
    own = entry["contenders"].get(JIT, {"median": float("inf")})
    return float(own["median"] / best_peer(entry)[1])


def draw_growth(results: Results, path: Path) -> None:
    """Draw time and memory over size, one column for each question that varies one."""
    rows: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
    for entry in results.values():
        if entry["sweep"] is not None and entry["question"] != "overhead":
            what, value = entry["sweep"]
            rows.setdefault((entry["question"], what), []).append((value, entry))
    rows = {key: points for key, points in rows.items() if len(points) > 1}
    if not rows:
        return
    figure, grid = plt.subplots(
        2, len(rows), figsize=(3.1 * len(rows), 6), squeeze=False
    )
    for column, ((question, what), points) in enumerate(sorted(rows.items())):
        points.sort(key=lambda point: point[0])
        for row, key in enumerate(("median", "peak_bytes")):
            axes = grid[row][column]
            draw_lines(axes, points, key)
            axes.set_xlabel(what)
            if row == 0:
                axes.set_title(question.replace("_", " "), fontsize=9)
    grid[0][0].set_ylabel("seconds")
    grid[1][0].set_ylabel("peak bytes")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=2 * len(rows), fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_lines(axes: Any, points: list[tuple[int, dict[str, Any]]], key: str) -> None:
    """Draw the contenders that run the same code over the sizes, log-log."""
    for name in (JIT, EAGER, *RIVALS):
        known = [
            (value, entry["contenders"][name][key])
            for value, entry in points
            if entry["contenders"].get(name, {}).get(key)
        ]
        if known:
            values, heights = zip(*known, strict=True)
            axes.loglog(values, heights, "o-", ms=4, color=COLORS[name], label=name)
    values = [value for value, _ in points]
    axes.set_xticks(values, [str(v) for v in values])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
