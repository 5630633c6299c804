"""Takes every normal form, cheaper or not, so that tests see them all.

``pytest -p tests.under_jit -p tests.multilinear.forced tests/test_grad.py ...`` runs
the tests of the transforms so, and the fuzz is run so by
``python -m tests.multilinear.forced --programs 1000 --seed 1``.
"""

import contextlib
import sys
from collections.abc import Iterator

import pytest

from jaxtorch.staging.multilinear import optimizer
from tests.fuzz.__main__ import main as fuzz


@contextlib.contextmanager
def forced() -> Iterator[None]:
    """Take every form that can be lowered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "GAIN", float("inf"))
        patch.setattr(optimizer, "LEAST_GAIN", float("-inf"))
        yield


@pytest.fixture(autouse=True)
def forced_forms() -> Iterator[None]:
    """Take every form in a test, where this module is a plugin or imported."""
    with forced():
        yield


def main() -> int:
    """Run the fuzz with its arguments."""
    with forced():
        return fuzz(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
