"""An LSTM and a GRU that classify texts."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.checks import CHECKS, Problem, freeze

WORDS = 9
WIDTH = 4
CLASSES = 3


class Classifier(nn.Module):
    """A recurrent network whose last state says the class."""

    def __init__(self, kind: type[nn.RNNBase], both_ways: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.cells = kind(WIDTH, 5, 2, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(5 * (1 + both_ways), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        embedded = x if x.is_floating_point() else self.words(x)
        return self.head(self.cells(embedded)[0][:, -1])


def texts(kind: type[nn.RNNBase], both_ways: bool) -> Problem:
    """Draw texts with labels."""
    module = freeze(Classifier(kind, both_ways))
    words, targets = torch.randint(WORDS, (3, 5)), torch.randint(CLASSES, (3,))
    point = torch.randn(1, 5, WIDTH, dtype=torch.float64)
    return Problem(module, words, targets, F.cross_entropy, point)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("kind", "both_ways"),
    [(nn.LSTM, False), (nn.LSTM, True), (nn.GRU, False)],
    ids=["lstm", "lstm both ways", "gru"],
)
def test_classifier(
    kind: type[nn.RNNBase], both_ways: bool, check: Callable[[Problem], None]
) -> None:
    check(texts(kind, both_ways))
