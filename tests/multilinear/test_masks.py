"""What a mask hides may be infinite: it stays hidden where products are rewritten."""

import pytest
import torch

import jaxtorch
from jaxtorch.staging.multilinear import optimizer


def differences(r):
    d = r[:, None] - r[None]
    return d, 1 / (d * d).sum(-1)[:, :, None]


def by_where(r):
    d, inverse = differences(r)
    other = ~torch.eye(len(r), dtype=torch.bool)[:, :, None]
    return torch.where(other, d * inverse, torch.zeros_like(d)).sum(1)


def by_fill(r):
    d, inverse = differences(r)
    return (d * inverse).masked_fill(torch.eye(len(r)).bool()[:, :, None], 0).sum(1)


@pytest.mark.parametrize("func", [by_where, by_fill])
def test_hidden_infinities(func, monkeypatch):
    monkeypatch.setattr(optimizer, "GAIN", float("inf"))
    monkeypatch.setattr(optimizer, "LEAST_GAIN", float("-inf"))
    r = torch.randn(5, 3, dtype=torch.float64)
    d, inverse = differences(r)
    assert not (d * inverse).isfinite().all()
    expected = torch.stack(
        [
            sum((a - b) / ((a - b) @ (a - b)) for j, b in enumerate(r) if j != i)
            for i, a in enumerate(r)
        ]
    )
    staged = jaxtorch.jit(func)
    assert staged.lower(r).staged.rewrites
    torch.testing.assert_close(staged(r), expected)
