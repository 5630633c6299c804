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


W, V = torch.randn(4, 6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
CUTS = {"relu": torch.relu, "relu6": torch.nn.functional.relu6}
READ = {
    "norms": lambda f: lambda x: jaxtorch.jacrev(f)(x).square().sum(1),
    "rows": lambda f: jaxtorch.vmap(lambda x: jaxtorch.jacrev(f)(x).sum(0)),
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("cut", CUTS)
def test_infinities_behind_a_slope_of_zero(cut, read, monkeypatch):
    """The root has an infinite derivative at zero, where that of ``relu`` is zero."""
    monkeypatch.setattr(optimizer, "GAIN", float("inf"))
    monkeypatch.setattr(optimizer, "LEAST_GAIN", float("-inf"))
    func = READ[read](lambda x: W @ CUTS[cut](V @ x).sqrt())
    x = torch.randn(*((3,) if read == "rows" else ()), 6, dtype=torch.float64)
    assert (torch.nn.functional.linear(x, V) < 0).any()
    expected = func(x)
    assert expected.isfinite().all()
    torch.testing.assert_close(jaxtorch.jit(func)(x), expected)


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
