"""Looking up rows of a table, and its transpose."""

import torch
from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Lookup(LinearOperator):
    """``tangent[indices]`` without the padding row, divided by the row's frequency.

    The transpose is ``embedding_dense_backward``, which defines both exceptions.
    """

    __slots__ = ("indices", "rows", "padding_idx", "by_frequency")

    def __init__(
        self, indices: Tensor, rows: int, padding_idx: int, by_frequency: bool
    ) -> None:
        self.indices = indices
        self.rows = rows
        self.padding_idx = padding_idx
        self.by_frequency = by_frequency

    def apply(self, tangent: Tensor) -> Tensor:
        indices = self.indices
        out = torch.embedding(tangent, indices)
        if self.padding_idx >= 0:
            dropped = (indices == self.padding_idx).unsqueeze(-1)
            out = torch.masked_fill(out, dropped, 0)
        if self.by_frequency:
            flat = indices.reshape(-1).long()
            zeros = out.new_zeros(self.rows)
            counts = torch.index_add(zeros, 0, flat, out.new_ones(flat.shape))
            out = out / torch.embedding(counts.unsqueeze(1), indices)
        return out

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return torch.ops.aten.embedding_dense_backward.default(  # type: ignore[no-any-return]
            cotangent, self.indices, self.rows, self.padding_idx, self.by_frequency
        )
