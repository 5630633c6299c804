"""What a family of kernels is measured and compiled on. No kernel, no size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.operator import Operator, tensors_of

BANDWIDTH = 3.35e12
"""Bytes a second of an H100 SXM."""
VECTOR_RATE = 67e12
"""Operations a second in float32 outside of the tensor cores."""
MATRIX_RATES = {
    torch.float32: 494e12 / 3,
    torch.bfloat16: 989e12,
    torch.float16: 989e12,
}
"""Dense operations a second of the tensor cores; float32 is three products in tf32."""
WITHOUT_TENSOR_CORES = (
    "rows_", "pointwise", "gram_diagonal",
    "small_cholesky", "small_lu", "small_solve", "small_triangular",
)  # fmt: skip
"""How the names of operators begin whose kernels multiply in float32."""


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Attributes:
        operator: its name in ``OPERATORS``.
        label: the size in words.
        shapes: of its tensors on a GPU; ``tiny`` on the CPU.
        dtype: of all tensors.
        rest: arguments behind the tensors.
        peers: what it competes with, by name: functions of the same arguments.
        configs: the configs of its launcher, by name, that are timed beside each other.
        make: makes a tensor of a shape, where random numbers won't do.
        inside: brings a tensor to where the operator has derivatives, if not anywhere.
        listed: whether the operator takes its tensors as one list.
    """

    operator: str
    label: str
    shapes: Sequence[Sequence[int]]
    tiny: Sequence[Sequence[int]]
    dtype: torch.dtype = torch.bfloat16
    rest: tuple[Any, ...] = ()
    peers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    make: Callable[..., Tensor] = torch.randn
    inside: Callable[[Tensor], Tensor] | None = None
    listed: bool = False

    @property
    def kernel(self) -> Operator:
        return OPERATORS[self.operator]

    @property
    def name(self) -> str:
        return f"{self.operator}, {self.label}"

    def arguments(self, device: str, tiny: bool = False) -> tuple[Any, ...]:
        """Draw the arguments."""
        shapes = self.tiny if tiny else self.shapes
        tensors = [self.make(s, dtype=self.dtype, device=device) for s in shapes]
        return self.call(tensors)

    def call(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Return the arguments of a call with these tensors."""
        given = [list(tensors)] if self.listed else tensors
        return (*given, *self.rest)

    def flops(self) -> int:
        """Count the operations at full size."""
        return self.kernel.flops(*self.call(self.shapes))

    def traffic(self) -> int:
        """Count the bytes if each input is read and each output written once."""
        args = self.arguments("meta")
        out = self.kernel.overload(*args)
        return sum(t.nbytes for t in tensors_of((args, out)))

    def roofline(self) -> float:
        """Return the seconds that an H100 needs at least."""
        return max(self.traffic() / BANDWIDTH, self.flops() / self.rate())

    def rate(self) -> float:
        """Return the operations a second of the units that the kernel runs on."""
        if self.operator.startswith(WITHOUT_TENSOR_CORES):
            return VECTOR_RATE
        return MATRIX_RATES[self.dtype]


@dataclass(frozen=True)
class Build:
    """One launch that is compiled for every target, on meta tensors.

    Attributes:
        label: what is special, such as the config and the dtype.
        launch: calls a launcher on meta tensors.
        streams: whether all large loads and stores must take 16 bytes.
        multiplies: whether it must run on tensor cores.
        small: why its tiles have fewer than the 64 rows of a warp group of Hopper, so
            that its products are those of single warps; None where they have not.
    """

    label: str
    launch: Callable[[], Any]
    streams: bool = False
    multiplies: bool = False
    small: str | None = None


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Make a tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")
