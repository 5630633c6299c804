"""Ways to batch the examples of a case, their loop, and the map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.law_cases import Case, NotApplicableError
from tests.laws.library import LIBRARY, Tensors


def stack(column: Sequence[Tensor], dim: int) -> Tensor:
    """Stack examples; a batch that is not contiguous at ``dim`` -1."""
    return torch.stack(list(column), dim)


def batches(case: Case) -> list[tuple[str, Tensors, list[int | None]]]:
    """Return ways to batch the examples: name, batched tensors, in_dims."""
    examples = case.examples
    columns = list(zip(*examples, strict=True))
    count = len(columns)
    if not count:
        raise NotApplicableError("no tensor argument")
    ways: list[tuple[str, Sequence[int], int]] = [
        ("first", [0], 0),
        ("all at -1", range(count), -1),
    ]
    if count > 1:
        ways += [("last", [count - 1], 0), ("all at 0", range(count), 0)]
    out = []
    for name, places, dim in ways:
        args = [stack(c, dim) if i in places else c[0] for i, c in enumerate(columns)]
        dims = [dim if i in places else None for i in range(count)]
        out.append((name, args, dims))
    return out


def example_of(
    args: Sequence[Tensor], dims: Sequence[int | None], index: int
) -> Tensors:
    """Return example ``index`` of batched arguments."""
    return [
        a
        if d is None
        else a.select(d, index).clone(memory_format=torch.contiguous_format)
        for a, d in zip(args, dims, strict=True)
    ]


def loop(func: Any, args: Sequence[Tensor], dims: Sequence[int | None]) -> Tensors:
    """Call once per example and stack: what vmap must equal."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    outs = [func(*example_of(args, dims, i)) for i in range(size)]
    return [torch.stack(column) for column in zip(*outs, strict=True)]


def loop_of(case: Case, dims: Sequence[int | None], *args: Tensor) -> Tensors:
    """The loop over a case's examples."""
    return loop(case.func, args, dims)


def mapped(case: Case, func: Any, dims: Sequence[Any], strict: bool = False) -> Any:
    """Map a function of tensors with ``jaxtorch.vmap``."""
    return LIBRARY.vmap(
        func,
        in_dims=tuple(dims),
        randomness="same" if case.rng else "error",
        strict=strict,
    )
