"""``jacobian_bands``: a banded Jacobian from a few directions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch.core.level import paused
from jaxtorch.core.opaque import opaque, standing_for
from jaxtorch.errors import ArgumentError, UsageError, explain
from jaxtorch.transforms.checks import Argnums
from jaxtorch.transforms.diagonals import record_square
from jaxtorch.transforms.naming import Where
from jaxtorch.transforms.taping import Recording
from jaxtorch.transforms.vmap import vmap


@opaque
def jacobian_bands(
    func: Callable[..., Any],
    lower: int = 1,
    upper: int = 1,
    argnums: Argnums = 0,
    *,
    check: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes a square, banded Jacobian.

    Columns that lie ``lower + upper + 1`` apart share no row of the bands, so that one
    direction yields all of them: the cost is that many derivatives along a direction,
    for any n. The entries outside of the bands are taken to be zero; where they are
    not, they are added to entries inside.

    Args:
        func: a function of tensors that returns a tensor of the shape of the
            differentiated one: output i depends on the inputs from ``i - lower`` to
            ``i + upper`` alone, both counted along the flattened tensors.
        lower: how many bands there are below the diagonal.
        upper: how many bands there are above the diagonal.
        argnums: the positional argument to differentiate, one tensor.
        check: compare a product of the bands and one of the Jacobian with a vector of
            random numbers, always the same, and raise where they differ. It costs one
            more direction and reads the result's values, which ``vmap`` and ``jit`` do
            not allow.

    Returns:
        A function of the same arguments, whose result has the shape
        ``[lower + upper + 1, n]``. Each row is a band, the highest first, and column j
        holds column j of the Jacobian J: entry ``[upper + i - j, j]`` is ``J[i, j]``,
        and zero where J has no row i. ``scipy.linalg.solve_banded`` takes this layout.

    Raises:
        UsageError: (a RuntimeError) for an output whose shape is not that of the input,
            several tensors, wrong argnums, complex inputs, and inputs or outputs that
            have no derivative.
        ArgumentError: (a ValueError) for a negative ``lower`` or ``upper``, and with
            ``check`` for entries outside of the bands that are larger than rounding.

    Examples:
        >>> import torch, jaxtorch
        >>> def residual(x):
        ...     return x**2 - torch.nn.functional.pad(x, (1, 0))[:-1]
        >>> jaxtorch.jacobian_bands(residual, 1, 0)(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[ 2.,  4.,  6.],
                [-1., -1.,  0.]])

    Source: Curtis, Powell, Reid, On the Estimation of Sparse Jacobian Matrices, 1974.
    """
    where = Where("jacobian_bands", func)
    check_widths(where, lower, upper)

    @standing_for(func)
    def bands(*args: Any, **kwargs: Any) -> Tensor:
        tape = record_square(where, func, argnums, False, args, kwargs)
        check_single(where, tape)
        return read_bands(where, tape, lower, upper, check)

    return bands


def read_bands(
    where: object, tape: Recording, lower: int, upper: int, check: bool
) -> Tensor:
    """Push one direction for each colour, and sort the products into bands."""
    (leaf,) = tape.inputs
    size = leaf.numel()
    colours = max(min(lower + upper + 1, size), 1)
    with paused():
        column = torch.arange(size, device=leaf.device)
        colour = torch.arange(colours, device=leaf.device).unsqueeze(1)
        directions = (column % colours == colour).to(leaf.dtype)
        if check:
            vector = probe(leaf)
            directions = torch.cat([directions, vector.unsqueeze(0)])
        directions = directions.reshape(len(directions), *leaf.shape)
    pushed = vmap(lambda direction: tape.push([direction])[0])(directions)
    with paused():
        products = pushed.reshape(len(directions), size)
        rows = torch.arange(-upper, lower + 1, device=leaf.device).unsqueeze(1) + column
        inside = (rows >= 0) & (rows < size)
        rows = torch.where(inside, rows, 0)
        found = torch.where(inside, products[column % colours, rows], 0)
        if check and size:
            check_outside(where, found, rows, vector, products[-1])
    return found


def probe(leaf: Tensor) -> Tensor:
    """Return random numbers, always the same; no generator of the user is used."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(leaf.numel(), generator=generator, dtype=torch.float64)
    return numbers.to(leaf.device, leaf.dtype)


def check_widths(where: object, lower: int, upper: int) -> None:
    """Refuse negative numbers of bands."""
    for name, count in (("lower", lower), ("upper", upper)):
        if count < 0:
            raise ArgumentError(
                explain(
                    where,
                    f"{name} should be 0 or greater, got {count}.",
                    "count the bands beside the diagonal",
                )
            )


def check_single(where: object, tape: Recording) -> None:
    """Refuse several tensors, whose elements have no common order."""
    if len(tape.inputs) != 1:
        raise UsageError(
            explain(
                where,
                f"expected one differentiated tensor, got {len(tape.inputs)}.",
                "concatenate the tensors into one, and split it inside the function",
            )
        )


def check_outside(
    where: object, found: Tensor, rows: Tensor, vector: Tensor, product: Tensor
) -> None:
    """Refuse bands whose product with ``vector`` is not that of the Jacobian."""
    terms = found * vector.to(found.dtype)
    zeros, flat = torch.zeros_like(product), rows.flatten()
    error = (zeros.index_add(0, flat, terms.flatten()) - product).abs()
    scale = zeros.index_add(0, flat, terms.abs().flatten()).max()
    eps = max(torch.finfo(vector.dtype).eps, torch.finfo(product.dtype).eps)
    if bool(error.max() > eps**0.5 * scale):
        raise ArgumentError(
            explain(
                where,
                "the Jacobian has entries outside of the bands.",
                "raise lower and upper, or take jacfwd or jacrev",
                f"the product of its row {int(error.argmax())} with a vector and that "
                f"of the bands differ by {float(error.max()):.3g}",
            )
        )
