"""Dims that one example does not have are refused under vmap, as without it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import vmap
from jaxtorch.core.level import STATE
from jaxtorch.errors import DimError

FIRST = torch.tensor([0])
ZEROS = torch.zeros(3, dtype=torch.int64)
METHODS = """
    sum mean amax prod var logsumexp any all max median mode argmax softmax log_softmax
    cumsum cumprod cummax sort argsort flip squeeze unsqueeze unbind nansum
    count_nonzero
"""


def method(name: str) -> Callable[[Tensor, int], Any]:
    """Call a method of a tensor with the dim as its only argument."""
    return lambda x, dim: getattr(x, name)(dim)


OPERATORS: dict[str, Callable[[Tensor, int], Any]] = {
    **{name: method(name) for name in METHODS.split()},
    "aminmax": lambda x, d: torch.aminmax(x, dim=d),
    "cat": lambda x, d: torch.cat([x, x], d),
    "diff": lambda x, d: x.diff(dim=d),
    "fft": lambda x, d: torch.fft.fft(x, dim=d),
    "gather": lambda x, d: x.gather(d, ZEROS),
    "index_select": lambda x, d: x.index_select(d, FIRST),
    "narrow": lambda x, d: x.narrow(d, 0, 1),
    "permute": lambda x, d: x.permute(d),
    "roll": lambda x, d: x.roll(1, d),
    "scatter": lambda x, d: x.scatter(d, ZEROS, 1.0),
    "select": lambda x, d: x.select(d, 0),
    "split": lambda x, d: x.split(1, d),
    "stack": lambda x, d: torch.stack([x, x], d),
    "topk": lambda x, d: x.topk(1, d),
    "transpose": lambda x, d: x.transpose(0, d),
    "unfold": lambda x, d: x.unfold(d, 2, 1),
}
NEW_DIM = ("unsqueeze", "stack")


@pytest.mark.parametrize("in_dim", [0, 1])
@pytest.mark.parametrize("name", OPERATORS)
def test_dims_of_the_batch_are_not_those_of_an_example(name: str, in_dim: int) -> None:
    func = OPERATORS[name]
    x = torch.arange(12.0).reshape(4, 3).movedim(0, in_dim)
    new = name in NEW_DIM
    for dim in (1 + new, 2 + new, -2 - new, -5):
        with pytest.raises(IndexError):
            func(torch.ones(3), dim)
        with pytest.raises(IndexError):
            vmap(lambda x, dim=dim: func(x, dim), in_dim)(x)
        assert STATE.levels == []


@pytest.mark.parametrize("name", ["sum", "softmax", "argmax", "transpose", "squeeze"])
def test_examples_without_dims(name: str) -> None:
    func, x = OPERATORS[name], torch.arange(4.0)
    for dim in (0, -1):
        assert_close(
            vmap(lambda x, dim=dim: func(x, dim))(x),
            torch.stack([func(e, dim) for e in x]),
        )
    with pytest.raises(IndexError):
        vmap(lambda x: func(x, 1))(x)


def test_the_error_tells_how_to_count() -> None:
    with pytest.raises(DimError, match="which has 1 dims") as caught:
        vmap(lambda x: x.sum(1))(torch.ones(4, 3))
    assert "without the batch dim" in str(caught.value)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (torch.dot, ((1,), (3,))),
        (torch.dot, ((3, 3), (3,))),
        (torch.mv, ((3,), (3,))),
        (torch.mv, ((3, 3), (3, 3))),
        (torch.mm, ((3,), (3, 3))),
        (torch.mm, ((2, 3, 3), (3, 3))),
        (torch.matmul, ((1,), (3,))),
    ],
)
def test_products_of_other_shapes(product: Any, shapes: Any, in_dims: Any) -> None:
    with pytest.raises(RuntimeError):
        product(torch.ones(shapes[0]), torch.ones(shapes[1]))
    args = [
        torch.ones(shape if dim is None else (4, *shape))
        for shape, dim in zip(shapes, in_dims, strict=True)
    ]
    with pytest.raises(RuntimeError):
        vmap(product, in_dims)(*args)
