"""Options of the test run: how much of the laws to check, and which part of them."""

import os
import warnings

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
torch.set_num_threads(1)

# PyTorch's operator database warns while it is imported.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.testing._internal.common_methods_invocations


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the laws."""
    group = parser.getgroup("laws")
    group.addoption(
        "--laws",
        choices=("quick", "full", "off"),
        default="quick",
        help="quick: the cheapest laws on one sample of every operator; full: all laws",
    )
    group.addoption(
        "--laws-shard", default="0/1", help="i/n: only shard i of n, by operator"
    )


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers."""
    torch.manual_seed(0)
