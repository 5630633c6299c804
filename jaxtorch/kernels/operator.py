"""How a kernel becomes an operator of PyTorch, and the table of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from jaxtorch.kernels.language import HAS_TRITON, INTERPRETED
from jaxtorch.settings import config

LIBRARY = torch.library.Library("jaxtorch", "DEF")
PLAIN: set[type] = {Tensor, torch.nn.Parameter, FakeTensor}
"""Types of tensors that a kernel may be chosen for; staging adds its own."""


@dataclass(frozen=True)
class Operator:
    """An operator ``torch.ops.jaxtorch.<name>`` with a kernel.

    Attributes:
        overload: the operator; ``overload(*args)`` runs kernel or reference.
        reference: the same in plain ATen; also says, on meta tensors, what comes out.
        launcher: launches the kernel, for arguments that ``supports`` accepts.
        supports: tells from shapes, strides and dtypes whether the kernel can run.
        flops: the operations of a call, of the shapes of its arguments.
    """

    name: str
    overload: OpOverload
    reference: Callable[..., Any]
    launcher: Callable[..., Any]
    supports: Callable[..., bool]
    flops: Callable[..., int]

    def chosen(self, *args: Any) -> bool:
        """Tell whether a rule should call the operator: its kernel would run."""
        return (
            switched_on(first_of(args))
            and all(type(a) in PLAIN and not a.requires_grad for a in tensors_of(args))
            and self.supports(*args)
        )


OPERATORS: dict[str, Operator] = {}


def first_of(args: tuple[Any, ...]) -> Any:
    """Return the first tensor, which says where a call runs."""
    first = args[0]
    return first[0] if isinstance(first, (list, tuple)) else first


def tensors_of(args: tuple[Any, ...]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments, also those of lists."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from tensors_of(tuple(arg))


def switched_on(x: Tensor) -> bool:
    """Tell whether kernels run on the device of ``x``; cheap on the CPU."""
    if x.is_cuda:
        return HAS_TRITON and config.kernels != "off"
    return INTERPRETED and config.kernels == "force"


def runs_on(device: torch.device) -> bool:
    """Tell whether kernels run on a device."""
    if device.type == "cuda":
        return HAS_TRITON and config.kernels != "off"
    return INTERPRETED and config.kernels == "force"


def define(
    schema: str,
    *,
    reference: Callable[..., Any],
    launcher: Callable[..., Any],
    supports: Callable[..., bool],
    flops: Callable[..., int],
) -> Operator:
    """Define ``jaxtorch::<schema>`` and enter it in the table.

    The kernel runs where it is switched on and ``supports`` agrees, the reference for
    all other tensors, for meta tensors, and where torch.autograd records. Its results
    have the strides of the kernel's.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    packet = getattr(torch.ops.jaxtorch, name)
    overload: OpOverload = packet.default

    def run(*args: Any) -> Any:
        if switched_on(first_of(args)) and supports(*args):
            return launcher(*args)
        return reference(*args)

    def recorded(*args: Any) -> Any:
        if torch.is_grad_enabled() and any(a.requires_grad for a in tensors_of(args)):
            return reference(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)

    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    LIBRARY.impl(name, reference, "Meta")
    LIBRARY.impl(name, recorded, "Autograd")
    register_flop_formula(packet)(flops)
    operator = Operator(name, overload, reference, launcher, supports, flops)
    OPERATORS[name] = operator
    return operator
