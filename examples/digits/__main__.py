"""The command line: ``python -m examples.digits [--tiny] [--out PATH]``."""

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from examples.digits import curvature, figure, influence, newton
from examples.digits.data import load
from examples.digits.model import initial_params, train
from examples.digits.report import Row, table

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    train: int
    test: int
    wrong: int
    epochs: int
    newton_steps: int
    gradient_sample: int
    jacobian_sample: int
    hessian_sample: int


FULL = Size(1437, 360, 40, 30, 30, 512, 128, 1024)
TINY = Size(128, 32, 8, 2, 3, 16, 4, 32)


def study(size: Size, path: Path, seed: int = 0) -> list[Row]:
    """Run everything, save the picture at ``path``, and return the table's rows."""
    generator = torch.Generator().manual_seed(seed)
    digits = load(size.train, size.test, size.wrong, generator)
    start = initial_params(generator)
    epochs = progress("train the CNN")(range(size.epochs))
    params, history = train(start, digits, epochs, generator)
    influences, rows = influence.study(
        start, params, digits, size.gradient_sample, progress("per-sample gradients")
    )
    stages = progress("second derivatives")([newton, curvature])
    for stage in stages:
        if stage is newton:
            fit, own = newton.study(digits, size.newton_steps, generator)
        else:
            curve, own = curvature.study(
                params, digits, size.jacobian_sample, size.hessian_sample
            )
        rows += own
    figure.save(path, digits, history, influences, fit, curve)
    print(f"\nCNN: test accuracy {history[-1][1]:.1%} after {len(history)} epochs\n")
    return rows


def progress(what: str) -> Callable[[Iterable], Iterable]:
    """Return a function that shows a bar while its iterable is used up."""
    return lambda items: tqdm(items, desc=f"{what:22}", ncols=70)


def main(argv: list[str] | None = None) -> int:
    """Run the study, print the table; the exit code says whether all checks hold."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits")
    parser.add_argument("--tiny", action="store_true", help="a few seconds, for tests")
    parser.add_argument("--out", type=Path, default=Path("out/digits.png"))
    options = parser.parse_args(argv)
    rows = study(TINY if options.tiny else FULL, options.out)
    print(table(rows))
    print(f"\nThe picture is in {options.out}")
    wrong = [row.name for row in rows if not row.error < TOLERANCE]
    for name in wrong:
        print(f"FAILED: {name} differs from torch.autograd by more than {TOLERANCE}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
