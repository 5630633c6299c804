"""Every law goes red on a record that is deliberately wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from jaxtorch.core import primitive
from jaxtorch.linear.diagonal import Elementwise
from jaxtorch.linear.operator import General
from jaxtorch.rules.record import Record
from tests.law_cases import Case
from tests.laws import LAWS

SIN = torch.ops.aten.sin.default
COS = torch.ops.aten.cos.default
MUL = torch.ops.aten.mul.Tensor
ADD = torch.ops.aten.add.Tensor


def case_of(func: Callable[..., Tensor], count: int = 1) -> Case:
    """Return a case of some float64 matrices."""
    torch.manual_seed(3)
    examples = [
        tuple(torch.randn(3, 2, dtype=torch.float64) for _ in range(count))
        for _ in range(2)
    ]
    wanted = tuple(range(count))
    return Case("wrong", lambda *xs: [func(*xs)], tuple(examples), wanted)


def sin_batch(size: int, dims: Any, x: Tensor) -> Any:
    """Batch the sine as it should be."""
    return torch.sin(x), dims[0]


def sin_linearize(scale: Callable[..., Tensor]) -> Callable[..., Any]:
    """Linearize the sine by some elementwise derivative."""
    return lambda wanted, x: (torch.sin(x), (Elementwise(scale, x),))


def cos_batch(size: int, dims: Any, x: Tensor) -> Any:
    """Batch the cosine, the slope of the sine, as it should be."""
    return torch.cos(x), dims[0]


def wrong_cos(wanted: Any, x: Tensor) -> Any:
    """A second derivative of the sine of the wrong sign."""
    return torch.cos(x), (Elementwise(lambda t, x: t * torch.sin(x), x),)


def general(forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """Linearize the sine by two functions of the tangent and the input."""

    def linearize(wanted: Any, x: Tensor) -> Any:
        operator = General(lambda t: forward(t, x), lambda c: backward(c, x))
        return torch.sin(x), (operator,)

    return linearize


def right(t: Tensor, x: Tensor) -> Tensor:
    """The derivative of the sine."""
    return t * torch.cos(x)


def detached(t: Tensor, x: Tensor) -> Tensor:
    """A derivative that torch.autograd can't differentiate again."""
    return t * torch.cos(x.detach())


def by_value(size: int, dims: Any, x: Tensor) -> Any:
    """A batch dim that is right only for the shape of the batch at the front."""
    return torch.sin(x), 0


def detached_batch(size: int, dims: Any, x: Tensor) -> Any:
    """A rule whose result torch.autograd can't reach."""
    return torch.sin(x.detach()), dims[0]


def one_at_a_time(size: int, dims: Any, x: Tensor) -> Any:
    """A rule that can't stack an empty batch."""
    return torch.stack([torch.sin(x.select(dims[0], i)) for i in range(size)]), 0


def mixed(size: int, dims: Any, x: Tensor) -> Any:
    """A rule that mixes the examples."""
    return torch.sin(x).flip(dims[0]), dims[0]


def mixed_mul(size: int, dims: Any, x: Tensor, y: Any) -> Any:
    """A rule of the product that mixes the examples."""
    return torch.mul(x, y).flip(dims[0]), dims[0]


def wrong_linearize(wanted: Any, x: Tensor) -> Any:
    """A derivative that is the same for all examples."""
    return torch.sin(x), (Elementwise(lambda t, x: t * 0.5, x),)


def drifting_linearize(wanted: Any, x: Tensor) -> Any:
    """An operator that is linear at its first use only."""
    uses: list[int] = []

    def forward(t: Tensor) -> Tensor:
        uses.append(1)
        return t * torch.cos(x) * len(uses)

    drift = General(forward, lambda c: c * torch.cos(x))
    drift.apply(x)
    SHARED.append(drift)
    return torch.sin(x), (SHARED[0],)


SHARED: list[General] = []


GOOD = sin_linearize(right)
WRONG = {
    "batch-other_dim": ("batch", Record(SIN, by_value, GOOD)),
    "batch-mixed": ("batch", Record(SIN, mixed, GOOD)),
    "rule-missing": ("rule", Record(SIN, None, GOOD)),
    "sizes-empty": ("sizes", Record(SIN, one_at_a_time, GOOD)),
    "vjp-factor": (
        "vjp",
        Record(SIN, sin_batch, sin_linearize(lambda t, x: 2 * right(t, x))),
    ),
    "vjp-zero": ("vjp", Record(SIN, sin_batch, lambda w, x: (torch.sin(x), ()))),
    "transpose-sign": (
        "transpose",
        Record(SIN, sin_batch, general(right, lambda c, x: -right(c, x))),
    ),
    "transpose-drops": (
        "transpose",
        Record(SIN, sin_batch, general(right, lambda c, x: None)),
    ),
    "difference-factor": (
        "difference",
        Record(SIN, sin_batch, general(lambda t, x: 1.001 * right(t, x), right)),
    ),
    "linearize-drifts": ("linearize", Record(SIN, sin_batch, drifting_linearize)),
    "jvp_vjp-slope": ("jvp_vjp", Record(COS, cos_batch, wrong_cos)),
    "vjp_vjp-slope": ("vjp_vjp", Record(COS, cos_batch, wrong_cos)),
    "vmap_vjp-same": ("vmap_vjp", Record(SIN, sin_batch, wrong_linearize)),
    "vmap_pull-mixed": ("vmap_pull", Record(MUL, mixed_mul, None)),
    "vjp_vmap-mixed": ("vjp_vmap", Record(SIN, mixed, GOOD)),
    "vmap_jvp-mixed": ("vmap_jvp", Record(SIN, mixed, GOOD)),
    "autograd_vmap-detached": ("autograd_vmap", Record(SIN, detached_batch, GOOD)),
    "autograd_vjp-detached": (
        "autograd_vjp",
        Record(SIN, sin_batch, sin_linearize(detached)),
    ),
    "vmap_vmap-other_dim": ("vmap_vmap", Record(SIN, by_value, GOOD)),
}


@pytest.fixture
def with_record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that puts a record in the place of the right one."""

    def put(record: Record) -> None:
        wrong = primitive.Primitive(record.overload, record)
        monkeypatch.setitem(primitive.PRIMITIVES, record.overload, wrong)

    return put


@pytest.mark.parametrize("law", LAWS)
def test_right_record_is_green(law: str, with_record: Callable[..., None]) -> None:
    """Each law holds for a right record, so that red means the record."""
    with_record(Record(SIN, sin_batch, GOOD))
    LAWS[law](case_of(torch.sin))


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_record_is_red(wrong: str, with_record: Callable[..., None]) -> None:
    """Each law fails on a record that breaks it."""
    law, record = WRONG[wrong]
    with_record(record)
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        LAWS[law](case_of(torch.sin))


def test_every_law_has_a_wrong_record() -> None:
    """A law that nothing here turns red would be a defect."""
    assert {law for law, _ in WRONG.values()} == set(LAWS)


def test_batch_law_sees_a_dim_that_is_not_aligned(
    with_record: Callable[..., None],
) -> None:
    """Adding a batched matrix to a shared one needs the ranks aligned."""

    def unaligned(size: int, dims: Any, x: Tensor, y: Tensor, alpha: Any = 1) -> Any:
        return torch.add(x, y, alpha=alpha), next(d for d in dims if d is not None)

    with_record(Record(ADD, unaligned, None))
    with pytest.raises((AssertionError, RuntimeError)):
        LAWS["batch"](case_of(lambda x, y: x + y[0], 2))
