"""When an operation may be used: guards look at values, fits at shapes.

Guards keep operands away from kinks, ties and poles. What both have in common is that
they tell whether a program may go on with an operation; they change nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GAP = 1e-3

Guard = Callable[..., bool]


def away(*bounds: float) -> Guard:
    """Keep the first operand away from some numbers."""
    return lambda x, *_, **__: all(bool(((x - b).abs() > GAP).all()) for b in bounds)


def above(least: float, most: float = 1e9) -> Guard:
    """Keep the first operand between two numbers."""
    return lambda x, *_, **__: bool(((x > least) & (x < most)).all())


def sizes_below(most: float) -> Guard:
    """Keep the first operand small."""
    return above(-most, most)


def off_integers(x: Tensor, *_: Any, **__: Any) -> bool:
    """Keep away from where rounding jumps, at halves and at integers."""
    return bool(((2 * x - (2 * x).round()).abs() > GAP).all())


def apart(x: Tensor, y: Tensor, *_: Any, **__: Any) -> bool:
    """Keep two operands from being equal, if they are no integers."""
    if not (x.is_floating_point() or y.is_floating_point()):
        return True
    return bool(((x - y).abs() > GAP).all())


def distinct(x: Tensor, *_: Any, **__: Any) -> bool:
    """Keep all elements apart."""
    flat = x.reshape(-1).double().sort().values
    return x.numel() > 0 and bool((flat.diff() > GAP).all())


def divisor(_: Tensor, y: Tensor) -> bool:
    """Keep the second operand away from zero."""
    return bool((y.abs() > 0.2).all())


def not_zero(x: Tensor, *_: Any, **__: Any) -> bool:
    """Keep all elements away from zero by enough for a quotient."""
    return bool((x.abs() > 0.2).all())


def has_norm(x: Tensor, *_: Any, dim: Any = None, **__: Any) -> bool:
    """Keep norms away from zero."""
    return bool((torch.linalg.vector_norm(x, dim=dim) > 0.1).all())


def varied(x: Tensor, *_: Any, dim: Any = None, **__: Any) -> bool:
    """Keep variances away from zero."""
    return bool((x.var(dim) > 0.05).all())


# Shapes that go together.


def broadcast(*operands: Tensor) -> bool:
    """Tell whether the operands broadcast."""
    try:
        shape = torch.broadcast_shapes(*(o.shape for o in operands))
    except RuntimeError:
        return False
    return shape.numel() <= 48


def into_first(x: Tensor, *others: Tensor) -> bool:
    """Tell whether the other operands broadcast to the first."""
    return broadcast(x, *others) and x.shape == torch.broadcast_shapes(
        x.shape, *(o.shape for o in others)
    )


def multiply(x: Tensor, y: Tensor) -> bool:
    """Tell whether a matrix product is defined."""
    if x.dim() == 0 or y.dim() == 0 or x.dtype != y.dtype:
        return False
    if x.shape[-1] != y.shape[max(y.dim() - 2, 0)]:
        return False
    rows, others = x.shape[:-2], y.shape[:-2]
    short = min(len(rows), len(others))
    return short == 0 or rows[-short:] == others[-short:]


def same_shape(*operands: Tensor) -> bool:
    """Tell whether shapes and dtypes are equal."""
    first = operands[0]
    return all(o.shape == first.shape and o.dtype == first.dtype for o in operands)


def ranks(*wanted: int) -> Guard:
    """Ask for these numbers of dims, and for one dtype."""

    def fits(*operands: Tensor) -> bool:
        return all(
            o.dim() == r and o.dtype == operands[0].dtype
            for o, r in zip(operands, wanted, strict=True)
        )

    return fits


def at_least(rank: int) -> Guard:
    """Ask for at least so many dims in the first operand."""
    return lambda x, *_: x.dim() >= rank


def square_matrix(x: Tensor, *_: Any) -> bool:
    """Ask for one square matrix that is not empty."""
    return x.dim() == 2 and x.shape[0] == x.shape[1] > 0


def columns(x: Tensor, y: Tensor) -> bool:
    """Ask for a square matrix and a right-hand side of its size."""
    return (
        square_matrix(x)
        and y.dim() == 2
        and y.shape[0] == x.shape[0]
        and (x.dtype == y.dtype)
    )


def concatenable(x: Tensor, y: Tensor) -> bool:
    """Tell whether the shapes agree but for at most one dim."""
    if x.dim() != y.dim() or x.dim() == 0:
        return False
    return sum(a != b for a, b in zip(x.shape, y.shape, strict=True)) <= 1
