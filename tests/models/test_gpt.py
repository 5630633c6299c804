"""A decoder in the style of GPT-2: causal attention, tied embedding and output."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.checks import CHECKS, Problem, freeze

WIDTH = 8
HEADS = 2
STEPS = 6
WORDS = 11


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.split = nn.Linear(WIDTH, 3 * WIDTH)
        self.join = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.split(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.join(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each of a normalized input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm_2, self.wide = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        wide = F.gelu(self.wide(self.norm_2(x)), approximate="tanh")
        return x + self.narrow(wide)


class Decoder(nn.Module):
    """Scores of the next word, from words or from their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(STEPS, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, WORDS, bias=False)
        self.output.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        embedded = x if x.is_floating_point() else self.words(x)
        positions = self.positions(torch.arange(x.shape[1]))
        return self.output(self.norm(self.blocks(embedded + positions)))


def next_word_loss(scores: Tensor, words: Tensor) -> Tensor:
    """Return the cross-entropy over all steps."""
    return F.cross_entropy(scores.flatten(0, 1), words.flatten())


def texts() -> Problem:
    """Draw texts."""
    module = freeze(Decoder())
    words = torch.randint(WORDS, (3, STEPS + 1))
    point = torch.randn(1, STEPS, WIDTH, dtype=torch.float64)
    return Problem(module, words[:, :-1], words[:, 1:], next_word_loss, point)


@pytest.mark.parametrize("check", CHECKS)
def test_decoder(check: Callable[[Problem], None]) -> None:
    check(texts())


def test_tied_weights_are_one_parameter() -> None:
    problem = texts()
    assert "output.weight" not in problem.params
    assert problem.module.output.weight is problem.module.words.weight
