"""Which back end runs a graph: the choice, its reasons, and replaying by a stand-in."""

import pytest
import torch

import jaxtorch
from jaxtorch import jit
from jaxtorch.staging.native import compiler
from jaxtorch.staging.running import backends
from jaxtorch.staging.running.backends import choose
from jaxtorch.staging.running.cuda_graph import CudaGraph, refusal
from jaxtorch.staging.running.fusion import Fusion
from jaxtorch.staging.running.inductor import spread

MB = 1 << 20


def chain(x):
    """Eight elementwise calls."""
    for _ in range(4):
        x = torch.tanh(x) * 1.5
    return x


def like(*shape):
    """Return a tensor whose memory is never touched."""
    return torch.empty(*shape)


def graph_of(func, *args):
    """Return the graph of a function, optimized."""
    return jit(func, backend="python").lower(*args).graph


def on_cuda(graph):
    """Pretend that a graph runs on a CUDA device."""
    for node in graph.nodes:
        node.meta["device"] = torch.device("cuda", 0)
    return graph


def test_a_chain_is_one_group_and_saves_what_lies_between():
    fusion = Fusion(graph_of(chain, like(MB)))
    assert set(fusion.groups.values()) == {1}
    assert fusion.saved == (8 * 2 - 2) * 4 * MB


def test_a_matrix_product_parts_groups():
    def func(x, w):
        y = torch.sin(x) + 1
        return torch.cos(y @ w) * y

    graph = graph_of(func, like(8, 8), like(8, 8))
    groups = Fusion(graph).groups
    names = {node.name.partition("_")[0]: k for node, k in groups.items()}
    assert names == {"sin": 1, "add": 1, "cos": 2, "mul": 2}
    assert Fusion(graph).saved == (4 + 5 - 2 - 3) * 8 * 8 * 4


def test_a_group_counts_one_read_of_a_view():
    graph = graph_of(lambda x: (x.t() * 2 + 1).sum(0), like(64, 32))
    assert Fusion(graph).saved == 4 * 64 * 32 * 4


def test_auto_compiles_where_that_pays_soon(monkeypatch):
    monkeypatch.setattr(backends, "has_compiler", lambda: True)
    middle, large = graph_of(chain, like(MB // 8)), graph_of(chain, like(4 * MB))
    assert choose(middle, "auto", "full").backend == "python"
    choice = choose(large, "auto", "full")
    assert choice == choose(large, "auto", "full")
    assert choice.backend == "inductor"
    assert "saves 235 MB, about 11.7 ms" in choice.why


def test_auto_weighs_each_loop_that_would_be_compiled(monkeypatch):
    monkeypatch.setattr(backends, "has_compiler", lambda: True)

    def parted(x, w):
        for _ in range(16):
            x = torch.tanh(x @ w) * x
        return x

    whole = graph_of(chain, like(3 * MB))
    parts = graph_of(parted, like(MB // 16, 16), like(16, 16))
    assert (Fusion(whole).loops, Fusion(parts).loops) == (1, 16)
    for graph in (whole, parts):  # either would pay for one loop
        gain = Fusion(graph).saved / backends.BYTES_PER_SECOND
        assert 6 < gain * backends.CALLS_TO_PAY < 21
    assert choose(whole, "auto", "full").backend == "inductor"
    choice = choose(parts, "auto", "full")
    assert choice.backend == "python"
    assert "compiling takes about 21 s (loops: 16)" in choice.why


SMALL = {
    "gradients": jaxtorch.vmap(jaxtorch.grad(lambda x: (x.sin() * x.exp() + x).sum())),
    "Hessian": jaxtorch.hessian(lambda x: (x.tanh() ** 2).sum() ** 2),
    "Jacobian": jaxtorch.jacrev(chain),
}


@pytest.mark.parametrize("name", SMALL)
def test_auto_runs_a_small_graph_as_loops(name, monkeypatch):
    x = torch.linspace(-1, 1, 8)
    x = x if name != "gradients" else x[:, None]
    lowered = jit(SMALL[name]).lower(x)
    assert "backend: native (loops in C save" in lowered.explain()
    assert (
        "backend: python (only" in jit(SMALL[name], optimize="safe").lower(x).explain()
    )
    monkeypatch.setattr(backends, "find_compiler", lambda: None)
    lowered = jit(SMALL[name]).lower(x)
    assert "backend: python (fusing saves" in lowered.explain()
    assert "there is no C compiler for loops)" in lowered.explain()


def test_auto_leaves_a_graph_to_aten_where_loops_save_few_calls():
    def mostly(x, w):
        for _ in range(8):
            x = x @ w
        return torch.sin(torch.cos(x).sum(0))

    choice = choose(graph_of(mostly, like(512, 512), like(512, 512)), "auto", "full")
    assert choice.backend == "python"
    assert "; loops in C save 0 of" in choice.why


def test_auto_runs_the_program_where_the_compiler_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "find_compiler", lambda: "/bin/false")
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    x = torch.linspace(-1, 1, 8)
    staged = jit(chain)
    torch.testing.assert_close(staged(x), chain(x))
    lines = staged.lower(x).explain()
    assert "backend: python (the native back end raised CompilerError)" in lines
    with pytest.raises(compiler.CompilerError, match="use backend='python'"):
        jit(chain, backend="native")(x)


def test_auto_says_why_it_does_not_compile(monkeypatch):
    monkeypatch.setattr(backends, "has_compiler", lambda: True)
    large = graph_of(chain, like(4 * MB))
    assert "rounding of compilers" in choose(large, "auto", "safe").why

    def looped(x):
        x = chain(x)
        return jaxtorch.fori_loop(0, 3, lambda i, c: c * 2, x)

    choice = choose(graph_of(looped, like(4 * MB)), "auto", "full")
    assert choice.backend == "python"
    assert choice.why.startswith("Inductor can't compile scan; loops in C save 0 of")
    monkeypatch.setattr(backends, "has_compiler", lambda: False)
    assert "no C++ compiler" in choose(large, "auto", "full").why


def test_auto_runs_the_program_where_inductor_fails(monkeypatch):
    def failing(graph):
        raise KeyError("no")

    monkeypatch.setattr(backends, "has_compiler", lambda: True)
    monkeypatch.setattr(backends, "Fused", failing)
    monkeypatch.setattr(backends, "CALLS_TO_PAY", 1e12)
    x = torch.linspace(-1, 1, 8)
    staged = jit(chain)
    torch.testing.assert_close(staged(x), chain(x))
    assert "backend: python (Inductor raised KeyError)" in staged.lower(x).explain()
    with pytest.raises(KeyError):
        jit(chain, backend="inductor")(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Inductor itself
def test_inductor_takes_any_strides_and_draws_as_aten_does():
    def func(x):
        return torch.sin(x) * 2 + torch.rand(4, 4)

    staged = jit(func, backend="inductor")
    x = torch.linspace(-1, 1, 16).reshape(4, 4)
    for own in (x, x.t(), x[0].expand(4, 4)):
        torch.manual_seed(1)
        out = staged(own)
        torch.manual_seed(1)
        torch.testing.assert_close(out, func(own))
    assert staged.cache_info().misses == 1
    text = staged.lower(x).explain()
    assert "inductor (fused group 1)" in text
    assert "backend: inductor (as asked for)" in text


@pytest.mark.parametrize(
    ("func", "count"),
    [
        (lambda x: torch.sin(x[0])[:, None] * x, 1),
        (lambda x: torch.sin(x[0]).expand(8, 8) + torch.cos(x[1]), 2),
        (lambda x: torch.sin(x) * x[0][:, None], 0),
        (lambda x: torch.exp(x - x.sum(0)), 0),
        (lambda x: torch.sin(x[0]) * x[1], 0),
    ],
)
def test_what_is_read_many_times_is_found(func, count):
    assert len(spread(graph_of(func, like(8, 8)))) == count


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Inductor itself
def test_inductor_computes_once_what_is_read_many_times():
    def func(x):
        return torch.sin(torch.tanh(x))[:, None] * x + torch.cos(x[0])

    staged = jit(func, backend="inductor")
    x = torch.randn(8, 8)
    for own in (x, x.t(), x[0].expand(8, 8), x.repeat(2, 2)[::2, ::2]):
        torch.testing.assert_close(staged(own), func(own))


def test_explain_names_kernels_rewrites_and_the_back_end():
    lowered = jit(chain, backend="python").lower(torch.ones(3))
    lowered.staged.rewrites.append("mm(eye, W) is W")
    lines = lowered.explain().splitlines()
    assert " ".join(lines[0].split()) == "op result flops bytes kernel freed after"
    assert lines[1].split()[4] == "aten"
    backend = next(line for line in lines if line.startswith("backend: "))
    assert backend == "backend: python (as asked for)"
    assert "rewrites:" in lines
    assert lines[-1] == "  mm(eye, W) is W"


CAN = {
    "a chain": chain,
    "views inside": lambda x: (x.t() @ x).sum(),
    "two results": lambda x: (x.sin(), x.cos()),
}
CAN_NOT = {
    "draws random numbers": lambda x: x + torch.rand(3),
    "scan runs in Python": lambda x: jaxtorch.fori_loop(0, 2, lambda i, c: c * 2, x),
    "shares memory with an input": lambda x: (x.sin(), x[0]),
    "another result": lambda x: (y := x.sin(), y[0]),
}


@pytest.mark.parametrize("name", CAN)
def test_what_can_be_replayed(name):
    graph = graph_of(CAN[name], torch.ones(3, 3))
    assert "is on the device cpu" in refusal(graph)
    assert refusal(on_cuda(graph)) is None
    assert choose(graph, "auto", "full").backend == "cudagraph"
    assert choose(graph, "cudagraph", "none") == ("cudagraph", "as asked for")


@pytest.mark.parametrize("reason", CAN_NOT)
def test_what_can_not_be_replayed_says_why(reason):
    graph = on_cuda(graph_of(CAN_NOT[reason], torch.ones(3, 3)))
    assert reason in refusal(graph)
    for backend in ("auto", "cudagraph"):
        choice = choose(graph, backend, "full")
        assert choice.backend == "python"
        assert reason in choice.why


def test_a_cuda_graph_on_the_cpu_is_the_program():
    staged = jit(chain, backend="cudagraph")
    x = torch.ones(3)
    torch.testing.assert_close(staged(x), chain(x))
    assert "backend: python (x0 is on the device cpu" in staged.lower(x).explain()


class Recorder:
    """Stands in for a device: replays by running on the same tensors again."""

    def __init__(self):
        self.recorded = 0
        self.replayed = 0

    def __call__(self, run, fixed):
        self.recorded += 1
        results = run(*fixed)

        def replay():
            self.replayed += 1
            for result, new in zip(results, run(*fixed), strict=True):
                result.copy_(new)

        return replay, results


def test_replaying_copies_in_and_out_and_reads_captured_tensors_in_place():
    weight = torch.ones(3)
    recorder = Recorder()
    graph = CudaGraph(lambda x, w: [x * w, x + w], [weight], recorder)
    first = graph(torch.ones(3), weight)
    weight.mul_(3)
    second = graph(torch.full((3,), 2.0), weight)
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    torch.testing.assert_close(first, [torch.ones(3), torch.full((3,), 2.0)])
    torch.testing.assert_close(second, [torch.full((3,), 6.0), torch.full((3,), 5.0)])


def test_what_cannot_be_recorded_runs_call_by_call():
    recorded = []

    def refuse(run, fixed):
        recorded.append(len(fixed))
        raise RuntimeError("operation not permitted when stream is capturing")

    graph = CudaGraph(lambda x, w: [x * w], [weight := torch.ones(3)], refuse)
    for value in (2.0, 3.0):
        out = graph(torch.full((3,), value), weight)
        torch.testing.assert_close(out, [torch.full((3,), value)])
    assert recorded == [2]
    assert graph.fallen == "recording it raised RuntimeError"


def test_replaying_ends_where_a_captured_tensor_moves(monkeypatch):
    weight = torch.nn.Parameter(torch.ones(3))
    recorder = Recorder()
    monkeypatch.setattr(backends, "refusal", lambda graph: None)
    monkeypatch.setattr(backends, "record_on_device", recorder)
    staged = jit(lambda x: x * weight, backend="cudagraph")
    x = torch.full((3,), 2.0)
    staged(x).sum().backward()
    torch.testing.assert_close(weight.grad, x)
    assert recorder.replayed > 0
    assert "backend: cudagraph" in staged.lower(x).explain()
    weight.data = torch.full((3,), 5.0)
    torch.testing.assert_close(staged(x), torch.full((3,), 10.0))
    assert "python (a captured tensor was given" in staged.lower(x).explain()
