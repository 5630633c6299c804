"""How a kernel is checked: against its reference in float64, from nasty tensors.

Kernels run on a GPU where there is one, and in Triton's interpreter elsewhere.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import jaxtorch
from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.language import DTYPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
"""Largest error beside the largest result: some roundings of the output's dtype."""

__all__ = ["DEVICE", "DTYPES", "check", "layouts", "random"]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw on the CPU, so that it is the same everywhere."""
    return torch.randn(shape).to(DEVICE, dtype)


def layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the same values in other strides."""
    yield "contiguous", x
    order = list(reversed(range(x.dim())))
    yield "reversed", x.permute(order).contiguous().permute(order)
    outside = float("nan") if x.is_floating_point() else 99
    wide = x.new_full([2 * s + 1 for s in x.shape], outside)
    every_other = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    every_other.copy_(x)
    yield "stepped", every_other
    if x.dim() > 1:
        yield "expanded", x[:1].expand(x.shape)


def check(name: str, *args: Any, **options: Any) -> Any:
    """Run a kernel and compare it with the reference; return the result.

    ``options`` are the launcher's, such as ``config``; without any the kernel is called
    as the operator that it is.
    """
    operator = OPERATORS[name]
    assert operator.supports(*args), "this call would not reach the kernel"
    if options:
        out = operator.launcher(*args, **options)
    else:
        with jaxtorch.kernels_mode("force"):
            out = operator.overload(*args)
    expected = operator.reference(*[exact(a) for a in args])
    described = operator.overload(*[on_meta(a) for a in args])
    for own, wanted, fake in zip(*map(listed, (out, expected, described)), strict=True):
        compare(own, wanted, fake)
    return out


def compare(out: Tensor, expected: Tensor, fake: Tensor) -> None:
    """Compare one result with the reference and with what tracing was told."""
    for what in ("shape", "dtype"):
        assert getattr(out, what) == getattr(fake, what)
    assert out.stride() == fake.stride()
    finite = expected[expected.isfinite()].abs()
    scale = finite.max() if finite.numel() else 0
    tolerance = TOLERANCE.get(out.dtype, 0.0)
    torch.testing.assert_close(
        out.cpu().double(),
        expected.double(),
        rtol=tolerance,
        atol=float(scale) * tolerance,
        equal_nan=True,
    )


def exact(arg: Any) -> Any:
    """Return an argument in float64 on the CPU."""
    if isinstance(arg, list):
        return [exact(a) for a in arg]
    if not isinstance(arg, Tensor):
        return arg
    return arg.cpu().double() if arg.is_floating_point() else arg.cpu()


def on_meta(arg: Any) -> Any:
    """Return an argument without its data."""
    if isinstance(arg, list):
        return [on_meta(a) for a in arg]
    return arg.to("meta") if isinstance(arg, Tensor) else arg


def listed(out: Any) -> list[Tensor]:
    """Return the results as a list."""
    return list(out) if isinstance(out, (tuple, list)) else [out]


def products(**choices: Any) -> Iterator[dict[str, Any]]:
    """Yield all combinations of keyword arguments."""
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def graph_of(func: Callable[..., Any], *args: Any) -> list[str]:
    """Return the names of the calls in the graph that ``jit`` traces."""
    nodes = jaxtorch.make_graph(func)(*args).nodes
    return [str(node.target) for node in nodes if node.op == "call_function"]
