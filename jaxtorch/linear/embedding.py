"""Looking up rows of a table and summing them in bags, and the transposes."""

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


class Bags:
    """Which bag each index of an ``embedding_bag`` falls into, and what it weighs."""

    __slots__ = ("indices", "offsets", "padding_idx", "mean")

    def __init__(
        self, indices: Tensor, offsets: Tensor, padding_idx: int, mean: bool
    ) -> None:
        self.indices = indices
        self.offsets = offsets
        self.padding_idx = padding_idx
        self.mean = mean

    def numbers(self) -> Tensor:
        """Return the bag of each index: how many bags have started, less one."""
        count = self.indices.numel()
        starts = self.offsets.new_zeros(count + 1, dtype=torch.int64)
        ones = starts.new_ones(self.offsets.shape)
        starts = torch.scatter_add(starts, 0, self.offsets.long(), ones)
        return torch.cumsum(starts, 0).narrow(0, 0, count) - 1

    def present(self, like: Tensor) -> Tensor:
        """Return one for each index that counts, zero for padding."""
        if self.padding_idx < 0:
            return like.new_ones(self.indices.shape)
        return (self.indices != self.padding_idx).to(like.dtype)

    def sizes(self, like: Tensor) -> Tensor:
        """Return how many indices count in each bag."""
        zeros = like.new_zeros(self.offsets.shape)
        return torch.index_add(zeros, 0, self.numbers(), self.present(like))

    def clear_empty(self, t: Tensor) -> Tensor:
        """Set the rows of bags in which nothing counts to zero."""
        return torch.masked_fill(t, (self.sizes(t) == 0).unsqueeze(1), 0)

    def weights(self, like: Tensor) -> Tensor:
        """Return the weight of each index in its bag, as a column."""
        weights = self.present(like)
        if self.mean:
            sizes = torch.index_select(self.sizes(like), 0, self.numbers())
            weights = weights / torch.clamp(sizes, min=1)
        return weights.unsqueeze(1)


class BagSum(LinearOperator):
    """Rows ``[indices, width]`` summed, or averaged, to ``[bags, width]``."""

    __slots__ = ("bags",)

    def __init__(self, bags: Bags) -> None:
        self.bags = bags

    def apply(self, tangent: Tensor) -> Tensor:
        zeros = tangent.new_zeros((*self.bags.offsets.shape, tangent.shape[1]))
        rows = tangent * self.bags.weights(tangent)
        return torch.index_add(zeros, 0, self.bags.numbers(), rows)

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        rows = torch.index_select(cotangent, 0, self.bags.numbers())
        return rows * self.bags.weights(cotangent)


class RowScale(LinearOperator):
    """One number per row times a matrix of rows; the transpose sums along the rows."""

    __slots__ = ("rows",)

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def apply(self, tangent: Tensor) -> Tensor:
        return tangent.unsqueeze(1) * self.rows

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return torch.sum(cotangent * self.rows, 1)
