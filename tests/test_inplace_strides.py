"""A write keeps the strides of its target: what is read by strides afterwards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import grad, jacfwd, jacrev, jvp, vjp, vmap

FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "a transposed tensor": lambda x: (x * 0.5).copy_(x.t()),
    "a transposed constant": lambda x: (x * 0.5).copy_(torch.ones(3, 3).tril().t()),
    "a scalar": lambda x: (x * 0.5).copy_(torch.ones(())),
    "a row": lambda x: (x * 0.5).copy_(x[0]),
    "through a transposed view": lambda x: (y := x * 0.5, y.t().copy_(x))[0],
}
READS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda y: y.view(9).cumsum(0),
    "flatten, a view to write": lambda y: (y.flatten().mul_(torch.arange(9)), y)[1],
    "view_as_complex": lambda y: torch.view_as_complex(y[:, :2].contiguous()).imag,
    "as_strided": lambda y: y.clone().as_strided((9,), (1,)).cumsum(0),
    "as_strided_scatter": lambda y: torch.as_strided_scatter(
        y, y.new_ones(3), (3,), (y.stride(0),), 0
    ),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("fill", FILLS)
def test_a_write_keeps_the_strides_of_its_target(fill: str, read: str) -> None:
    f = lambda x: READS[read](FILLS[fill](x)).sin()  # noqa: E731
    x = torch.rand(3, 3, dtype=torch.float64)
    expected = f(x)
    assert_close(jvp(f, (x,), (x,))[0], expected)
    assert_close(vjp(f, x)[0], expected)
    assert_close(vmap(f)(x.unsqueeze(0))[0], expected)
    assert_close(vmap(lambda x: vjp(f, x)[0])(x.unsqueeze(0))[0], expected)
    columns = [(f(x + e) - f(x - e)) / 2e-6 for e in 1e-6 * basis_of(x)]
    slopes = torch.stack(columns, -1).unflatten(-1, x.shape)
    assert_close(jacrev(f)(x), slopes, atol=1e-8, rtol=1e-6)
    assert_close(jacfwd(f)(x), slopes, atol=1e-8, rtol=1e-6)


def basis_of(x: Tensor) -> Tensor:
    return torch.eye(x.numel(), dtype=x.dtype).unflatten(-1, x.shape)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_scatter_by_strides_into_what_a_write_made_the_same_for_all(dim: int) -> None:
    def f(x: Tensor) -> Tensor:
        y = (x * 0.5).zero_()
        return torch.as_strided_scatter(y, y.new_ones(2), (2,), (y.stride(0),), 0)

    x = torch.rand(2, 2, 2, dtype=torch.float64)
    expected = torch.stack([f(row) for row in x.unbind(dim)])
    assert_close(vmap(f, dim)(x), expected)
    slopes = vmap(grad(lambda x: f(x).sum()), dim)(x)
    assert_close(slopes, torch.zeros_like(x))
