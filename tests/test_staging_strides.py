"""Staged functions meet tensors that lie in memory in another way than in the trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jit, vmap
from jaxtorch.errors import UsageError

LEVELS = ("none", "safe", "full")


def layouts(x: Tensor) -> list[Tensor]:
    """Return the tensor in other layouts, and a broadcast one of its shape."""
    return [
        x.transpose(0, 2).contiguous().transpose(0, 2),
        torch.stack([x, x], 1)[:, 0],
        x[:1].expand(x.shape),
        x[:, :, :1].expand(x.shape),
    ]


def group_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.group_norm(x, 2, w).pow(2).tanh().sum()


def layer_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.layer_norm(x, (5,), w[:1].expand(5)).pow(2).tanh().sum()


def pool(x: Tensor, w: Tensor) -> Tensor:
    cube = (x[:, :, :, None] * w)[None]
    return F.adaptive_max_pool3d(cube, (2, 2, 2)).pow(2).sum()


@pytest.mark.parametrize("optimize", LEVELS)
@pytest.mark.parametrize("loss", [group_norm, layer_norm, pool])
def test_gradients_of_kernels_that_take_memory_for_contiguous(
    loss: object, optimize: str
) -> None:
    x, w = torch.randn(3, 4, 5).double(), torch.randn(4).double()
    gradients = grad(loss, argnums=(0, 1))
    staged = jit(gradients, optimize=optimize)
    for other in [x, *layouts(x)]:
        dense = other.clone(memory_format=torch.contiguous_format).requires_grad_()
        weight = w.clone().requires_grad_()
        expected = torch.autograd.grad(loss(dense, weight), (dense, weight))
        assert_close(staged(other, w), expected)
    assert staged.cache_info().misses == 1


@pytest.mark.parametrize("transform", [grad, lambda f: vmap(grad(f), (2, None))])
def test_a_product_that_is_laid_out_anew_feeds_a_norm(transform: object) -> None:
    x, w = torch.randn(3, 6, 5).double(), torch.randn(5, 4).double()
    scale = torch.randn(4).double()

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return group_norm(torch.einsum("nct,tk->nkc", x, w), scale)

    x = x if transform is grad else torch.stack([x, 2 * x], 2)
    assert_close(jit(transform(loss))(x, w), transform(loss)(x, w))


def test_as_strided_is_staged_for_one_layout() -> None:
    staged = jit(lambda x: x.as_strided((2, 2), (1, 2)) * 2)
    x = torch.arange(12.0).reshape(3, 4)
    assert_close(staged(x), x.as_strided((2, 2), (1, 2)) * 2)
    with pytest.raises(UsageError, match="index instead of as_strided"):
        staged(x.t().contiguous().t())
