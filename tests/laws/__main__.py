"""A command that checks the laws of some operators.

To check some operators (names of PyTorch's operator database, ``*`` allowed):

    python -m tests.laws sin cos 'nn.functional.conv*'
    python -m tests.laws --like softmax --laws batch,vjp --samples 6 -v

prints one line per operator and one column per law: ``ok``, ``FAIL``, ``-`` where the
law says nothing; ``-v`` prints the reason of each failure and ``-``, ``--trace`` its
traceback.
``--list WORD`` prints the names that contain WORD, ``--dtype complex128`` tries another
dtype, ``--full`` takes all laws (the default is those marked quick).
"""

import argparse
import fnmatch
import sys
import traceback
from collections.abc import Sequence

import torch

from tests.law_cases import NAMES, NotApplicableError
from tests.laws import LAWS, QUICK, check


def outcome(
    name: str, law: str, samples: int, dtype: torch.dtype | None
) -> tuple[str, Exception | None]:
    """Return "ok", "-" or "FAIL", and the reason."""
    try:
        return check(name, law, samples, dtype), None
    except NotApplicableError as error:
        return "-", error
    except Exception as error:
        return "FAIL", error


def select(patterns: Sequence[str], like: str | None) -> list[str]:
    """Return the names of operators that match."""
    names = [n for n in NAMES if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    return names + [n for n in NAMES if like and like in n and n not in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of laws of the chosen operators."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--like")
    parser.add_argument("--list")
    parser.add_argument("--laws", default="")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--dtype")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args(argv)
    if options.list is not None:
        print(*[n for n in NAMES if options.list in n], sep="\n")
        return 0
    laws = options.laws.split(",") if options.laws else LAWS if options.full else QUICK
    dtype = getattr(torch, options.dtype) if options.dtype else None
    names = select(options.names, options.like)
    width = max([len(n) for n in names], default=2)
    print(" " * width, *[f"{law:>13}" for law in laws])
    failed = 0
    for name in names:
        results = {law: outcome(name, law, options.samples, dtype) for law in laws}
        failed += any(word == "FAIL" for word, _ in results.values())
        print(f"{name:{width}}", *[f"{word:>13}" for word, _ in results.values()])
        for law, (word, error) in results.items():
            if error is None or not (options.verbose or options.trace):
                continue
            if word == "-":
                print(f"    {law}: {error}")
                continue
            notes = "; ".join(getattr(error, "__notes__", []))
            text = str(error).strip().replace("\n", "\n      ")
            print(f"    {law}: {notes}\n      {type(error).__name__}: {text}")
            if options.trace:
                traceback.print_exception(error)
    print(f"{len(names)} operators, {failed} with failures")
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main())
