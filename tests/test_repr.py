"""What wrappers print, and what debugging tools see of them."""

import copy

import pytest
import torch
from torch import Tensor

from jaxtorch import grad, jvp, vjp, vmap
from jaxtorch.core.level import STATE

X = torch.ones(2, 3)


def test_batched_tensor() -> None:
    seen = []
    vmap(lambda x: (seen.append(repr(x)), x)[1], in_dims=1)(X)
    assert "BatchTensor" in seen[0]
    assert "B=3 at dim 1" in seen[0]
    assert "per-example shape [2]" in seen[0]
    assert "tensor([[1., 1., 1.]" in seen[0]


def test_tensor_that_is_not_batched() -> None:
    seen = []
    vmap(lambda x: (seen.append(repr(torch.zeros(4))), x)[1])(X)
    assert "not batched" in seen[0]
    assert "[4]" in seen[0]


def test_dual_tensor() -> None:
    seen = []
    jvp(lambda x: (seen.append(repr(x)), x)[1], (X,), (X * 5,))
    assert "DualTensor" in seen[0]
    assert "primal=tensor([[1., 1., 1.]" in seen[0]
    assert "tangent=tensor([[5., 5., 5.]" in seen[0]


def test_taped_tensor() -> None:
    seen = []
    vjp(lambda x: (seen.append(repr(x)), x)[1], X)
    assert "TapeTensor" in seen[0]
    assert "tensor([[1., 1., 1.]" in seen[0]


def test_nested_wrappers_show_each_level() -> None:
    seen = []
    vmap(grad(lambda x: (seen.append(repr(x)), x.sum())[1]))(X)
    assert seen[0].index("TapeTensor") < seen[0].index("BatchTensor")


def test_printing_does_not_change_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 2
        print(x, y, f"{y}", str(y), [y])
        return (x * y).sum()

    assert torch.equal(grad(func)(X), 4 * X)
    assert torch.equal(vmap(grad(func))(X), 4 * X)
    assert "TapeTensor" in capsys.readouterr().out
    assert STATE.levels == []


def test_dead_wrappers_print() -> None:
    kept = []
    vmap(lambda x: (kept.append(x * 2), x)[1])(X)
    grad(lambda x: (kept.append(x * 2), x.sum())[1])(X)
    assert "BatchTensor" in repr(kept[0])
    assert "TapeTensor" in repr(kept[1])


def test_view_prints_the_value_after_a_write() -> None:
    seen = []

    def func(x: Tensor) -> Tensor:
        y = torch.zeros(3)
        view = y[1:]
        y += x
        seen.append(repr(view))
        return y

    vmap(func)(torch.full((2, 3), 7.0))
    assert "7., 7." in seen[0]


def test_isinstance_and_type_checks() -> None:
    def func(x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        assert torch.is_tensor(x)
        assert x.is_floating_point()
        assert not x.is_complex()
        assert x.is_contiguous()
        assert x.layout is torch.strided
        assert x.nelement() == 3
        assert x.size(0) == 3
        return x.sum()

    vmap(func)(X)
    grad(func)(X[0])


def test_deepcopy_and_hash_inside() -> None:
    def func(x: Tensor) -> Tensor:
        y = copy.copy({x: 1})
        assert x in y
        return x.clone().sum()

    assert torch.equal(grad(func)(X), X)
