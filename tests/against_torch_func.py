"""A command: how many operators of PyTorch's database pass here and with torch.func.

    python -m tests.against_torch_func [--minutes 10] [--shard 0/2] [--write]
    python -m tests.against_torch_func 'nn.functional.*' [--list]

An operator passes under a transform where the values agree with a Python loop and
torch.autograd (``tests.laws``) on every sample, and nothing ran once per example. Where
the oracle has no answer neither is asked. Each operator is a line of the file
``--keep``; those that it has are not run again unless they are named. ``--write`` puts
the table into docs/coverage.md.
"""

import argparse
import json
import re
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests import law_cases
from tests.coverage import FILE, with_section
from tests.law_cases import Case, NotApplicableError
from tests.laws.__main__ import select
from tests.ways import (
    LAWS_BY_ORACLE,
    NO_WORD,
    TRANSFORMS,
    Outcome,
    our_way,
    their_way,
    worst,
)

KEPT = Path(__file__).parent.parent / "out" / "against_torch_func.jsonl"
SAMPLES = 20
PASS = ("rule", "decomposition")
VALUES = re.compile("AssertionError: .*(not close|not equal|do not match|expected)")
COLUMNS = (
    "asked",
    "both pass",
    "only torch.func",
    "only jaxtorch",
    "torch.func loops",
    "torch.func fails",
    "torch.func is wrong",
    "neither",
    "jaxtorch is wrong",
)

Found = dict[str, tuple[Outcome, Outcome]]
"""By transform: our outcome and theirs."""


def pairs(cases: Sequence[Case], transform: str) -> tuple[Outcome, Outcome] | None:
    """Return our outcome and theirs, over the cases that the oracle answers."""
    both = []
    for case in cases:
        ours = our_way(case, transform, LAWS_BY_ORACLE)
        if ours[0] == NO_WORD:
            continue
        theirs = their_way(case, transform)
        if theirs[0] != NO_WORD:
            both.append((ours, theirs))
    if not both:
        return None
    return worst([ours for ours, _ in both]), worst([theirs for _, theirs in both])


def compare(name: str, samples: int) -> Found:
    """Compare the two libraries on the samples of one operator."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = law_cases.cases(name, samples)
    except NotApplicableError:
        return {}
    found = {transform: pairs(cases, transform) for transform in TRANSFORMS}
    return {transform: both for transform, both in found.items() if both}


def read(path: Path, samples: int) -> dict[str, Found]:
    """Return what a file has kept; of an operator the last line counts."""
    kept: dict[str, Found] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        if (row["samples"], row["torch"]) == (samples, torch.__version__):
            kept[row["name"]] = row["found"]
    return kept


def run(names: Sequence[str], path: Path, samples: int, minutes: float) -> None:
    """Compare operators and keep each at once; stop after so many minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for name in names:
        begun = time.monotonic()
        if begun - start > 60 * minutes:
            break
        found = compare(name, samples)
        row = {"name": name, "samples": samples, "torch": torch.__version__}
        row |= {"seconds": round(time.monotonic() - begun, 2), "found": found}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def kinds(ours: Outcome, theirs: Outcome) -> Iterator[str]:
    """Yield the columns that one operator counts in under one transform."""
    ok, peer = ours[0] in PASS, theirs[0] in PASS
    yield "asked"
    if not ok and VALUES.match(ours[1]):
        yield "jaxtorch is wrong"
    if ok and peer:
        yield "both pass"
    elif peer:
        yield "only torch.func"
    elif not ok:
        yield "neither"
    else:
        yield "only jaxtorch"
        wrong = "is wrong" if VALUES.match(theirs[1]) else "fails"
        yield f"torch.func {'loops' if theirs[0] == 'loop' else wrong}"


def table(kept: dict[str, Found]) -> list[str]:
    """Return the lines of the table of counts."""
    lines = [
        f"| of {len(kept)} | {' | '.join(COLUMNS)} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
    ]
    for transform in TRANSFORMS:
        asked = [found[transform] for found in kept.values() if transform in found]
        counts = Counter(kind for both in asked for kind in kinds(*both))
        numbers = " | ".join(str(counts[column]) for column in COLUMNS)
        lines.append(f"| {transform} | {numbers} |")
    return lines


def totals(kept: dict[str, Found]) -> list[str]:
    """Return a line for each transform: on how many torch.func does not pass at all."""
    lines = []
    for transform in TRANSFORMS:
        asked = [found[transform] for found in kept.values() if transform in found]
        missed = [ours for ours, theirs in asked if theirs[0] not in PASS]
        passed = sum(ours[0] in PASS for ours in missed)
        lines.append(f"- {transform}: {len(missed)}, of which jaxtorch passes {passed}")
    return lines


def listed(kept: dict[str, Found], column: str, whose: int) -> list[str]:
    """Return a line for each operator and transform in a column, with the reason."""
    return [
        f"- `{name}`, {transform}: {both[whose][1] or both[whose][0]}"
        for name, found in sorted(kept.items())
        for transform, both in found.items()
        if column in kinds(*both)
    ]


def section(kept: dict[str, Found], samples: int) -> str:
    """Return the part of docs/coverage.md that tells the counts."""
    lines = [
        "Written by `python -m tests.against_torch_func --write`, with torch",
        f"{torch.__version__} and at most {samples} samples of an operator. One passes",
        "under a transform where all values are the oracle's and nothing ran once per",
        "example. An operator is asked where the oracle has an answer.",
        "",
        *table(kept),
        "",
        "All that torch.func loops over, fails or is wrong on, which is the most that",
        "only jaxtorch can pass:",
        "",
        *totals(kept),
        "",
        "Only torch.func passes:",
        "",
        *(listed(kept, "only torch.func", 0) or ["- none"]),
        "",
        "Neither passes, and why jaxtorch does not:",
        "",
        *(listed(kept, "neither", 0) or ["- none"]),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare what is left to compare; print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="run these again")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--keep", type=Path, default=KEPT)
    parser.add_argument("--shard", default="0/1", help="i/n: only shard i of n")
    parser.add_argument("--minutes", type=float, default=120.0, help="stop after this")
    parser.add_argument("--list", action="store_true", help="what only we pass, too")
    parser.add_argument("--write", action="store_true", help="into docs/coverage.md")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    part, count = map(int, options.shard.split("/"))
    kept = read(options.keep, options.samples)
    names = [
        name
        for name in select(options.names or ["*"], None)
        if not name.startswith("direct:")
        and zlib.crc32(name.encode()) % count == part
        and (options.names or name not in kept)
    ]
    run(names, options.keep, options.samples, options.minutes)
    kept = read(options.keep, options.samples)
    print(section(kept, options.samples))
    if options.list:
        print("\nOnly jaxtorch passes:", *listed(kept, "only jaxtorch", 1), sep="\n")
    left = set(law_cases.OPS) - set(kept)
    print(f"\n{len(left)} operators are left to compare.")
    if options.write and not left:
        text = with_section(FILE.read_text("utf-8"), section(kept, options.samples))
        FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
