"""``x[mask]`` under vmap where each example selects its own number of elements."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from jaxtorch import grad, hessian, jacrev, jit, jvp, vmap
from jaxtorch.errors import DataDependentError

X = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
W = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def read(x):
    """Select at least two elements."""
    return x[(x > 0) | (x == x.amax()) | (x == x.amin())]


REDUCED = {
    "sum": lambda x, w: read(x).sum(),
    "nansum": lambda x, w: read(x).nansum(),
    "mean": lambda x, w: (read(x) * 2 + 1).mean(),
    "prod": lambda x, w: read(x).prod(),
    "amax": lambda x, w: read(x).amax(),
    "amin": lambda x, w: (-read(x)).exp().amin(),
    "max": lambda x, w: read(x).max(),
    "min": lambda x, w: read(x).min(),
    "logsumexp": lambda x, w: read(x).logsumexp(0),
    "norm": lambda x, w: read(x).norm(),
    "norm of one": lambda x, w: torch.linalg.vector_norm(read(x), 1),
    "norm of infinity": lambda x, w: torch.linalg.vector_norm(read(x), math.inf),
    "norm of minus one": lambda x, w: torch.linalg.vector_norm(read(x), -1),
    "var": lambda x, w: read(x).sin().var(),
    "var of all": lambda x, w: read(x).var(unbiased=False),
    "std": lambda x, w: read(x).std(),
    "var_mean": lambda x, w: sum(torch.var_mean(read(x))),
    "std_mean": lambda x, w: sum(torch.std_mean(read(x), correction=0)),
    "nanmean": lambda x, w: read(x).nanmean(),
    "number from outside": lambda x, w: (read(x) * w).tanh().sum(),
    "dim and keepdim": lambda x, w: read(x).sum(-1, keepdim=True).squeeze(0),
    "float32": lambda x, w: (read(x).float() ** 2).mean().double(),
    "logarithm": lambda x, w: x[x > 0].log().sum(),
    "root": lambda x, w: (x[x > 0.1].sqrt() * w).mean(),
    "infinite where it is hidden": lambda x, w: ((x[x > 0] - 1).abs() ** -w).sum(),
    "masked_select": lambda x, w: torch.masked_select(x, x > 0).square().sum(),
    "activations": lambda x, w: F.gelu(read(x)).sum() + F.softplus(read(x)).mean(),
    "number on the left": lambda x, w: (w - 1 / (1 + read(x) ** 2)).sum(),
}


def looped(func, *args):
    """Call with real indexing, once per example."""
    return torch.stack([func(*row) for row in zip(*args, strict=True)])


def two_reads(x, w):
    mask = x > 0
    a, b = x[mask], (x * w).cos()[mask]
    return torch.where(a > b, a * b, b - a).sum()


def loss(x, w):
    """A masked loss of two tensors."""
    mask = x > -0.5
    return ((x[mask] - (w * x.flip(0))[mask]) ** 2).mean()


def written(x, w):
    part = read(x)
    part *= w
    part.add_(part.mean()).neg_()
    return part.square().sum()


REDUCED |= {
    "in place": written,
    "two reads by one mask": two_reads,
    "masked loss": loss,
}
each = pytest.mark.parametrize("func", REDUCED.values(), ids=REDUCED)


@each
def test_value(func):
    assert_close(vmap(func)(X, W), looped(func, X, W))
    assert_close(
        vmap(func, in_dims=(1, None))(X.t(), W[0]), looped(func, X, W[:1].expand(5))
    )


@each
def test_gradient_is_that_of_real_indexing(func):
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    expected = torch.autograd.grad(
        looped(func, x, w).sum(), (x, w), materialize_grads=True
    )
    assert_close(vmap(grad(func, argnums=(0, 1)))(X, W), expected)
    total = grad(lambda x, w: vmap(func)(x, w).sum(), argnums=(0, 1))(X, W)
    assert_close(total, expected)
    y, v = X.clone().requires_grad_(), W.clone().requires_grad_()
    vmap(func)(y, v).sum().backward()
    assert_close(y.grad, expected[0])


@each
def test_second_derivatives_are_those_of_real_indexing(func):
    expected = [
        torch.autograd.functional.hessian(func, (x, w), strict=False)
        for x, w in zip(X[:2], W[:2], strict=True)
    ]
    for own, row in zip(zip(*_hessians(func), strict=True), expected, strict=True):
        assert_close(own[0], row[0][0])
        assert_close(own[1], row[1][1])


def _hessians(func):
    return (
        vmap(hessian(func))(X[:2], W[:2]),
        vmap(jacrev(jacrev(func, argnums=1), argnums=1))(X[:2], W[:2]),
    )


@each
def test_forward_mode(func):
    def push(x, w):
        return jvp(func, (x, w), (x.cos(), w))[1]

    assert_close(vmap(push)(X, W), looped(push, X, W))


@each
def test_nested_vmap_and_jit(func):
    inner = vmap(vmap(func, in_dims=(None, 0)), in_dims=(0, None))(X, W)
    expected = torch.stack([looped(func, x.expand(5, -1), W) for x in X])
    assert_close(inner, expected)
    assert_close(jit(vmap(func))(X, W), vmap(func)(X, W))


def test_mask_of_the_outer_vmap_read_in_the_inner_one():
    def outer(x):
        mask = x > 0
        return vmap(lambda w: (x * w)[mask].exp().sum())(W)

    expected = torch.stack(
        [torch.stack([(x * w)[x > 0].exp().sum() for w in W]) for x in X]
    )
    assert_close(vmap(outer)(X), expected)


def test_batched_mask_of_a_tensor_that_is_not():
    table = torch.randn(7)
    expected = torch.stack([table[x > 0].mean() for x in X])
    assert_close(vmap(lambda x: table[x > 0].mean())(X), expected)


ROWS = torch.randn(
    4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
)
PLACED = {
    "mean of rows": lambda x: x[x[:, 0] > 0].mean(0),
    "all of the rows": lambda x: x[x[:, 0] > 0].exp().sum(),
    "norm of each row": lambda x: x[x[:, 0] > 0].pow(2).sum(1).sqrt().sum(),
    "kept dims": lambda x: x[x[:, 0] > 0].sum(1, keepdim=True).sum(0),
    "rows and a vector": lambda x: (x[x[:, 0] > 0] * torch.arange(3.0)).amax(0),
    "both dims": lambda x: x[x[:, 0] > 0].var((0, 1)),
    "count of both dims": lambda x: x[x[:, 0] > 0].mean((0, 1)),
    "a column": lambda x: x[x[:, 0] > 0, 1].sum(),
    "second dim": lambda x: x[:, x[0] > -9].sum(1),
    "second dim kept": lambda x: x[:, x[1] > 0].exp().sum(0).sum(),
    "mask of two dims": lambda x: x[x > 0].log().sum(),
    "last dim of a mask": lambda x: x[..., x[0] > 0].sum(-1).sum(),
    "broadcast": lambda x: torch.masked_select(x, x[:, :1] > 0).sum(),
}


@pytest.mark.parametrize("func", PLACED.values(), ids=PLACED)
def test_masks_of_some_dims(func):
    assert_close(vmap(func)(ROWS), looped(func, ROWS))

    def scalar(x):
        return func(x).sum()

    assert_close(vmap(grad(scalar))(ROWS), looped(grad(scalar), ROWS))


EMPTY = {
    "sum": (lambda x: x[x > 9].sum(), 0.0),
    "prod": (lambda x: x[x > 9].prod(), 1.0),
    "mean": (lambda x: x[x > 9].mean(), math.nan),
    "var": (lambda x: x[x > 9].var(), math.nan),
    "var of one": (lambda x: x[x == x.amax()].var(), math.nan),
    "norm": (lambda x: x[x > 9].norm(), 0.0),
    "logsumexp": (lambda x: x[x > 9].logsumexp(0), -math.inf),
    "amax": (lambda x: x[x > 9].amax(), -math.inf),
    "amin": (lambda x: x[x > 9].amin(), math.inf),
    "any": (lambda x: (x[x > 9] > 0).any().double(), 0.0),
    "all": (lambda x: (x[x > 9] > 0).all().double(), 1.0),
}


@pytest.mark.parametrize(("func", "value"), EMPTY.values(), ids=EMPTY)
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_empty_selection(func, value):
    out = vmap(func)(X)
    assert_close(out, torch.full_like(out, value), equal_nan=True)
    if not func.__code__.co_names[-1].startswith("am"):
        assert_close(out, looped(func, X), equal_nan=True)


@pytest.mark.parametrize("name", ["sum", "prod", "norm", "logsumexp", "amax", "mean"])
def test_gradient_of_an_empty_selection_is_zero(name):
    assert_close(vmap(grad(EMPTY[name][0]))(X), torch.zeros_like(X))


def test_gradient_of_what_is_not_selected_is_exactly_zero():
    def func(x, w):
        return (torch.log(x[x > 0] - 1).nan_to_num(0) * w).sum() + (1 / x[x > 0]).sum()

    x = torch.tensor([[0.0, 2.0, -1.0, math.nan, -math.inf]])
    dx, dw = vmap(grad(func, argnums=(0, 1)))(x, torch.ones(1))
    assert_close(dx, torch.tensor([[0.0, 0.75, 0.0, 0.0, 0.0]]))
    assert_close(dw, torch.zeros(1))
    second = vmap(hessian(func))(x, torch.ones(1))[0]
    assert torch.isfinite(second).all()


@pytest.mark.parametrize(
    "func",
    [
        lambda x: (x[x > 1] * 2).sum(),
        lambda x: x[x > 1].amax(),
        lambda x: x[x > 1].prod(),
        lambda x: (6 // x[x > 1]).sum(),
        lambda x: (x[x > 1] * torch.tensor(0.5, dtype=torch.float64)).sum(),
        lambda x: x[x > 1].count_nonzero(),
        lambda x: x[x > 1].float().mean(),
        lambda x: x[x > 1].logsumexp(0),
    ],
)
def test_integers(func):
    x = torch.tensor([[0, 2, 3], [5, 1, 0], [4, 2, 7]])
    for given in (x, x.int(), x.to(torch.uint8)):
        assert_close(vmap(func)(given), looped(func, given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_dtypes(dtype):
    x = (X * 3).to(dtype)
    scale = torch.tensor(0.5, dtype=torch.float64)

    def func(x):
        part = x[x.real != 0.5] * scale
        return torch.stack([part.sum(), part.mean(), part.var().to(x.dtype)])

    assert_close(vmap(func)(x), looped(func, x))


def test_mean_of_half_does_not_overflow():
    x = torch.full((2, 64), 3e4, dtype=torch.float16)
    assert_close(vmap(lambda x: x[x > 0].mean())(x), x[:, 0])


def test_a_read_is_a_copy():
    def func(x):
        x = x.clone()
        mask = x > 0
        part = x[mask]
        mask &= x > 1
        x += 1
        return part.sum() + x[mask].sum()

    def real(x):
        return x[x > 0].sum() + (x + 1)[x > 1].sum()

    assert_close(vmap(func)(X), looped(real, X))


def test_a_mask_that_was_written_between_two_reads_is_another():
    def func(x):
        mask = x > 0
        first = x[mask]
        mask &= x > 0.5
        return (first + x[mask]).sum()

    with pytest.raises(DataDependentError, match="two masks"):
        vmap(func)(X)


def test_one_tensor_mapped_over_two_dims_is_two_masks():
    mask = torch.rand(4, 4) > 0.5
    with pytest.raises(DataDependentError, match="two masks"):
        vmap(lambda a, b: (a[a] == b[b]).sum(), in_dims=(0, 1))(mask, mask)


REFUSED = {
    "returned": lambda s: s,
    "returned among others": lambda s: (s.sum(), s),
    "length": lambda s: s.sum() / len(s),
    "shape": lambda s: s.sum() / s.shape[0],
    "size": lambda s: s.sum() / s.size(0),
    "numel": lambda s: s.sum() / s.numel(),
    "numel of torch": lambda s: s.sum() / torch.numel(s),
    "nbytes": lambda s: s.nbytes,
    "stride": lambda s: s.stride(),
    "iteration": lambda s: sum(s),
    "list": lambda s: s.tolist(),
    "number": lambda s: s.item(),
    "truth": lambda s: s if s else -s,
    "covariance": torch.cov,
    "index": lambda s: s[0],
    "slice": lambda s: s[1:].sum(),
    "reshape": lambda s: s.reshape(-1, 1).sum(),
    "unsqueeze": lambda s: s.unsqueeze(0),
    "softmax": lambda s: s.softmax(0).sum(),
    "cumsum": lambda s: s.cumsum(0).amax(),
    "sort": lambda s: s.sort(),
    "median": lambda s: s.median(),
    "argmax": lambda s: s.argmax(),
    "max of a dim": lambda s: s.max(0),
    "concatenation": lambda s: torch.cat([s, s]).sum(),
    "stack": lambda s: torch.stack([s, s]).sum(),
    "product": lambda s: s @ s,
    "random": lambda s: (s + torch.rand_like(s)).sum(),
    "dropout": lambda s: F.dropout(s).sum(),
    "in place, of a view": lambda s: s.detach().add_(1).sum(),
    "in place, with views": lambda s: (s.detach(), s.add_(1).sum()),
    "in place, not elementwise": lambda s: s.cumsum_(0).sum(),
    "in place, random": lambda s: s.uniform_().sum(),
    "write": lambda s: s.__setitem__(0, 1.0),
    "a whole tensor": lambda s: (s + torch.ones(7)).sum(),
    "equality": lambda s: torch.equal(s, s),
    "loss that asks for sizes": lambda s: F.mse_loss(s, s),
    "transform": lambda s: grad(torch.sum)(s),
    "vmap": lambda s: vmap(torch.sin)(s).sum(),
    "module": lambda s: torch.nn.Linear(7, 2)(s),
    "any of no dims": lambda s: torch.any(s, dim=()),
    "selection of a selection": lambda s: s[s > 1].sum(),
}


@pytest.mark.parametrize("func", REFUSED.values(), ids=REFUSED)
def test_refuses_what_depends_on_the_number_selected(func):
    with pytest.raises(DataDependentError, match="data-dependent shape") as caught:
        vmap(lambda x: func(x[x > 0]), randomness="different")(X.float())
    assert "Fix: " in str(caught.value)


def test_refuses_to_write_without_grad_mode():
    def func(x):
        part = x[x > 0]
        with torch.no_grad():
            part.mul_(2)
        return part.sum()

    with pytest.raises(DataDependentError, match="in-place"):
        vmap(func)(X)


def test_a_tensor_of_the_outside_can_not_be_written():
    with pytest.raises(DataDependentError, match="in-place"):
        vmap(lambda x: x.clone().add_(x[x > 0]))(X)


def test_refuses_two_masks_and_says_what_to_do():
    with pytest.raises(DataDependentError, match="compute the mask once"):
        vmap(lambda x: (x[x > 0] * x[x > 0]).sum())(X)


def test_refuses_a_mask_beside_another_index():
    with pytest.raises(DataDependentError, match="data-dependent shape"):
        vmap(lambda x: x[x[:, 0] > 0, torch.tensor([0])].sum())(ROWS)


def test_prints_without_its_size():
    vmap(lambda x: (print(x[x > 0]), x)[1])(X)
    with pytest.raises(DataDependentError):
        vmap(lambda x: f"{len(x[x > 0])}")(X)


def test_a_shared_mask_still_gives_a_tensor():
    mask = torch.tensor([True, False, True, False, False, True, True])
    assert_close(vmap(lambda x: x[mask])(X), X[:, mask])
    assert_close(vmap(lambda x: torch.masked_select(x, mask))(X), X[:, mask])
