"""A command: how many operators of PyTorch's database pass here and with torch.func.

    python -m tests.against_torch_func ['nn.functional.*' ...] [--samples 3]

An operator passes under a transform where the values agree with a Python loop and
torch.autograd (``tests.laws``) on every sample, and nothing ran once per example. Where
the oracle has no answer neither is asked.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from tests import law_cases
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

PASS = ("rule", "decomposition")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts, and where only torch.func passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["*"])
    parser.add_argument("--samples", type=int, default=3)
    options = parser.parse_args(argv)
    names = [n for n in select(options.names, None) if not n.startswith("direct:")]
    counts: Counter[tuple[str, str]] = Counter()
    lines: dict[str, list[str]] = {"theirs": [], "neither": [], "ours": []}
    torch.set_num_threads(1)
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cases = law_cases.cases(name, options.samples)
        except NotApplicableError:
            continue
        for transform in TRANSFORMS:
            found = pairs(cases, transform)
            if found is None:
                continue
            ours, theirs = found
            counts[transform, "asked"] += 1
            ok, peer = ours[0] in PASS, theirs[0] in PASS
            counts[transform, "jaxtorch"] += ok
            counts[transform, "torch.func"] += peer
            counts[transform, "only jaxtorch"] += ok and not peer
            counts[transform, "only torch.func"] += peer and not ok
            if not ok:
                reason = f"  {name}, {transform}: {ours[0]}: {ours[1]}"
                lines["theirs" if peer else "neither"].append(reason)
            elif not peer:
                reason = f"  {name}, {transform}: {theirs[0]}: {theirs[1]}"
                lines["ours"].append(reason)
    columns = ("asked", "jaxtorch", "torch.func", "only jaxtorch", "only torch.func")
    print("| transform |", " | ".join(columns), "|")
    print("| --- |", " | ".join("---:" for _ in columns), "|")
    for transform in TRANSFORMS:
        numbers = [str(counts[transform, column]) for column in columns]
        print(f"| {transform} |", " | ".join(numbers), "|")
    print("\nOnly torch.func passes:", *lines["theirs"], sep="\n")
    print("\nNeither passes (our reason):", *lines["neither"], sep="\n")
    print("\nOnly jaxtorch passes (torch.func's reason):", *lines["ours"], sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
