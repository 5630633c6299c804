"""From a function of tensors to a program: the calls that it makes, on meta tensors."""

import functools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from jaxtorch.kernels.language import HAS_TRITON, INTERPRETED
from jaxtorch.kernels.operator import switched_on
from jaxtorch.kernels.pointwise import POINTWISE, row_shape
from jaxtorch.kernels.program import Builder, Value
from jaxtorch.kernels.vocabulary import ROW_WORDS, dims_of, speak
from jaxtorch.settings import config


class NotWritableError(Exception):
    """A call has no word."""


class Recorder(TorchDispatchMode):
    """Writes each call into a program."""

    def __init__(self, operands: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.builder = Builder(len(operands))
        self.kept = list(operands)
        self.values = {id(x): self.builder.operand(i) for i, x in enumerate(operands)}
        self.dims: tuple[int, ...] = ()
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C._DisableTorchDispatch():
            out = func(*args, **(kwargs or {}))
        own, named = pytree.tree_map_only(Tensor, self.value, (args, kwargs or {}))
        written = speak(func, own, named)
        if written is None or (func in ROW_WORDS and not self.same_rows(func, args)):
            raise NotWritableError
        self.kept.append(out)  # so that no other gets its id
        self.values[id(out)] = written
        self.calls += 1
        return out

    def value(self, x: Tensor) -> Value:
        """Return the value that a tensor stands for."""
        if id(x) not in self.values:
            raise NotWritableError
        return self.values[id(x)]

    def same_rows(self, func: Any, args: Any) -> bool:
        """Note along which dims a call reduces; all calls must agree."""
        dims = dims_of(func, args, args[0].dim())
        self.dims = self.dims or dims
        return self.dims == dims


class Kind(NamedTuple):
    """What the program of a call depends on of a tensor."""

    shape: torch.Size
    dtype: torch.dtype


@functools.lru_cache(4096)
def program_of(
    func: Callable[..., Any], args: tuple[Any, ...], named: tuple[tuple[str, Any], ...]
) -> tuple[str, tuple[int, ...]] | None:
    """Write what ``func`` does to tensors as a program.

    The first result has the shape that the tensors make together; others may have one
    number for each row.

    Args:
        func: makes torch's calls.
        args: its arguments, with a ``Kind`` for each tensor.
        named: its keyword arguments and their names.

    Returns:
        The program and the dims of its rows; None where a call has no word, where there
        is only one, or where a result has another shape.
    """
    given = [
        torch.empty(a.shape, dtype=a.dtype, device="meta") if isinstance(a, Kind) else a
        for a in args
    ]
    operands = [a for a in given if isinstance(a, Tensor)]
    recorder = Recorder(operands)
    try:
        with recorder:
            out = func(*given, **dict(named))
        outs = out if isinstance(out, tuple) else (out,)
        values = [recorder.value(out) for out in outs]
    except NotWritableError:
        return None
    shape = torch.broadcast_shapes(*[x.shape for x in operands])
    shapes = [shape, torch.Size(row_shape(shape, recorder.dims))]
    alike = {x.dtype: i for i, x in reversed(list(enumerate(operands)))}
    if recorder.calls < 2 or outs[0].shape != shape:
        return None
    if any(out.shape not in shapes or out.dtype not in alike for out in outs):
        return None
    results = [(v, alike[out.dtype]) for v, out in zip(values, outs, strict=True)]
    return recorder.builder.text(results), recorder.dims


FEW_ROWS = 64
"""With fewer rows most of a GPU idles, unless they can be split."""
BUILT = INTERPRETED or (HAS_TRITON and torch.backends.cuda.is_built())
LEAST = 1 << 20
"""Below so many elements launching takes longer than computing, and two launches of
ATen's are as fast as one of Triton's."""


def fused(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs in one kernel where it can, and else as it is.

    It makes elementwise calls and sums along rows, and returns a tensor or a tuple of
    them. On a build of torch without CUDA it is returned as it is.
    """
    if not BUILT or not isinstance(formula, FunctionType):
        return formula

    @functools.wraps(formula)
    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(first, Tensor) and switched_on(first):
            out = run_fused(formula, (first, *args), kwargs)
            if out is not None:
                return out
        return formula(first, *args, **kwargs)

    return call


def in_order(x: Tensor) -> bool:
    """Tell whether the dims lie in memory in order, as those of a result do."""
    strides = Tensor.stride(x)  # changes no number
    steps = [s for s, size in zip(strides, x.shape, strict=True) if s and size > 1]
    return steps == sorted(steps, reverse=True)


def is_worth(shape: torch.Size, dims: Sequence[int]) -> bool:
    """Tell whether a kernel is fast: many elements, many rows along the last dim."""
    if config.kernels == "force":
        return True
    if shape.numel() < LEAST or not dims:
        return shape.numel() >= LEAST
    rows = torch.Size(row_shape(shape, dims)).numel()
    return rows >= FEW_ROWS and dims[-1] == len(shape) - 1


def run_fused(formula: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run a formula in a kernel, if its tensors are plain and large."""
    operands = [a for a in args if isinstance(a, Tensor)]
    if any(type(x) is not Tensor or x.requires_grad for x in operands):
        return None
    shape = torch.broadcast_shapes(*[x.shape for x in operands])
    if not all(map(in_order, operands)):
        return None
    kinds = tuple(Kind(a.shape, a.dtype) if isinstance(a, Tensor) else a for a in args)
    found = program_of(formula, kinds, tuple(sorted(kwargs.items())))
    if found is None or not is_worth(shape, found[1]):
        return None
    if not POINTWISE.supports(operands, *found):
        return None
    outs = POINTWISE.overload(operands, *found)
    return outs[0] if len(outs) == 1 else tuple(outs)
