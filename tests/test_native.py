"""The native back end: loops in C against the same function in eager mode."""

import pytest
import torch

import jaxtorch
from benchmarks.memory import peak_bytes
from jaxtorch import jit
from jaxtorch.staging.native import compiler
from jaxtorch.staging.native.function import MOST_ON_STACK
from jaxtorch.staging.running.native import Native

pytestmark = pytest.mark.skipif(
    compiler.find_compiler() is None, reason="there is no C compiler"
)

X = torch.linspace(-2, 2, 24).reshape(4, 6)
Y = torch.linspace(0.5, 3, 24).reshape(4, 6)
ROWS = torch.tensor([3, 0, -1, 3])
FLAGS = X > 0.3

FUNCTIONS = {
    "broadcast": lambda x, y: (x * y[:1] + y[:, :1]).sin() - 3,
    "reused": lambda x, y: (x.exp() + x.exp().t().reshape(4, 6)) * x.exp(),
    "transposed": lambda x, y: torch.tanh(x).t() @ y + (x.t() * 2) @ y,
    "self and its transpose": lambda x, y: (m := x @ y.t()) + m.t() * m,
    "sums": lambda x, y: (x * y).sum(0) + (x - y).sum() + (x / y).mean(0, True),
    "sum of rows": lambda x, y: (x * y).sum(1).exp() * y.mean(1),
    "middle": lambda x, y: (x.reshape(2, 2, 6) * 2).sum(1) + y.reshape(2, 2, 6).sum(1),
    "largest": lambda x, y: (x * y).amax(0) - (x + y).amin(1).sum(),
    "where": lambda x, y: torch.where((x > 0) & (y < 2), x * 2, y) + FLAGS * x,
    "clamp": lambda x, y: (x * 3).clamp(-1, 2).abs().sqrt() + torch.relu(y - 1),
    "maximum": lambda x, y: torch.maximum(x, y) * torch.minimum(x + 1, y),
    "activations": lambda x, y: torch.nn.functional.gelu(x) * torch.sigmoid(y) + x,
    "powers": lambda x, y: x**2 + y**-0.5 + y**3 - 1 / y,
    "cat": lambda x, y: torch.cat([x * 2, y[:2] + 1, x[:, :6].sin()], 0),
    "stack": lambda x, y: torch.stack([x * 2, y + 1, x * y], 1),
    "pad": lambda x, y: torch.nn.functional.pad(x * y, (1, 2, 0, 3), value=0.5) * 2,
    "diagonal": lambda x, y: torch.diag_embed(x * y, 1).sin() + 1,
    "rows": lambda x, y: (x[ROWS] * y).exp() + x.index_select(0, ROWS.abs()),
    "columns": lambda x, y: x[:, ROWS] * 2 + y[:, ROWS],
    "elements": lambda x, y: x[ROWS, ROWS] * y[ROWS, ROWS] + 1,
    "put": lambda x, y: torch.index_put(x * 2, (ROWS,), y.exp(), accumulate=True) * y,
    "vector": lambda x, y: (x @ y[0]) * 2 + torch.addmv(x[:, 0], y, x[1]),
    "batched": lambda x, y: torch.bmm(
        x.reshape(2, 2, 6) * 2, y.reshape(2, 2, 6).mT
    ).exp(),
    "large products": lambda x, y: (
        torch.tanh(x.repeat(50, 40) @ y.repeat(50, 40).t() * 1e-3) + 1
    ),
    "integers": lambda x, y: (ROWS * 2 + 1).clamp(min=0) * x[:, 0],
    "bits": lambda x, y: (
        ((ROWS & 1) | 2) * x[:, 0] + ((x > 0) & ~(y > 1)).to(x).sum(1) + (~ROWS * 2)
    ),
    "truth": lambda x, y: (
        (x * 0.1).bool().to(x) + ((x > 0) + (y > 1)).to(x) * 2,
        torch.full_like(x > 0, 3) * x + (ROWS * 2).bool()[:, None] * y,
    ),
    "nothing added": lambda x, y: (
        torch.addmm(torch.log(x[:, :4]) * 2, x * 2, y.t() * 2, beta=0) * 2
    ),
    "parted by ATen": lambda x, y: torch.sort(x * 2 + y)[0].sin() * 2 + y,
    "views of results": lambda x, y: ((x * y + 1)[1:3].t(), (x * y + 1).reshape(-1)),
    "no numbers": lambda x, y: (
        torch.log(x) + y,
        torch.relu(torch.log(x)),
        1 / (y - y),
    ),
}


def native(func, **options):
    return jit(func, backend="native", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_loops_give_what_eager_gives(name, dtype):
    func = FUNCTIONS[name]
    x, y = X.to(dtype), Y.to(dtype)
    staged = native(func)
    torch.testing.assert_close(staged(x, y), func(x, y), equal_nan=True)
    assert "  loops" in staged.lower(x, y).explain()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_may_lie_in_memory_otherwise_than_in_the_trace(name):
    func = FUNCTIONS[name]
    staged = native(func)
    staged(X, Y)
    x, y = X.t().contiguous().t(), Y.repeat(1, 2)[:, ::2]
    torch.testing.assert_close(staged(x, y), func(x, y), equal_nan=True)
    traced_so = native(func)
    torch.testing.assert_close(traced_so(x, y), func(x, y), equal_nan=True)
    torch.testing.assert_close(traced_so(X, Y), func(X, Y), equal_nan=True)


@pytest.mark.parametrize(
    "transform",
    [
        jaxtorch.jacrev,
        jaxtorch.jacfwd,
        jaxtorch.hessian,
        lambda f: jaxtorch.vmap(jaxtorch.grad(lambda row: f(row).sum())),
    ],
)
def test_derivatives(transform):
    def func(x):
        y = torch.tanh(x @ Y.t()) * x[..., :4]
        return torch.cat([y.sin(), y * y], -1).sum(-1)

    derivative = transform(func)
    torch.testing.assert_close(native(derivative)(X), derivative(X))


def test_a_call_is_one_function_where_loops_can_make_all():
    staged = native(jaxtorch.grad(lambda x: (torch.sin(x) * torch.exp(x) + x).sum()))
    lowered = staged.lower(X)
    assert isinstance(lowered.staged.run, Native)
    assert len(lowered.staged.run.functions) == 1
    assert lowered.c_code.count("int run0(") == 1


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_only_marked_as_negated_is_read_so(count):
    def func(x):
        return torch.sin(x) * 2 + x

    x = (torch.linspace(1, 2, count) * (1 + 2j)).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(native(func)(x), func(x))


def test_an_index_out_of_bounds_is_atens_error():
    staged = native(lambda x, i: (x[i] * 2).sin() + 1)
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        staged(X, torch.tensor([0, 9]))
    torch.testing.assert_close(staged(X, ROWS), (X[ROWS] * 2).sin() + 1)


def test_a_call_that_makes_another_size_than_it_says_is_left_to_aten():
    def func(x, mean, var):
        out, *saved = torch.native_batch_norm(
            x * 2, None, None, mean * 1, var * 1, False, 0.1, 1e-5
        )
        return out * 2 + 1, [y * 2 + 1 for y in saved]

    args = X, X[0], X[1].exp()  # ATen's saved statistics are empty, its meta's are not
    torch.testing.assert_close(native(func)(*args), func(*args))


def test_a_constant_takes_nothing():
    def func(x):
        return torch.fill(x * 2, 3) * 0.5 + 1

    torch.testing.assert_close(native(func)(X), func(X))


def test_much_memory_of_its_own_is_a_tensor():
    def func(x):
        y = torch.exp(x) * 2
        return (y - y.mean(0)).amax(0)

    x = torch.linspace(-1, 1, 2000 * 6, dtype=torch.float64).reshape(2000, 6)
    staged = native(func)
    torch.testing.assert_close(staged(x), func(x))
    functions = staged.lower(x).staged.run.functions
    assert max(f.scratch for f in functions) > MOST_ON_STACK
    assert staged.lower(x).peak_bytes >= max(f.scratch for f in functions)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: torch.sort(torch.tanh(x) * 2)[0].exp() + 1,
        lambda x: (y := torch.exp(x) * 2) - y.cumsum(0).sin().mean(0),
        lambda x: (torch.tanh(x[:200]) @ torch.tanh(x[:200]).t()).sin().sum(1),
    ],
)
def test_peak_bytes_is_what_the_allocator_sees(func):
    staged = native(func)
    x = torch.linspace(-1, 1, 600 * 6, dtype=torch.float64).reshape(600, 6)
    staged(x)
    peak = staged.lower(x).peak_bytes
    own = max(f.scratch for f in staged.lower(x).staged.run.functions)
    on_stack = own if own <= MOST_ON_STACK else 0
    assert abs(peak_bytes(lambda: staged(x)) - (peak - on_stack)) <= 0.05 * peak


def test_random_numbers_are_atens():
    def func(x):
        return (x + torch.rand(4, 6)).sin() * torch.rand(4, 6) + 1

    staged = native(func)
    torch.manual_seed(0)
    expected = func(X)
    torch.manual_seed(0)
    torch.testing.assert_close(staged(X), expected)


def test_parameters_are_read_where_they_lie():
    weight = torch.nn.Parameter(Y.clone())
    staged = native(lambda x: torch.sin(x * weight) * 2 + weight)
    staged(X)
    with torch.no_grad():
        weight.mul_(2)
        expected = torch.sin(X * weight) * 2 + weight
        torch.testing.assert_close(staged(X), expected)


def test_torch_autograd_outside():
    x = X.clone().requires_grad_()
    native(lambda x: (torch.sin(x) * x).sum())(x).backward()
    torch.testing.assert_close(x.grad, torch.cos(X) * X + torch.sin(X))


def test_without_a_compiler_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    with pytest.raises(compiler.CompilerError, match="backend='python'"):
        native(lambda x: torch.sin(x) * 5 + 7)(X)
