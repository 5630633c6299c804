"""Functions whose diagonals, traces and bands are known, and slow oracles of them."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jaxtorch import (
    jit,
)

DOUBLE = torch.float64


CHUNKS = pytest.mark.parametrize("chunk_size", [None, 1, 2, 4, 100])


WAYS = pytest.mark.parametrize("way", [lambda f: f, jit], ids=["eager", "jit"])


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


def coupled(x: Tensor) -> Tensor:
    """Every entry of the Hessian differs from zero."""
    return torch.tanh(x.flatten().cumsum(0)).prod() + x.sin().sum() ** 2


def field(x: Tensor) -> Tensor:
    """Every entry of the Jacobian differs from zero."""
    return (x.sum() * x).sin() + x.flatten().cumsum(0).reshape(x.shape) ** 2


def three(x: Tensor) -> Tensor:
    """Several outputs, in two dims."""
    return torch.stack([coupled(x), x.prod(), x.exp().sum()]).reshape(3, 1)


def tridiagonal(x: Tensor) -> Tensor:
    """A residual of which each entry sees its neighbours."""
    padded = torch.nn.functional.pad(x, (1, 1))
    return x.sin() * padded[2:] ** 2 + padded[:-2].exp()


def flat_hessian(func: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``[*out, n, n]`` by torch.func."""
    full = torch.func.jacrev(torch.func.jacrev(func))(x)
    return full.reshape(*func(x).shape, x.numel(), x.numel())


def flat_jacobian(func: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``[n, n]`` by torch.func."""
    return torch.func.jacrev(func)(x).reshape(x.numel(), x.numel())


def bands_of(func: Any, x: Tensor, lower: int, upper: int) -> Tensor:
    """The bands entry by entry, from the matrix of torch.func."""
    dense, n = flat_jacobian(func, x), x.numel()
    zero = torch.zeros((), dtype=x.dtype)
    rows = [
        [dense[j - k, j] if 0 <= j - k < n else zero for j in range(n)]
        for k in range(upper, -lower - 1, -1)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def mlp(*sizes: int, dtype: torch.dtype = DOUBLE) -> Callable[[Tensor], Tensor]:
    """Return tanh layers of fixed weights."""
    layers = [
        (torch.randn(o, i, dtype=dtype) / i**0.5, torch.randn(o, dtype=dtype))
        for i, o in itertools.pairwise(sizes)
    ]

    def network(x: Tensor) -> Tensor:
        for weight, bias in layers[:-1]:
            x = torch.tanh(torch.nn.functional.linear(x, weight, bias))
        return torch.nn.functional.linear(x, *layers[-1])

    return network


def largest(lowered: Any) -> int:
    """Return the most elements of any tensor that a staged function computes."""
    return max(
        value.numel()
        for node in lowered.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor)
    )
