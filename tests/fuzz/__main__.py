"""The command: ``python -m tests.fuzz --programs 5000 --seed 1``."""

import argparse
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisException

from tests.fuzz.check import MismatchError, check
from tests.fuzz.generate import cases
from tests.fuzz.stack import Case

BATCH = 100


@dataclass
class Failure:
    """A failing case and what it raised."""

    case: Case
    error: BaseException

    @property
    def size(self) -> tuple[int, ...]:
        """Return how large the case is."""
        program = self.case.program
        return (
            len(program.ops) + len(self.case.layers) + self.case.jit,
            len(program.outputs) + len(program.inputs),
            sum(sum(own.shape) + len(own.shape) for own in program.inputs),
        )

    def explains(self, case: Case, error: BaseException) -> bool:
        """Tell whether another failure is likely to be this one again."""
        if not isinstance(error, MismatchError):
            return origin(error) == origin(self.error)
        if not isinstance(self.error, MismatchError):
            return False
        own = {op.name for op in self.case.program.ops}
        layers = {layer.name for layer in self.case.layers}
        return (
            own <= {op.name for op in case.program.ops}
            and layers <= {layer.name for layer in case.layers}
            and self.case.jit <= case.jit
        )

    def report(self) -> str:
        """Return the case as data and as a program, and its error."""
        error = "".join(traceback.format_exception_only(self.error)).strip()
        error = f"{error[:3000]}\n  raised at {origin(self.error)[-1]}"
        return f"{self.case!r}\n\n{self.case.source()}\n\n{error}\n"


def origin(error: BaseException) -> tuple[str, str]:
    """Return the type of an error and the last line of the package it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{f.filename}:{f.lineno}" for f in frames if "/jaxtorch/" in f.filename]
    return type(error).__name__, own[-1] if own else "?"


@dataclass
class Session:
    """One run of the command: counts, failures, and the one that is being shrunk."""

    patience: float
    programs: int = 0
    repeats: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    current: Failure | None = None
    deadline: float = 0.0

    def try_case(self, case: Case) -> None:
        """Check one case; raise for a failure that is new."""
        shrinking = self.current is not None
        if shrinking and time.monotonic() > self.deadline:
            return
        self.programs += not shrinking
        try:
            reason = check(case)
        except Exception as error:
            if any(known.explains(case, error) for known in self.failures):
                self.repeats += not shrinking
                return
            found = Failure(case, error)
            if self.current is None:
                self.deadline = time.monotonic() + self.patience
            if self.current is None or found.size < self.current.size:
                self.current = found
            raise
        if reason and not shrinking:
            self.skipped[reason] += 1

    def run_batch(self, count: int, number: int) -> None:
        """Try ``count`` cases, or as many as there are before a new failure."""

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def each(case: Case) -> None:
            self.try_case(case)

        try:
            each()
        except BaseException as error:
            if self.current is None or isinstance(error, KeyboardInterrupt):
                raise
            if not isinstance(error, (Exception, HypothesisException)):
                raise
            print(f"\n--- failure {len(self.failures) + 1} ---")
            print(self.current.report(), flush=True)
            self.failures.append(self.current)
            self.current = None


def main(argv: list[str]) -> int:
    """Run the command; the result is its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this")
    parser.add_argument(
        "--patience", type=float, default=30.0, help="seconds to shrink one failure"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    session = Session(options.patience)
    start = time.monotonic()
    number = options.seed * 1_000_000
    shown = 0
    while session.programs < options.programs:
        session.run_batch(min(BATCH, options.programs - session.programs), number)
        number += 1
        spent = time.monotonic() - start
        if session.programs - shown >= 250:
            shown = session.programs
            print(f"{shown} programs, {spent:.0f} s", flush=True)
        if spent > 60 * options.minutes:
            break
    for reason, count in session.skipped.most_common():
        print(f"not compared: {count} x {reason}")
    print(
        f"fuzz: seed {options.seed}: {session.programs} programs, "
        f"{len(session.failures)} failures (and {session.repeats} repeats), "
        f"{session.skipped.total()} not compared, {time.monotonic() - start:.0f} s"
    )
    return 1 if session.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
