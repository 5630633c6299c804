"""Small modules that share, count and fail, and comparisons of their state."""

import torch
from torch import nn

import jaxtorch


def same(actual, expected):
    torch.testing.assert_close(actual, expected)


def state_of(module):
    """Every slot of a module and the very object in it."""
    return {
        (path, key): value
        for path, child in module.named_modules(remove_duplicate=False)
        for table in (child._parameters, child._buffers, child.__dict__)
        for key, value in table.items()
        if value is None or isinstance(value, torch.Tensor)
    }


class Mlp(nn.Module):
    """Two layers around a batch norm."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, 2)

    def forward(self, x, *, scale=1.0):
        return self.second(self.norm(self.first(x)).tanh()) * scale


class Counter(nn.Module):
    """Assigns a new tensor to its buffer in every call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return x * self.count


class Tied(nn.Module):
    """Two names, one parameter."""

    def __init__(self):
        super().__init__()
        self.left = nn.Parameter(torch.ones(2))
        self.right = self.left

    def forward(self, x):
        return x * self.left + self.right


class Fails(nn.Module):
    """Writes to a buffer, then raises."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen = self.seen + x
        raise ZeroDivisionError


def mse(model, params, x, y):
    return nn.functional.mse_loss(jaxtorch.functional_call(model, params, x), y)


def frozen(module):
    return module.requires_grad_(False)
