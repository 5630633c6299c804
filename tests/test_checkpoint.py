"""checkpoint: the right numbers at every level, and less memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils import checkpoint as torch_module
from torch.utils.checkpoint import checkpoint as imported

from jaxtorch import (
    checkpoint,
    functional_call,
    grad,
    hessian,
    jacrev,
    jit,
    jvp,
    linearize,
    vjp,
    vmap,
)
from jaxtorch.errors import UsageError
from tests.live_bytes import held_bytes, peak_bytes

Function = Callable[..., Any]


def block(x: Tensor, w: Tensor) -> Tensor:
    """One block with five intermediate results."""
    return (x @ w).sin().exp().tanh().cos()


WAYS: dict[str, Function] = {
    "own": checkpoint,
    "torch": lambda func: (
        lambda *args: torch_module.checkpoint(func, *args, use_reentrant=False)
    ),
    "torch reentrant": lambda func: (
        lambda *args: torch_module.checkpoint(func, *args, use_reentrant=True)
    ),
    "imported": lambda func: lambda *args: imported(func, *args, use_reentrant=False),
    "imported reentrant": lambda func: (
        lambda *args: imported(func, *args, use_reentrant=True)
    ),
}
SAVING = [name for name in WAYS if name != "imported"]


def identity(func: Function) -> Function:
    """Do not checkpoint."""
    return func


def network(way: Function, depth: int = 3, capture: bool = False) -> Function:
    """Return a chain of checkpointed blocks; ``capture`` the weight or pass it."""

    def func(x: Tensor, w: Tensor) -> Tensor:
        for _ in range(depth):
            if capture:
                x = way(lambda x: block(x, w))(x)
            else:
                x = way(block)(x, w)
        return x.sum()

    return func


def data() -> tuple[Tensor, Tensor]:
    """Return an input of shape [4, 3] and a weight of shape [3, 3]."""
    torch.manual_seed(0)
    return torch.randn(4, 3, dtype=torch.float64), torch.randn(
        3, 3, dtype=torch.float64
    )


TRANSFORMS: dict[str, Function] = {
    "grad": lambda f: grad(f, (0, 1)),
    "vmap of grad": lambda f: vmap(grad(f, (0, 1)), (0, None)),
    "grad of vmap": lambda f: grad(
        lambda x, w: vmap(f, (0, None))(x, w).sin().sum(), (0, 1)
    ),
    "vjp": lambda f: lambda x, w: vjp(f, x, w)[1](torch.ones((), dtype=x.dtype)),
    "jacrev of grad": lambda f: jacrev(grad(f, (0, 1)), (0, 1)),
    "hessian": lambda f: hessian(f, (0, 1)),
    "vmap of hessian": lambda f: vmap(hessian(f, (0, 1)), (0, None)),
    "jvp": lambda f: lambda x, w: jvp(f, (x, w), (x.cos(), w.sin())),
    "linearize": lambda f: lambda x, w: linearize(f, x, w)[1](x.cos(), w.sin()),
    "jit of grad": lambda f: jit(grad(f, (0, 1))),
    "grad of jit": lambda f: grad(jit(f), (0, 1)),
}


@pytest.mark.parametrize("capture", [False, True], ids=["argument", "captured"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_same_numbers(name: str, way: str, capture: bool) -> None:
    transform = TRANSFORMS[name]
    got = transform(network(WAYS[way], capture=capture))(*data())
    assert_close(got, transform(network(identity))(*data()))


@pytest.mark.parametrize("capture", [False, True], ids=["argument", "captured"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["grad", "vmap of grad", "grad of vmap", "hessian"])
def test_torch_autograd_outside(name: str, way: str, capture: bool) -> None:
    first = lambda f: lambda x, w: TRANSFORMS[name](f)(x, w)[0]  # noqa: E731
    x, w = data()

    def total(out: Any) -> Tensor:
        return out.sum() if isinstance(out, Tensor) else sum(map(total, out))

    for leaves in ([w], [x, w]):
        for leaf in leaves:
            leaf.requires_grad_()
        got = torch.autograd.grad(
            total(first(network(WAYS[way], capture=capture))(x, w)), leaves
        )
        assert_close(
            got, torch.autograd.grad(total(first(network(identity))(x, w)), leaves)
        )


@pytest.mark.parametrize("capture", [False, True], ids=["argument", "captured"])
@pytest.mark.parametrize("way", SAVING)
def test_a_tape_holds_a_fifth(way: str, capture: bool) -> None:
    """Of six results per block only the block's input is held."""
    x = torch.randn(64, 32, dtype=torch.float64)
    w = torch.randn(32, 32, dtype=torch.float64)

    def held(way: Function) -> int:
        func = network(way, depth=12, capture=capture)
        return held_bytes(lambda: vjp(func, x, w)[1])

    ours, plain = held(WAYS[way]), held(identity)
    one = x.numel() * x.element_size()
    assert plain >= 3.9 * 12 * one
    assert ours <= 13 * one + 20_000


@pytest.mark.eager(reason="jit computes equal values once, so it keeps them")
@pytest.mark.parametrize(
    "name", ["grad", "vmap of grad", "grad of vmap", "hessian along a direction"]
)
def test_peak_of_nested_transforms(name: str) -> None:
    """The peak falls for one level, for vmap, and for forward over reverse."""
    x = torch.randn(64, 32, dtype=torch.float64)
    w = torch.randn(32, 32, dtype=torch.float64)

    def along(f: Function) -> Function:
        return lambda x, w: jvp(lambda x: grad(f)(x, w), (x,), (x.cos(),))[1]

    def rows(f: Function) -> Function:
        return vmap(grad(f), (0, None))

    others = {"hessian along a direction": along, "vmap of grad": rows}
    transform = {**TRANSFORMS, **others}[name]
    ours = peak_bytes(transform(network(checkpoint, depth=12)), x, w)
    plain = peak_bytes(transform(network(identity, depth=12)), x, w)
    assert ours < 0.6 * plain


def test_two_tapes_hold_less() -> None:
    """Reverse over reverse: the outer tape holds no inside of a block either."""
    x = torch.randn(64, 32, dtype=torch.float64)
    w = torch.randn(32, 32, dtype=torch.float64)

    def held(way: Function) -> int:
        func = network(way, depth=12)
        return held_bytes(lambda: vjp(lambda x: grad(func)(x, w), x)[1])

    assert held(checkpoint) < 0.35 * held(identity)


@pytest.mark.eager(reason="jit runs the code once, and computes equal values once")
def test_the_function_runs_once_more() -> None:
    calls = []

    def counted(x: Tensor, w: Tensor) -> Tensor:
        calls.append(1)
        return block(x, w)

    x, w = data()
    grad(lambda x: checkpoint(counted)(x, w).sum())(x)
    assert len(calls) == 2
    checkpoint(counted)(x, w)
    assert len(calls) == 3


@pytest.mark.parametrize("way", WAYS)
def test_dropout_draws_the_same_numbers_again(way: str) -> None:
    dropped = WAYS[way](lambda x: F.dropout(x.sin(), 0.5))
    x = torch.randn(100, dtype=torch.float64)
    torch.manual_seed(3)
    mask = F.dropout(torch.ones_like(x), 0.5)
    after = torch.rand(())
    torch.manual_seed(3)
    assert_close(grad(lambda x: dropped(x).sum())(x), mask * x.cos())
    assert_close(torch.rand(()), after)
    torch.manual_seed(3)
    (twice,) = grad(lambda x: grad(lambda x: dropped(x).sum())(x).sum(), (0,))(x)
    assert_close(twice, -mask * x.sin())


def test_dropout_under_vmap() -> None:
    dropped = checkpoint(lambda x: F.dropout(x.sin(), 0.5))
    x = torch.randn(4, 50, dtype=torch.float64)
    for randomness in ("same", "different"):

        def pulled(x: Tensor) -> Any:
            out, pull = vjp(dropped, x)
            return out, pull(torch.ones_like(out))[0]

        out, cotangent = vmap(pulled, randomness=randomness)(x)
        assert_close(out * x.cos(), cotangent * x.sin())
        rows = out / x.sin()
        assert bool((rows == rows[0]).all()) is (randomness == "same")


def test_modules_and_parameters() -> None:
    """The weights of a module are captured, as functional_call puts them there."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
            self.last = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.first)(x)).sum()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net = Net().double()
    params = {k: p.detach() for k, p in net.named_parameters()}
    x = data()[0]
    got = grad(lambda p: functional_call(net, p, (x,)))(params)
    expected = torch.autograd.grad(net(x), list(net.parameters()))
    assert_close(list(got.values()), list(expected))
    rows = vmap(grad(lambda p, x: functional_call(net, p, (x,))), (None, 0))(params, x)
    assert_close({k: v.sum(0) for k, v in rows.items()}, got)


def test_a_loop_rebinds_what_is_captured() -> None:
    """Every block is run again with the weight that it had."""
    torch.manual_seed(0)
    x = data()[0]
    weights = list(torch.randn(3, 3, 3, dtype=torch.float64))

    def func(weights: list[Tensor], x: Tensor, way: Function) -> Tensor:
        for w in weights:
            x = way(lambda x: block(x, w))(x)
        return x.sum()

    got = grad(func, (0, 1))(weights, x, checkpoint)
    assert_close(got, grad(func, (0, 1))(weights, x, identity))


def test_pytrees_and_keywords() -> None:
    func = checkpoint(lambda tree, *, scale: {"out": tree["x"].sin() * scale})
    x = data()[0]
    got = grad(lambda x: func({"x": x}, scale=3.0)["out"].sum())(x)
    assert_close(got, 3 * x.cos())


def test_without_transforms() -> None:
    x, w = data()
    w.requires_grad_()
    out = checkpoint(lambda x: block(x, w))(x)
    assert_close(
        torch.autograd.grad(out.sum(), w), torch.autograd.grad(block(x, w).sum(), w)
    )


def test_a_value_that_is_not_found_is_refused() -> None:
    class Box:
        """Hides a value from the search for captured values."""

        def __init__(self, value: Tensor) -> None:
            self.value = value

    def func(x: Tensor) -> Tensor:
        box = Box(x)
        return checkpoint(lambda y: y * box.value)(x).sum()  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match="pass the value as an argument"):
        grad(func)(torch.ones(3))
