"""A recommender: bags of embeddings meet a perceptron of the dense features."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.checks import CHECKS, Problem, freeze

ITEMS = 10
WIDTH = 3
DENSE = 4
BAG = 5


class Recommender(nn.Module):
    """The score of a user, who has dense features and a bag of items."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ITEMS, WIDTH, mode=mode)
        self.dense = nn.Sequential(nn.Linear(DENSE, WIDTH), nn.ReLU())
        self.head = nn.Bilinear(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        # The items are integers that travel with the dense features.
        items = x[:, DENSE:].long()
        return self.head(self.dense(x[:, :DENSE]), self.bag(items)).squeeze(-1)


class Peer(Recommender):
    """The same with a sum or a mean over ordinary embeddings."""

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.bag.weight[x[:, DENSE:].long()]
        bags = {"sum": embedded.sum, "mean": embedded.mean, "max": embedded.amax}
        bag = bags[self.bag.mode](1)
        return self.head(self.dense(x[:, :DENSE]), bag).squeeze(-1)


def users(mode: str) -> Problem:
    """Draw users, and whether they liked what they were shown."""
    module = freeze(Recommender(mode))
    dense = torch.randn(4, DENSE, dtype=torch.float64)
    items = torch.randint(ITEMS, (4, BAG)).double()
    inputs = torch.cat([dense, items], 1)
    liked = torch.randint(2, (4,)).double()
    loss = F.binary_cross_entropy_with_logits
    return Problem(module, inputs, liked, loss, inputs[:1], Peer(mode))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_recommender(mode: str, check: Callable[[Problem], None]) -> None:
    check(users(mode))
