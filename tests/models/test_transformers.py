"""GPT-2 and BERT of the ``transformers`` package, small and with random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.checks import CHECKS, Problem, freeze

transformers = pytest.importorskip(
    "transformers", reason="pip install transformers, to test its models"
)

WORDS = 13
WIDTH = 8
STEPS = 5


class Scores(nn.Module):
    """A model of the package as a function from words, or embeddings, to scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        name = "inputs_embeds" if x.is_floating_point() else "input_ids"
        return self.model(**{name: x}).logits


def gpt2(attention: str) -> nn.Module:
    """Build GPT-2."""
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=STEPS,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        use_cache=False,
        attn_implementation=attention,
    )
    return transformers.GPT2LMHeadModel(config)


def bert(attention: str) -> nn.Module:
    """Build BERT."""
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        # torch.autograd's second derivative of an embedding with padding is wrong.
        pad_token_id=None,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=STEPS,
        attn_implementation=attention,
    )
    return transformers.BertForMaskedLM(config)


def word_loss(scores: Tensor, words: Tensor) -> Tensor:
    """Return the cross-entropy over all steps."""
    return F.cross_entropy(scores.flatten(0, 1), words.flatten())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("build", [gpt2, bert])
def test_model(
    build: Callable[[str], Any], attention: str, check: Callable[[Problem], None]
) -> None:
    module = freeze(Scores(build(attention)))
    words, targets = torch.randint(WORDS, (2, 3, STEPS))
    point = torch.randn(1, STEPS, WIDTH, dtype=torch.float64)
    check(Problem(module.eval(), words, targets, word_loss, point))
