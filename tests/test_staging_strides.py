"""Staged functions meet tensors that lie in memory in another way than in the trace."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jit, vmap

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


READS: dict[str, Callable[[Tensor], Tensor]] = {
    "as_strided": lambda x: x.as_strided((2, 2), (1, 2)) * 2,
    "stride": lambda x: x * x.stride(0),
    "is_contiguous": lambda x: x + 1 if x.is_contiguous() else x - 1,
    "vmap": vmap(lambda x: x * x.stride(0)),
    "grad": grad(lambda x: (x if x.t().is_contiguous() else -x).sum()),
}


@pytest.mark.parametrize("name", READS)
def test_a_layout_that_was_read_is_part_of_the_signature(name: str) -> None:
    func = READS[name]
    staged = jit(func)
    x = torch.arange(12.0).reshape(3, 4)
    columns = x.t().contiguous().t()
    for _ in range(2):
        for each in (x, columns):
            assert_close(staged(each), func(each))
    assert staged.cache_info()[:2] == (2, 2)


def test_an_offset_that_was_read_is_part_of_the_signature() -> None:
    func = vmap(lambda x: x + x.storage_offset())
    staged = jit(func)
    x = torch.arange(12.0).reshape(6, 2)
    for each in (x[:3], x[1:4], x[3:], x[:3]):
        assert_close(staged(each), func(each))
    assert staged.cache_info().misses == 3


def test_layouts_that_nobody_reads_share_a_graph() -> None:
    staged = jit(grad(lambda x, w: torch.tanh(F.linear(x, w)).sum()))
    x, w = torch.randn(3, 4), torch.randn(5, 4)
    for a in (x, x.t().contiguous().t()):
        for b in (w, w.t().contiguous().t()):
            staged(a, b)
    assert staged.cache_info().misses == 1


def test_what_a_write_reaches_depends_on_the_layout() -> None:
    def func(x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        flat[0] = 7.0
        return x + 0

    staged = jit(func)
    for turn in (False, True, False):
        x = torch.arange(6.0).reshape(2, 3)
        x = x.t() if turn else x
        other = x.clone()
        assert_close(staged(x), func(other))
        assert_close(x, other)


def test_a_backward_pass_reads_layouts_of_its_own() -> None:
    staged = jit(lambda x: x.as_strided((2, 2), (1, 2)) * x[:2, :2])
    for turn in (False, True):
        x = torch.arange(12.0).reshape(4, 3)
        x = (x.t() if turn else x).requires_grad_()
        cotangent = torch.randn(2, 2)
        for own in (cotangent, cotangent.t()):
            expected = x.as_strided((2, 2), (1, 2)) * x[:2, :2]
            (wanted,) = torch.autograd.grad(expected, x, own)
            assert_close(torch.autograd.grad(staged(x), x, own)[0], wanted)
