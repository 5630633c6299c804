"""Functions that write into tensors they made and into views, and plain oracles."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from jaxtorch import jvp, vjp, vmap


def through(transform: str, func: Any, x: Tensor) -> Tensor:
    """Return the values of ``func`` at ``x`` through one transform."""
    if transform == "vmap":
        return vmap(func)(x.expand(2, *x.shape).clone())[1]
    if transform == "jvp":
        return jvp(func, (x.clone(),), (torch.ones_like(x),))[0]
    return vjp(func, x.clone())[0]


def fresh(x: Tensor) -> Tensor:
    y = torch.zeros(3)
    y += x
    return y


def fresh_row(x: Tensor) -> Tensor:
    y = torch.zeros(2, 3)
    y[1] = x
    y[0, 1:] = x[:2]
    return y


def fresh_column(x: Tensor) -> Tensor:
    y = torch.ones(3, 4)
    y[:, 1].mul_(x)
    y.t()[2].copy_(x)
    return y


def view_of_view(x: Tensor) -> Tensor:
    y = torch.zeros(6)
    z = y.view(2, 3)
    z[1] += x
    z.select(0, 0)[0:2].fill_(2)
    return y


def write_then_read_an_old_view(x: Tensor) -> Tensor:
    y = x.clone()
    head = y[:2]
    y.mul_(3)
    return torch.cat([head, y])


def write_through_a_view_then_read_the_base(x: Tensor) -> Tensor:
    y = x * 1
    y.view(3, 1).squeeze(1).neg_()
    return y


def two_views(x: Tensor) -> Tensor:
    y = x.clone()
    a, b = y[:2], y[1:]
    a += 1
    b *= 10
    a -= 5
    return torch.cat([a, b, y])


def diagonal(x: Tensor) -> Tensor:
    y = torch.zeros(3, 3)
    y.diagonal().copy_(x)
    y.diagonal(1).add_(x[0])
    return y


def transposed_in_place(x: Tensor) -> Tensor:
    y = torch.zeros(3, 2) + x.unsqueeze(1)
    y.t_()
    y.unsqueeze_(0)
    y[0, 0] = 7
    return y.squeeze_(0)


def expanded_copy(x: Tensor) -> Tensor:
    y = torch.empty(2, 3)
    y.copy_(x)
    return y.relu_()


def chain(x: Tensor) -> Tensor:
    return x.clone().add_(1).mul_(2).exp_().clamp_(max=5).sub_(x)


def index_put(x: Tensor) -> Tensor:
    y = torch.zeros(5)
    y[torch.tensor([4, 0, 3])] = x
    y.index_add_(0, torch.tensor([1, 1, 2]), x)
    return y


def masked(x: Tensor) -> Tensor:
    y = x.clone()
    y[torch.tensor([True, False, True])] = 9.0
    y.masked_fill_(y > 5, 4.0)
    return y


def swapped(x: Tensor) -> Tensor:
    y = x.clone()
    y[0], y[1] = y[1].clone(), y[0].clone()
    return y


def unbound(x: Tensor) -> Tensor:
    y = torch.zeros(3, 2)
    for i, row in enumerate(y.unbind(0)):
        row.add_(x[i])
    first, second = y.split(1, dim=1)
    first.zero_()
    left, right = y.chunk(2, dim=1)
    right.neg_()
    return y


def filled(x: Tensor) -> Tensor:
    y = x.clone()
    y.fill_(3.0)
    y[1] = x[0]
    y[2:].zero_()
    return y


def set_by_out_of_place(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:] = x
    y[...] += 1
    return y


def augmented(x: Tensor) -> Tensor:
    total = torch.zeros(())
    for e in x:
        total += e * e
    return total


PROGRAMS = [
    fresh,
    fresh_row,
    fresh_column,
    view_of_view,
    write_then_read_an_old_view,
    write_through_a_view_then_read_the_base,
    two_views,
    diagonal,
    transposed_in_place,
    expanded_copy,
    chain,
    index_put,
    masked,
    swapped,
    unbound,
    filled,
    set_by_out_of_place,
    augmented,
]


EACH = pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)


def in_float64(program: Any) -> Any:
    """Let a program make its own tensors in float64."""

    def call(x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        try:
            return program(x)
        finally:
            torch.set_default_dtype(torch.float32)

    return call


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Compare with central differences."""
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def slopes(func: Any, x: Tensor) -> Tensor:
    """Return the Jacobian by central differences."""
    step = 1e-6
    columns = [
        (func(x + step * e) - func(x - step * e)) / (2 * step)
        for e in torch.eye(x.numel(), dtype=x.dtype)
    ]
    return torch.stack(columns, -1)
