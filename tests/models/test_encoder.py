"""``nn.TransformerEncoder`` with GELU, without and with dropout."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jaxtorch
from jaxtorch.errors import RandomnessError
from tests.models.checks import (
    CHECKS,
    Problem,
    compare,
    freeze,
    per_sample,
    per_sample_by_loop,
)

WIDTH = 8
STEPS = 5
CLASSES = 3


class Classifier(nn.Module):
    """An encoder whose first step says the class."""

    def __init__(self, dropout: float, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 12, dropout, F.gelu, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


def sequences(dropout: float = 0.0, norm_first: bool = False) -> Problem:
    """Draw sequences of vectors with labels."""
    module = freeze(Classifier(dropout, norm_first)).train()
    inputs = torch.randn(3, STEPS, WIDTH, dtype=torch.float64)
    targets = torch.randint(CLASSES, (3,))
    return Problem(module, inputs, targets, F.cross_entropy, inputs[:1])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("check", CHECKS)
def test_encoder(check: Callable[[Problem], None], norm_first: bool) -> None:
    check(sequences(norm_first=norm_first))


def same_example_twice() -> tuple[Problem, Tensor, Tensor]:
    """Return a problem with dropout, and a batch of one example, thrice."""
    problem = sequences(dropout=0.5)
    inputs = problem.inputs[:1].expand(3, STEPS, WIDTH)
    return problem, inputs, problem.targets[:1].expand(3)


def test_dropout_differs_between_examples() -> None:
    problem, x, y = same_example_twice()
    found = per_sample(problem, randomness="different")(problem.params, x, y)
    assert not torch.equal(found["head.weight"][0], found["head.weight"][1])


def test_dropout_is_shared_by_examples() -> None:
    problem, x, y = same_example_twice()
    found = per_sample(problem, randomness="same")(problem.params, x, y)
    for value in found.values():
        torch.testing.assert_close(value, value[:1].expand_as(value))
    torch.manual_seed(3)
    shared = per_sample(problem, randomness="same")(problem.params, x, y)
    torch.manual_seed(3)
    alone = jaxtorch.grad(problem.loss_of_one)(problem.params, x[0], y[0])
    compare({k: v[0] for k, v in shared.items()}, alone)


def test_dropout_needs_a_word_on_randomness() -> None:
    problem, x, y = same_example_twice()
    with pytest.raises(RandomnessError, match="randomness"):
        per_sample(problem)(problem.params, x, y)


def test_dropout_that_evaluates() -> None:
    problem = sequences(dropout=0.5)
    problem.module.eval()
    found = per_sample(problem)(problem.params, problem.inputs, problem.targets)
    compare(found, per_sample_by_loop(problem))


@torch.no_grad()
def test_fused_layer() -> None:
    """Without gradients an encoder that evaluates calls one kernel for each layer."""
    problem = sequences(dropout=0.5)
    module, x = problem.module.eval(), problem.inputs
    expected = module(x)
    for found in (
        jaxtorch.vmap(lambda x: module(x.unsqueeze(0)).squeeze(0), strict=True)(x),
        jaxtorch.jit(module)(x),
        jaxtorch.jvp(module, (x,), (x,))[0],
    ):
        torch.testing.assert_close(found, expected)
