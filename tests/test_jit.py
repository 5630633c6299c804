"""``jit``: the same numbers as eager, everywhere; nothing lost, nothing stale."""

import logging

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import jaxtorch
from jaxtorch import jit
from jaxtorch.staging.lowered import Lowered
from tests.checked_graphs import checked_graphs  # noqa: F401 - used by every test
from tests.live_bytes import peak_bytes as eager_peak

X = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)
W = torch.linspace(-0.5, 0.7, 9, dtype=torch.float64).reshape(3, 3)


def layer(x):
    return torch.tanh(W @ x)


def energy(x):
    return (layer(x) ** 3).sum()


STAGED = {
    "plain": (layer, X[0]),
    "vmap": (jaxtorch.vmap(layer), X),
    "grad": (jaxtorch.grad(energy), X[0]),
    "vmap(grad)": (jaxtorch.vmap(jaxtorch.grad(energy)), X),
    "jacrev": (jaxtorch.jacrev(layer), X[0]),
    "jacfwd": (jaxtorch.jacfwd(layer), X[0]),
    "hessian": (jaxtorch.hessian(energy), X[0]),
    "vmap(hessian)": (jaxtorch.vmap(jaxtorch.hessian(energy)), X),
    "hessian(hessian)": (jaxtorch.hessian(jaxtorch.hessian(energy)), X[0]),
    "jvp": (lambda x: jaxtorch.jvp(layer, (x,), (x,)), X[0]),
    "linearize": (lambda x: jaxtorch.linearize(layer, x)[1](x), X[0]),
    "hvp": (lambda x: jaxtorch.hvp(energy, (x,), (x,)), X[0]),
}


@pytest.mark.parametrize("optimize", ["none", "full"])
@pytest.mark.parametrize("name", STAGED)
def test_equals_eager(name, optimize):
    func, x = STAGED[name]
    staged = jit(func, optimize=optimize)
    torch.testing.assert_close(staged(x), func(x))
    torch.testing.assert_close(staged(x + 0.1), func(x + 0.1))
    assert staged.cache_info()[:2] == (1, 1)


@pytest.mark.parametrize(
    "transform",
    [
        jaxtorch.grad,
        jaxtorch.hessian,
        lambda f: jit(f),
        lambda f: jit(jaxtorch.grad(f)),
    ],
)
def test_transforms_see_through(transform):
    torch.testing.assert_close(transform(jit(energy))(X[0]), transform(energy)(X[0]))
    torch.testing.assert_close(jaxtorch.vmap(jit(layer))(X), jaxtorch.vmap(layer)(X))


def test_captured_tensors_are_read_by_reference():
    weight = torch.ones(3)
    staged = jit(lambda x: torch.cos(weight) * x)
    x = torch.ones(3)
    staged(x)
    weight.mul_(2)
    torch.testing.assert_close(staged(x), torch.cos(weight) * x)


def test_writes_to_local_values_inputs_and_captured_tensors():
    count = torch.zeros(())

    def step(x):
        out = torch.zeros(3)
        out[0] = x[0]
        out += 1
        x.mul_(2)
        count.add_(1)
        return out, "done"

    x = torch.tensor([3.0, 4.0])
    staged = jit(step)
    for _ in range(2):
        out, word = staged(x)
    assert word == "done"
    torch.testing.assert_close(out, torch.tensor([7.0, 1.0, 1.0]))
    torch.testing.assert_close(x, torch.tensor([12.0, 16.0]))
    assert count.item() == 2


def test_random_numbers_are_drawn_at_each_call_as_in_eager():
    def noisy(x):
        return jaxtorch.vmap(lambda x: x + torch.rand(3), randomness="different")(x)

    staged = jit(noisy)
    x = torch.zeros(4, 3)
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn = staged(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(drawn, noisy(x))


def test_torch_autograd_outside_to_second_order():
    weight = W.clone().requires_grad_()
    x = X[0].clone().requires_grad_()

    def loss(x):
        return torch.tanh(weight @ x).pow(2).sum()

    staged = jit(loss)
    for func in (staged, loss):
        grads = torch.autograd.grad(func(x), (weight, x), create_graph=True)
        second = torch.autograd.grad(
            grads[0].pow(2).sum() + grads[1].sum(), (weight, x)
        )
        if func is staged:
            expected = grads, second
    torch.testing.assert_close(expected, (grads, second))


def test_arguments_of_every_kind():
    @jit
    def func(tree, scale, *, shift=0):
        return {"out": tree["a"] * scale + shift, "n": scale}

    tree = {"a": X}
    torch.testing.assert_close(func(tree, 2)["out"], X * 2)
    torch.testing.assert_close(func(tree, 3, shift=X)["out"], X * 3 + X)
    assert func(tree, 3)["n"] == 3
    assert func.cache_info().currsize == 3
    func.clear_cache()
    assert func.cache_info() == (0, 0, 256, 0)


def test_static_arguments():
    func = jit(lambda x, mode: x.sum() if mode == {"sum"} else x, static_argnums=1)
    with pytest.raises(TypeError, match="pass tensors, or hashable"):
        func(X, {"sum"})
    func = jit(lambda x, mode: x.sum() if mode == "sum" else x, static_argnums=(1,))
    torch.testing.assert_close(func(X, "sum"), X.sum())
    torch.testing.assert_close(func(X, "all"), X)


def test_methods_can_be_decorated():
    class Model:
        scale = 3

        @jit
        def forward(self, x):
            return x * self.scale

    torch.testing.assert_close(Model().forward(X), X * 3)


def test_a_branch_on_a_value_is_refused_with_the_line():
    def choose(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(RuntimeError, match=r"(?s)test_jit.py.*Fix: use torch.where"):
        jit(choose)(X)
    torch.testing.assert_close(jit(layer)(X[0]), layer(X[0]))


def test_misses_are_explained(caplog):
    staged = jit(torch.sin)
    with caplog.at_level(logging.INFO, "jaxtorch.jit"):
        staged(torch.ones(2))
        staged(torch.ones(3))
    assert "the first call" in caplog.text
    assert "was float32[2] on cpu and is float32[3] on cpu" in caplog.text


def test_lower_shows_what_runs():
    lowered = jit(lambda x: torch.tanh(x @ W) + 1, backend="python").lower(X)
    assert lowered.code.startswith("def run(x0, c0):")
    assert lowered.flops == 2 * 4 * 3 * 3
    assert "aten.mm.default" in lowered.explain()
    assert lowered.peak_bytes == X.numel() * 8


def test_the_first_layer_of_a_jacobian_is_the_weight():
    staged = jit(jaxtorch.jacrev(lambda x: W @ x))
    calls = [n for n in staged.lower(X[0]).graph.nodes if n.op == "call_function"]
    assert [n.target for n in calls] == [torch.ops.aten.clone.default]
    torch.testing.assert_close(staged(X[0]), W)


def test_results_share_memory_only_where_the_function_says_so():
    def func(x):
        return x + 0, torch.zeros(3), torch.zeros(3), x

    x = torch.ones(3)
    results = jit(func)(x)
    results[0].mul_(7)
    results[1].add_(1)
    torch.testing.assert_close(results[2], torch.zeros(3))
    torch.testing.assert_close(x, torch.ones(3))
    assert results[3] is x
    torch.testing.assert_close(jit(func)(x)[1], torch.zeros(3))


def test_constants_are_computed_once():
    lowered = jit(lambda x: x * torch.arange(3).sin()).lower(X)
    assert "arange" not in lowered.code
    torch.testing.assert_close(lowered.staged([X]), X * torch.arange(3).sin())


def tracked_peak(run, *args):
    """Return the most bytes held by storages that a run makes."""
    peak = 0
    alive = {}
    outside = {a.untyped_storage()._cdata for a in args}

    class Track(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal peak
            out = func(*args, **(kwargs or {}))
            for tensor in [out] if isinstance(out, torch.Tensor) else out:
                storage = tensor.untyped_storage()
                if storage._cdata not in outside:
                    alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
            for key in [k for k, (ref, _) in alive.items() if ref.expired()]:
                del alive[key]
            peak = max(peak, sum(n for _, n in alive.values()))
            return out

    with Track(), torch.no_grad():
        run(*args)
    return peak


@pytest.mark.parametrize("name", STAGED)
def test_peak_bytes_is_what_a_tracking_allocator_sees(name):
    func, x = STAGED[name]
    staged = jit(func, backend="python").lower(x).staged
    args = [x, *staged.captured]
    assert Lowered(staged).peak_bytes == tracked_peak(staged.run, *args)
    assert Lowered(staged).peak_bytes <= eager_peak(func, x)


def test_make_graph_is_not_optimized():
    graph = jaxtorch.make_graph(lambda x: torch.sin(x) + torch.sin(x))(X)
    names = [node.name for node in graph.nodes if node.op == "call_function"]
    assert names == ["sin_default", "sin_default_1", "add_tensor"]


def test_one_graph_for_every_batch_size():
    def func(x, y):
        scale = torch.arange(x.shape[0]).unsqueeze(1)
        rows = jaxtorch.vmap(jaxtorch.grad(energy))(x) * scale
        return torch.cat([rows, y]).reshape(-1, 1)[2:]

    staged = jit(func, dynamic=True)
    for size in (4, 6, 9, 2, 30):
        x = torch.linspace(-1, 1, 3 * size, dtype=torch.float64).reshape(size, 3)
        torch.testing.assert_close(staged(x, x), func(x, x))
    assert staged.cache_info()[:2] == (3, 2)
    torch.testing.assert_close(staged(X, X[:1]), func(X, X[:1]))


def test_a_size_that_is_no_linear_function_is_staged_again():
    staged = jit(lambda x: x.sum() / x.shape[0] ** 2, dynamic=True)
    for size in (2, 3, 5, 7):
        torch.testing.assert_close(staged(torch.ones(size)), torch.tensor(1 / size))
    assert staged.cache_info().misses == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Inductor itself
def test_inductor_gives_the_same_numbers():
    staged = jit(STAGED["vmap(grad)"][0], backend="inductor")
    x = X.clone().requires_grad_()
    torch.testing.assert_close(staged(x), STAGED["vmap(grad)"][0](X))
    (pulled,) = torch.autograd.grad(staged(x).sum(), x)
    expected = jaxtorch.grad(lambda x: STAGED["vmap(grad)"][0](x).sum())(X)
    torch.testing.assert_close(pulled, expected)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="Fix: pass one of 'auto', 'python'"):
        jit(layer, backend="fast")
    with pytest.raises(ValueError, match="Fix: pass one of 'none', 'safe'"):
        jit(layer, optimize="all")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Inductor itself
def test_inductor_takes_what_no_grad_marks():
    def func(x):
        with torch.no_grad():
            scale = torch.exp(x)
        return x * scale

    torch.testing.assert_close(jit(func, backend="inductor")(X), func(X))


def test_a_write_whose_derivative_no_graph_can_say_is_refused():
    def func(x):
        y = x * 2
        with torch.no_grad():
            y.mul_(3)
        return (y * x).sum()

    torch.testing.assert_close(jit(func)(X), func(X))
    torch.testing.assert_close(jit(jaxtorch.grad(func))(X), jaxtorch.grad(func)(X))
    with pytest.raises(RuntimeError, match="Fix: compute a new tensor"):
        jit(func)(X.clone().requires_grad_())
