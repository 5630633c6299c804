"""torch.autograd outside of a staged call: what is drawn, what has no derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import jaxtorch
from jaxtorch import jit

LEVELS = ("none", "safe", "full")


def dropped(x):
    return F.dropout(x, 0.5, True)


def scanned(x):
    def step(carry, x):
        return carry + dropped(x), carry

    return jaxtorch.scan(step, torch.zeros(4), x)[0]


@pytest.mark.parametrize("optimize", LEVELS)
@pytest.mark.parametrize("func", [dropped, scanned, lambda x: dropped(dropped(x) * x)])
def test_the_backward_draws_what_the_call_drew(func, optimize):
    x = torch.arange(1.0, 33.0).reshape(8, 4).requires_grad_()
    staged = jit(func, optimize=optimize)
    for seed in (0, 1):
        found = []
        for call in (staged, func):
            torch.manual_seed(seed)
            out = call(x)
            drawn = torch.rand(3)
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            more = torch.autograd.grad((slope * x).sum(), x)
            found.append((out, drawn, slope, more, torch.rand(3)))
        assert_close(*found)


def test_a_generator_of_its_own_is_set_back_and_forth():
    generator = torch.Generator()
    x = torch.ones(100, requires_grad=True)

    def noisy(x):
        return x * torch.rand(100, generator=generator)

    found = []
    for call in (jit(noisy), noisy):
        generator.manual_seed(3)
        out = call(x)
        found.append((out, *torch.autograd.grad(out.sum(), x), generator.get_state()))
    assert_close(*found)


@pytest.mark.parametrize("optimize", LEVELS)
def test_only_what_depends_on_a_tracked_input_requires_grad(optimize):
    def func(x, y):
        with torch.no_grad():
            hidden = x * 4
        own = torch.ones(3), x.detach() * 3, hidden, x.argmax()
        return x * 2, y * 3, *own

    x, y = torch.ones(3, requires_grad=True), torch.ones(3)
    results = jit(func, optimize=optimize)(x, y)
    assert [r.requires_grad for r in results] == [r.requires_grad for r in func(x, y)]


@pytest.mark.parametrize("optimize", LEVELS)
def test_inputs_that_are_not_reached_have_no_grad(optimize):
    x, y = (torch.ones(3, requires_grad=True) for _ in range(2))
    first, _ = jit(lambda x, y: (x * 2, y * 3), optimize=optimize)(x, y)
    own, other = torch.autograd.grad(first.sum(), (x, y), allow_unused=True)
    assert_close(own, torch.full((3,), 2.0))
    assert other is None


def test_no_work_is_done_for_a_result_without_a_cotangent():
    weight = torch.ones(3, 3, requires_grad=True)
    staged = jit(lambda x: (x.sin(), x @ weight), backend="python")
    x = torch.ones(3, 3, requires_grad=True)
    staged(x)[0].sum().backward()
    (entry,) = staged.cache.values()
    (pull,) = entry.backwards.values()
    targets = [str(node.target) for node in pull.graph.nodes]
    assert "aten.cos.default" in targets
    assert not any("mm" in target for target in targets)


def test_a_batch_norm_in_train_mode_keeps_its_statistics():
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    true = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    true.load_state_dict(own.state_dict())
    staged = jit(lambda x: own(x).square().sum())
    for _ in range(3):
        x = torch.randn(4, 2, 5, 5)
        staged(x).backward()
        true(x).square().sum().backward()
    assert_close(own.state_dict(), true.state_dict())
    for a, b in zip(own.parameters(), true.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
