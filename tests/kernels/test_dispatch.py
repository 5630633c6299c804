"""Where kernels run: the switch, and the way from rules and from jit to a kernel."""

import threading

import pytest
import torch

import jaxtorch
from jaxtorch.errors import ArgumentError
from jaxtorch.kernels import OPERATORS, language
from tests.kernels.harness import DEVICE, graph_of

WEIGHT = "jaxtorch.per_sample_weight.default"


def per_sample_gradients(w, xs):
    """Differentiate a loss of a linear layer for each sequence."""

    def loss(w, x):
        return torch.tanh(x @ w.T).square().sum()

    return jaxtorch.vmap(jaxtorch.grad(loss), (None, 0))(w, xs)


def inputs():
    torch.manual_seed(1)
    return torch.randn(40, 24, device=DEVICE), torch.randn(5, 3, 24, device=DEVICE)


@pytest.fixture
def launches(monkeypatch):
    """Count launches."""
    counts = []
    kernel = type(language.dot)
    original = kernel.__getitem__

    def counted(self, grid):
        counts.append(self)
        return original(self, grid)

    monkeypatch.setattr(kernel, "__getitem__", counted)
    return counts


def test_forced_kernels_give_the_same(launches):
    with jaxtorch.kernels_mode("off"):
        expected = per_sample_gradients(*inputs())
    assert not launches
    with jaxtorch.kernels_mode("force"):
        out = per_sample_gradients(*inputs())
        assert len(launches) == 1
        staged = jaxtorch.jit(per_sample_gradients)(*inputs())
    assert len(launches) == 3, "the gradient of tanh is a kernel of its own"
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(staged, expected)


def test_the_graph_names_the_kernels():
    with jaxtorch.kernels_mode("force"):
        assert WEIGHT in graph_of(per_sample_gradients, *inputs())
    with jaxtorch.kernels_mode("off"):
        assert WEIGHT not in graph_of(per_sample_gradients, *inputs())


def test_jit_stages_anew_for_another_mode():
    staged = jaxtorch.jit(per_sample_gradients)
    for mode in ("off", "force", "off"):
        with jaxtorch.kernels_mode(mode):
            staged(*inputs())
    assert staged.cache_info().misses == 2


def test_nested_transforms_reach_kernels(launches):
    w, xs = inputs()
    xs = torch.stack([xs, xs * 2])

    def nested(w, xs):
        return jaxtorch.vmap(per_sample_gradients, (None, 0))(w, xs)

    with jaxtorch.kernels_mode("off"):
        expected = nested(w, xs)
    with jaxtorch.kernels_mode("force"):
        torch.testing.assert_close(nested(w, xs), expected)
    assert launches


def test_tracked_tensors_stay_on_aten(launches):
    a = torch.randn(2, 3, 4, requires_grad=True)
    g = torch.randn(2, 3, 5)
    with jaxtorch.kernels_mode("force"):
        out = torch.ops.jaxtorch.per_sample_weight(a, g)
        assert out.requires_grad
        assert not OPERATORS["per_sample_weight"].chosen(a, g)
    assert not launches
    out.sum().backward()
    torch.testing.assert_close(a.grad, g.sum(2, keepdim=True).expand(2, 3, 4))


@pytest.mark.skipif(DEVICE == "cuda", reason="auto runs the kernels there")
def test_auto_leaves_the_cpu_alone(launches):
    assert jaxtorch.config.kernels == "auto"
    per_sample_gradients(*inputs())
    assert not launches


def test_the_mode_of_a_thread():
    seen = []
    with jaxtorch.kernels_mode("off"):
        other = threading.Thread(target=lambda: seen.append(jaxtorch.config.kernels))
        other.start()
        other.join()
        seen.append(jaxtorch.config.kernels)
    assert [*seen, jaxtorch.config.kernels] == ["auto", "off", "auto"]


def test_the_mode_of_all_threads():
    seen = []
    try:
        jaxtorch.config.kernels = "off"
        other = threading.Thread(target=lambda: seen.append(jaxtorch.config.kernels))
        other.start()
        other.join()
    finally:
        jaxtorch.config.kernels = "auto"
    assert seen == ["off"]


def test_an_unknown_mode_is_refused():
    with pytest.raises(ArgumentError, match="'auto', 'off', 'force'"):
        jaxtorch.config.kernels = "on"
