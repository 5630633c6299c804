"""A pass: batches of matrices lie in memory as BLAS reads them.

ATen multiplies a batch on a CPU matrix by matrix, through two views each, unless every
matrix lies row by row or column by column. One copy costs less than that.
"""

from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.rewriting import emit, value_of

aten = torch.ops.aten
MIN_PRODUCTS = 400
"""Smaller matrices are multiplied in a loop of ATen's own, however they lie."""


def lay_out_batches(graph: fx.Graph) -> int:
    """Copy the matrices that BLAS can't read; returns how many batches."""
    copied: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target not in BATCHES or node.meta["device"].type != "cpu":
            continue
        *_, rows, inner = value_of(node.args[-2]).shape
        columns = value_of(node.args[-1]).shape[-1]
        if rows * inner * columns < MIN_PRODUCTS:
            continue
        for part in node.args[-2:]:
            if not can_be_read(value_of(part)):
                if part not in copied:
                    copied[part] = copy_of(part, node)
                node.replace_input_with(part, copied[part])
    return len(copied)


def can_be_read(batch: Tensor) -> bool:
    """Tell whether each matrix lies row by row or column by column."""
    _, rows, columns = batch.shape
    _, down, right = batch.stride()
    by_rows = right == 1 and (rows == 1 or down >= columns)
    return by_rows or (down == 1 and (columns == 1 or right >= rows))


def copy_of(batch: Any, before: fx.Node) -> fx.Node:
    """Copy a batch of matrices."""
    row_by_row = {"memory_format": torch.contiguous_format}
    return emit(before, aten.clone.default, batch, **row_by_row)


BATCHES = {aten.bmm.default, aten.baddbmm.default}
