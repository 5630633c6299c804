"""A pass: batches of matrices on a CPU are multiplied as BLAS does it fast.

ATen multiplies matrix by matrix, through two views each, unless every matrix of a batch
lies row by row or column by column: one copy costs less. A matrix times a column takes
up to ten times as long as the column, as a row, times the matrix.
"""

from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.staging.passes.rewriting import copied, emit, value_of

aten = torch.ops.aten
MIN_PRODUCTS = 400
"""Smaller matrices are multiplied in a loop of ATen's own, however they lie."""


def lay_out_batches(graph: fx.Graph) -> int:
    """Copy what BLAS can't read, make rows of columns; returns how many batches."""
    turned = 0
    copies: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target not in BATCHES or node.meta["device"].type != "cpu":
            continue
        *_, rows, inner = value_of(node.args[-2]).shape
        columns = value_of(node.args[-1]).shape[-1]
        if rows * inner * columns < MIN_PRODUCTS:
            continue
        for part in node.args[-2:]:
            if not can_be_read(value_of(part)):
                if part not in copies:
                    copies[part] = copied(node, part)
                node.replace_input_with(part, copies[part])
        if columns == 1 < rows and node.target is aten.bmm.default:
            turn(node)
            turned += 1
    return len(copies) + turned


def turn(node: Any) -> None:
    """Multiply matrices by columns as rows by their transposes."""
    row, matrix = [
        emit(node, aten.permute.default, part, [0, 2, 1]) for part in node.args[::-1]
    ]
    product = emit(node, aten.bmm.default, row, matrix)
    new = emit(node, aten.view.default, product, list(value_of(node).shape))
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def can_be_read(batch: Tensor) -> bool:
    """Tell whether each matrix lies row by row or column by column."""
    _, rows, columns = batch.shape
    _, down, right = batch.stride()
    by_rows = right == 1 and (rows == 1 or down >= columns)
    return by_rows or (down == 1 and (columns == 1 or right >= rows))


BATCHES = {aten.bmm.default, aten.baddbmm.default}
