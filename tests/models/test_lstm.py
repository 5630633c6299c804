"""An LSTM and a GRU that classify texts."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jaxtorch
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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("both_ways", [True, False])
def test_fused_layer_of_float32(both_ways: bool, bias: bool) -> None:
    """On a CPU an LSTM of float32 calls a kernel that one of float64 has not."""
    fused = freeze(nn.LSTM(3, 4, 2, bias, bidirectional=both_ways)).float()
    plain = copy.deepcopy(fused).double()
    x = torch.randn(5, 6, 2, 3, dtype=torch.float64)

    def loss(module: nn.Module) -> Callable[..., Tensor]:
        def call(params: dict[str, Tensor], x: Tensor) -> Tensor:
            out, (hidden, cell) = jaxtorch.functional_call(module, params, x)
            return out.sin().sum() + hidden.cos().sum() + cell.square().sum()

        return call

    def derivatives(module: nn.Module, x: Tensor) -> tuple[object, ...]:
        params = {k: v.detach() for k, v in module.named_parameters()}
        per_sample = jaxtorch.vmap(jaxtorch.grad(loss(module)), (None, 0))(params, x)
        return per_sample, jaxtorch.hessian(loss(module), 1)(params, x[0])

    expected = derivatives(plain, x)
    actual = derivatives(fused, x.float())
    torch.testing.assert_close(
        actual, expected, check_dtype=False, rtol=1e-3, atol=1e-4
    )
