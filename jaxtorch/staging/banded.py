"""``Banded``: a matrix that is zero but for some of its diagonals."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as torch_pytree
from torch import Tensor
from torch.nn import functional as F

from jaxtorch.errors import ArgumentError, explain


class Banded:
    """A matrix, or a batch of them, of which only some diagonals are kept.

    ``jit(f, structure=True)`` returns it. It is a pytree whose leaves are the bands, so
    transforms and ``tree_map`` take it.

    Attributes:
        offsets: where each band lies, ascending: 0 is the main diagonal, 1 that above.
        bands: the diagonals as ``torch.diagonal`` returns them, of different lengths.
        shape: the shape of the matrix, ``[..., rows, columns]``.

    Examples:
        >>> import torch, jaxtorch
        >>> difference = lambda x: x[1:] ** 2 - x[:-1]
        >>> j = jaxtorch.jit(jaxtorch.jacrev(difference), structure=True)(torch.ones(4))
        >>> j
        Banded(shape=(3, 4), offsets=(0, 1))
        >>> j.bands
        (tensor([-1., -1., -1.]), tensor([2., 2., 2.]))
        >>> j @ torch.tensor([1.0, 2.0, 3.0, 4.0])
        tensor([3., 4., 5.])
        >>> j.to_dense()
        tensor([[-1.,  2.,  0.,  0.],
                [ 0., -1.,  2.,  0.],
                [ 0.,  0., -1.,  2.]])
    """

    def __init__(
        self, offsets: Sequence[int], bands: Sequence[Tensor], shape: Sequence[int]
    ) -> None:
        self.offsets = tuple(offsets)
        self.bands = tuple(bands)
        self.shape = torch.Size(shape)

    def __repr__(self) -> str:
        return f"Banded(shape={tuple(self.shape)}, offsets={self.offsets})"

    def to_dense(self) -> Tensor:
        """Return the matrix as a tensor."""
        if not self.bands:
            return torch.zeros(self.shape)
        dense = self.bands[0].new_zeros(self.shape)
        for offset, band in zip(self.offsets, self.bands, strict=True):
            dense = torch.diagonal_scatter(dense, band, offset, -2, -1)
        return dense

    def diagonal(self, offset: int = 0) -> Tensor:
        """Return one diagonal, zeros where it is none of the bands."""
        if offset in self.offsets:
            return self.bands[self.offsets.index(offset)]
        _, _, length = extent(self.shape, offset)
        zeros = (*self.shape[:-2], length)
        return self.bands[0].new_zeros(zeros) if self.bands else torch.zeros(zeros)

    @property
    def T(self) -> "Banded":  # noqa: N802
        """The transposed matrix; of a batch, each of them."""
        offsets = [-offset for offset in reversed(self.offsets)]
        *batch, rows, columns = self.shape
        return Banded(offsets, self.bands[::-1], (*batch, columns, rows))

    def __matmul__(self, other: Tensor) -> Tensor:
        """Return the product with a vector, or with a matrix ``[..., columns, k]``."""
        rows, columns = self.shape[-2:]
        vector = other.dim() == 1
        matrix = other.unsqueeze(-1) if vector else other
        if matrix.shape[-2] != columns:
            raise ArgumentError(
                explain(
                    "Banded @",
                    f"a matrix of shape {tuple(self.shape)} can't be multiplied by a "
                    f"tensor of shape {tuple(other.shape)}.",
                    f"pass a vector of {columns} elements",
                )
            )
        total = matrix.new_zeros((rows, 1))
        for offset, band in zip(self.offsets, self.bands, strict=True):
            row, column, length = extent(self.shape, offset)
            part = band.unsqueeze(-1) * matrix.narrow(-2, column, length)
            total = total + F.pad(part, (0, 0, row, rows - row - length))
        return total.squeeze(-1) if vector else total


def extent(shape: Sequence[int], offset: int) -> tuple[int, int, int]:
    """Return the first row and column of a diagonal, and its length."""
    row, column = max(-offset, 0), max(offset, 0)
    return row, column, max(min(shape[-2] - row, shape[-1] - column), 0)


def flatten(value: Banded) -> tuple[list[Tensor], Any]:
    """Return the bands, and all else."""
    return list(value.bands), (value.offsets, tuple(value.shape))


def unflatten(bands: Any, context: Any) -> Banded:
    """Undo ``flatten``."""
    offsets, shape = context
    return Banded(offsets, tuple(bands), shape)


def with_keys(value: Banded) -> Any:
    """Return the bands with how to reach them, and all else."""
    bands, context = flatten(value)
    keys: list[Any] = [torch_pytree.SequenceKey(i) for i in range(len(bands))]
    return list(zip(keys, bands, strict=True)), context


torch_pytree.register_pytree_node(
    Banded, flatten, unflatten, flatten_with_keys_fn=with_keys
)
