"""Matrix products in oneDNN: which are marked, and that any layout is right."""

import pytest
import torch

import jaxtorch
from jaxtorch.staging.passes import onednn

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="PyTorch was built without oneDNN",
)

LAYOUTS = {
    "rows": lambda t: t.contiguous(),
    "columns": lambda t: t.mT.contiguous().mT,
    "gaps": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "steps": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "equal rows": lambda t: t[..., :1, :].expand_as(t),
    "unaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t),
}


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("sizes", [(17, 33, 20), (1, 5, 3), (4, 1, 6), (3, 0, 2)])
def test_products_are_right_in_any_layout(first, second, sizes):
    torch.manual_seed(0)
    rows, inner, columns = sizes
    left = LAYOUTS[first](torch.randn(2, rows, inner))
    right = LAYOUTS[second](torch.randn(2, inner, columns))
    row = torch.randn(columns, 2)[:, 0]
    matrix = torch.randn(rows, columns)

    def check(got, *args):
        expected = torch.baddbmm if args[-1].ndim == 3 else torch.addmm
        expected = expected(*(a.double() for a in args))
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
        assert got.is_contiguous()

    check(onednn.products(left, right), torch.zeros(1, 1, 1), left, right)
    left, right = left[1], right[1]
    check(onednn.product(left, right), torch.zeros(1, 1), left, right)
    for term in (row, matrix, matrix.T.contiguous().T):
        check(onednn.product_and_term(term, left, right), term, left, right)


def kernels(monkeypatch, func, *args, **options):
    """Return which of oneDNN and ATen run the products of a function."""
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    staged = jaxtorch.jit(func, backend="python", **options)
    torch.testing.assert_close(staged(*args), func(*args), rtol=1e-4, atol=1e-3)
    lines = staged.lower(*args).explain().splitlines()
    calls = ("mm.default", "tanh.default")
    return ["oneDNN" in line for line in lines if any(c in line for c in calls)]


def test_large_products_run_in_onednn(monkeypatch):
    square, other = torch.randn(2, 256, 256)
    batch = torch.randn(2, 256, 256)
    row = torch.randn(256)
    assert kernels(monkeypatch, torch.mm, square, other) == [True]
    assert kernels(monkeypatch, torch.addmm, row, square, other) == [True]
    assert kernels(monkeypatch, torch.bmm, batch, batch) == [True]
    assert kernels(monkeypatch, torch.mm, square.T, square[:, :64]) == [True]


def test_many_rows_times_few_columns_run_in_onednn(monkeypatch):
    tall, few = torch.randn(1024, 64), torch.randn(64, 9)
    assert kernels(monkeypatch, torch.mm, tall, few) == [True]
    assert kernels(monkeypatch, torch.mm, tall.T.contiguous().T, few) == [True]
    assert kernels(monkeypatch, torch.mm, tall, few[:, :1]) == [False]
    assert kernels(monkeypatch, torch.mm, tall[:1023], few) == [False]
    assert kernels(monkeypatch, torch.mm, tall.view(-1, 8), few[:8]) == [False]


def test_the_smaller_matrix_is_copied(monkeypatch):
    copied = []
    linear = torch.ops.mkldnn._linear_pointwise

    def spy(first, *rest):
        copied.append(0 if first.is_contiguous() else first.numel())
        return linear(first, *rest)

    monkeypatch.setattr(onednn.mkldnn, "_linear_pointwise", spy)
    tall, wide = torch.randn(200, 30), torch.randn(200, 90)
    for first, second in ((tall, wide), (wide, tall), (tall.mT.contiguous().mT, wide)):
        expected = first.double().T @ second.double()
        got = onednn.product(first.T, second)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
        assert got.is_contiguous()
    assert copied == [6000, 6000, 0]


def test_others_stay(monkeypatch):
    square = torch.randn(256, 256)
    assert kernels(monkeypatch, torch.mm, square[:32, :32], square[:32, :32]) == [False]
    assert kernels(monkeypatch, torch.mm, square.double(), square.double()) == [False]
    tall = torch.randn(1024, 64)
    assert kernels(monkeypatch, torch.mm, tall.T, tall) == [False]
    column = torch.randn(256, 1)
    assert kernels(monkeypatch, torch.addmm, column, square, square) == [False]
    assert kernels(monkeypatch, torch.mm, square, square, optimize="safe") == [False]


def test_tanh_of_many_numbers_runs_in_onednn(monkeypatch):
    x = torch.randn(300, 100)
    assert kernels(monkeypatch, torch.tanh, x) == [True]
    assert kernels(monkeypatch, torch.tanh, x[:100]) == [False]
    assert kernels(monkeypatch, torch.tanh, x.double()) == [False]
    assert kernels(monkeypatch, torch.tanh, x.T) == [False]
    assert kernels(monkeypatch, torch.tanh, x, optimize="safe") == [False]


@pytest.mark.parametrize("count", [0, 1, 1000, 2**17, 2**17 + 1, 3 * 2**17 - 5])
def test_tanh_is_right_to_an_ulp_and_a_quarter(count):
    sizes = torch.logspace(-12, 2, count, dtype=torch.float64)
    special = torch.tensor([0.0, float("inf"), 1e-40])
    x = torch.cat([special, -special, sizes.float(), -sizes.float()])
    got, exact = onednn.tanh(x), torch.tanh(x.double())
    ulp = torch.nextafter(got.abs(), torch.tensor(2.0)) - got.abs()
    assert ((got - exact).abs() <= 1.25 * ulp).all()
    assert torch.equal(got.signbit(), x.signbit())
    assert onednn.tanh(torch.tensor([float("nan")])).isnan().all()


def test_products_with_one_matrix_are_one_product(monkeypatch):
    rows, columns = torch.randn(4, 64, 128), torch.randn(4, 128, 64).mT
    wide, narrow = torch.randn(128, 256), torch.randn(128, 32)

    def products(first, second):
        return torch.bmm(first, second.expand(4, -1, -1))

    assert kernels(monkeypatch, products, rows, wide) == [True]
    assert kernels(monkeypatch, products, columns, wide) == [True]

    def calls(first, second):
        staged = jaxtorch.jit(products, backend="python", optimize="full")
        graph = staged.lower(first, second).graph
        return {str(n.target) for n in graph.nodes if "mm" in str(n.target)}

    assert calls(rows, wide) == calls(rows, narrow) == {"aten.mm.default"}
    assert calls(columns, wide) == {"aten.mm.default"}
    assert calls(columns, narrow) == {"aten.bmm.default"}
    monkeypatch.setattr(onednn, "is_faster", lambda: False)
    assert calls(columns, wide) == {"aten.bmm.default"}


def test_a_dying_term_is_not_written(monkeypatch):
    square = torch.randn(256, 256)

    def plus_product(a):
        return torch.sin(a) + a @ a

    assert kernels(monkeypatch, plus_product, square) == [True]


def test_a_gradient_through_a_product(monkeypatch):
    square = torch.randn(256, 256, requires_grad=True)
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    jaxtorch.jit(lambda a: torch.tanh(a @ a / 16).sum())(square).backward()
    (expected,) = torch.autograd.grad(torch.tanh(square @ square / 16).sum(), square)
    torch.testing.assert_close(square.grad, expected, rtol=1e-4, atol=1e-4)
