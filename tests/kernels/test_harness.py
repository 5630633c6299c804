"""The harness refuses wrong kernels."""

from dataclasses import replace

import pytest
import torch

from jaxtorch.kernels import OPERATORS
from tests.kernels.harness import check, random

NAME = "per_sample_weight"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, g: torch.bmm(g.mT, a) * 1.001,
        lambda a, g: torch.bmm(a.mT, g).mT,
        lambda a, g: torch.bmm(g.mT, a).double(),
        lambda a, g: a.new_empty(a.shape[0], g.shape[2], a.shape[2]),
    ],
    ids=["value", "strides", "dtype", "unwritten"],
)
def test_a_wrong_kernel_is_seen(wrong, monkeypatch):
    args = random(2, 3, 4), random(2, 3, 5)
    check(NAME, *args, config=None)
    monkeypatch.setitem(
        OPERATORS,
        NAME,
        replace(OPERATORS[NAME], launcher=lambda a, g, config: wrong(a, g)),
    )
    with pytest.raises(AssertionError):
        check(NAME, *args, config=None)


def test_a_call_that_would_not_reach_the_kernel_is_seen():
    args = random(2, 3, 4).double(), random(2, 3, 5).double()
    with pytest.raises(AssertionError, match="reach the kernel"):
        check(NAME, *args)
