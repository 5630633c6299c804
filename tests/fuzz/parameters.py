"""How the parameters of an operation are drawn, given the operands they are for."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Choose = Callable[[list[Any]], Any]
Drawer = Callable[[Choose, list[Tensor]], Any]


def one_of(*values: Any) -> Drawer:
    """Draw one of these values."""
    return lambda choose, operands: choose(list(values))


def a_dim(choose: Choose, operands: list[Tensor]) -> int:
    """Draw a dim of the first operand, counted from either end."""
    rank = max(operands[0].dim(), 1)
    return int(choose(list(range(-rank, rank))))


def a_new_dim(choose: Choose, operands: list[Tensor]) -> int:
    """Draw where a dim can be inserted."""
    rank = operands[0].dim() + 1
    return int(choose(list(range(-rank, rank))))


def some_dims(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw one or two dims."""
    rank = max(operands[0].dim(), 1)
    first = choose(list(range(rank)))
    second = choose(list(range(rank)))
    return (first,) if first == second else (first, second - rank)


def two_dims(choose: Choose, operands: list[Tensor]) -> str:
    """Draw two different dims."""
    rank = operands[0].dim()
    first = choose(list(range(rank)))
    second = choose([d for d in range(rank) if d != first])
    return f"{first}, {second - rank}"


def an_order(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw a permutation of the dims."""
    left = list(range(operands[0].dim()))
    out = []
    while left:
        out.append(choose(left))
        left.remove(out[-1])
    return tuple(out)


def a_size(choose: Choose, operands: list[Tensor]) -> int:
    """Draw a number from 1 to 3."""
    return int(choose([1, 2, 3]))


def an_index(choose: Choose, operands: list[Tensor]) -> str:
    """Draw the text of a basic index."""
    parts = []
    for size in operands[0].shape:
        kinds = [":", ":", "1:", ":-1", "::2", "None, :", "-1:"]
        if size:
            kinds += ["0", "-1"]
        parts.append(choose(kinds))
    if operands[0].dim() > 1 and choose([False, False, True]):
        parts = ["...", parts[-1]]
    return ", ".join(parts) or "..."


def a_list(choose: Choose, operands: list[Tensor]) -> str:
    """Draw the text of an index by a list, at the first or at the last dim."""
    x = operands[0]
    if x.dim() == 0:
        return "..."
    first = choose([True, False])
    size = x.shape[0 if first else -1]
    picks = (
        [choose(list(range(size))) for _ in range(choose([1, 2, 3]))] if size else []
    )
    index = f"torch.tensor({picks}, dtype=torch.long)"
    return f"{index}, ..." if first else f"..., {index}"


def distinct_list(choose: Choose, operands: list[Tensor]) -> str:
    """Draw the text of an index that names no row twice."""
    x = operands[0]
    if x.dim() == 0:
        return "..."
    order = an_order(choose, [x.new_empty([1] * min(x.shape[0], 4))])
    count = choose(list(range(len(order) + 1)))
    return f"torch.tensor({list(order[:count])}, dtype=torch.long)"


def a_shape(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw another shape of as many elements."""
    x = operands[0]
    shape = list(x.shape)
    options: list[tuple[int, ...]] = [(x.numel(),), (1, x.numel()), (x.numel(), 1)]
    if x.numel() == 1:
        options.append(())
    if len(shape) > 1:
        options.append((shape[0] * shape[1], *shape[2:]))
        options.append((*shape[:-2], shape[-2] * shape[-1]))
    splits = [n for n in (2, 3) if x.numel() and x.numel() % n == 0]
    options += [(n, x.numel() // n) for n in splits]
    return tuple(choose(options))


def a_wider_shape(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw a shape that the operand expands to."""
    shape = [choose([2, 3]) if s == 1 else s for s in operands[0].shape]
    if choose([True, False]):
        shape.insert(0, choose([1, 2]))
    return tuple(shape)


def fresh_shape(choose: Choose, operands: list[Tensor]) -> tuple[int, ...]:
    """Draw the shape of a tensor made in the function: like that of an operand."""
    return tuple(operands[0].shape)


def last_size(choose: Choose, operands: list[Tensor]) -> int:
    """Return the size of the last dim."""
    return operands[0].shape[-1] if operands[0].dim() else 1


def first_size(choose: Choose, operands: list[Tensor]) -> int:
    """Return the size of the first dim."""
    return operands[0].shape[0] if operands[0].dim() else 1


def size_of_dim(choose: Choose, operands: list[Tensor]) -> int:
    """Return the size of the second dim, that of the classes."""
    return operands[0].shape[1] if operands[0].dim() > 1 else 1


def a_scalar(choose: Choose, operands: list[Tensor]) -> float:
    """Draw a number."""
    return float(choose([0.5, -0.7, 1.3, 2.0, 0.25]))
