"""A pass: float32 products and tanh on a CPU run in oneDNN where it is the faster one.

The node stays what it is and is marked; the generated program makes the call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from jaxtorch.staging.passes.rewriting import value_of

aten = torch.ops.aten
mkldnn = torch.ops.mkldnn

MIN_PRODUCTS = 2**21
"""From how many multiplications on, for each thread, oneDNN is faster than MKL."""
MIN_SIZE = 16
"""The least size of a matrix, either way."""
MIN_NARROW = 2**16
"""A product of so many numbers, for each thread, and fewer columns takes MKL long."""
MIN_OTHER = 128
"""How many rows or columns, for each thread, pay for the copy of the other matrix."""

MIN_TANH = 2**14
"""From how many numbers on, for each thread, oneDNN's tanh pays for two copies."""
TANH_AT_ONCE = 2**17
"""So many numbers stay in the cache between the copies."""


def choose_onednn(graph: fx.Graph) -> int:
    """Mark the calls that oneDNN shall compute; returns how many."""
    if not is_faster():
        return 0
    marked = 0
    for node in graph.nodes:
        entry = ENTRIES.get(node.target)
        if entry is not None and not node.kwargs and is_worth_it(node):
            node.meta["onednn"] = entry
            marked += 1
    return marked


def is_faster() -> bool:
    """Tell whether oneDNN is there, and PyTorch's products are MKL's on no Intel CPU.

    On an AMD CPU with AVX-512 MKL took twice the time; on Intel's nothing was measured.
    """
    backends: Any = torch.backends
    if not (backends.mkldnn.is_available() and backends.mkldnn.enabled):
        return False
    if not backends.mkl.is_available() or torch.are_deterministic_algorithms_enabled():
        return False
    if not hasattr(mkldnn, "_linear_pointwise"):
        return False
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_f")) and "Intel" not in known.get("cpu_name", "Intel")


def is_worth_it(node: Any) -> bool:
    """Tell whether a call is large enough, and the first matrix lies row by row."""
    if node.target is aten.tanh.default:
        return is_long(node)
    first, second = (value_of(argument) for argument in node.args[-2:])
    if first.dtype != torch.float32 or node.meta["device"].type != "cpu":
        return False
    if node.target is aten.addmm.default and not is_term(value_of(node.args[0]), node):
        return False
    *_, rows, inner = first.shape
    columns = second.shape[-1]
    threads = torch.get_num_threads()
    if first.ndim == 2 and 1 < columns < MIN_SIZE <= inner:
        return rows * inner >= MIN_NARROW * threads
    if min(rows, inner, columns) < MIN_SIZE:
        return False
    shared = threads ** (first.ndim - 1)  # MKL gives each thread products of a batch
    if rows * inner * columns < MIN_PRODUCTS * shared:
        return False
    if first.stride(-1) == 1:
        return True
    return first.ndim == 2 and max(rows, columns) >= MIN_OTHER * threads


def pays_for_copy(node: Any) -> bool:
    """Tell whether oneDNN will gain more on a product than a copy of a factor takes."""
    columns = value_of(node).shape[-1]
    wide = columns >= MIN_OTHER * torch.get_num_threads()
    return wide and is_faster() and is_worth_it(node)


def is_long(node: fx.Node) -> bool:
    """Tell whether a node has many float32 numbers that lie row by row."""
    value = value_of(node)
    if value.dtype != torch.float32 or node.meta["device"].type != "cpu":
        return False
    long = value.numel() >= MIN_TANH * torch.get_num_threads()
    return long and value.is_contiguous()


def is_term(term: Tensor, node: fx.Node) -> bool:
    """Tell whether what is added is one row, or a matrix of the product's shape."""
    shape = value_of(node).shape
    return term.dtype == torch.float32 and term.shape in (shape, shape[1:])


def product(first: Tensor, second: Tensor, row: Tensor | None = None) -> Tensor:
    """Return the product of two matrices, plus a row.

    oneDNN copies a first matrix that does not lie row by row: of two such matrices the
    smaller one becomes the first, transposed. It refuses empty matrices, reads a row as
    if it had no gaps, and takes a thousand times as long for a second matrix that has
    some.
    """
    if not (first.numel() and second.numel()):
        return first @ second if row is None else torch.addmm(row, first, second)
    if row is not None:
        row = row.contiguous()
    weight = second.t()
    if row is None and is_smaller(second, first):
        return product(weight, first.t()).t().contiguous()
    if not (second.is_contiguous() or weight.is_contiguous()):
        weight = weight.contiguous()
    out: Tensor = mkldnn._linear_pointwise(first, weight, row, "none", [], "")
    return out


def is_smaller(second: Tensor, first: Tensor) -> bool:
    """Tell whether less is copied for the transpose of a product of matrices."""
    rows, inner = first.shape
    columns = second.shape[1]
    copied = 0 if first.stride(1) == 1 else rows * inner
    other = 0 if second.stride(0) == 1 else columns * inner
    return other + rows * columns < copied


def product_and_term(term: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the product of two matrices with a row, or a matrix, added to it."""
    if term.ndim > 1:
        return product(first, second).add_(term)
    return product(first, second, term)


def products(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of two batches of matrices."""
    out = first.new_empty(first.shape[0], first.shape[1], second.shape[2])
    for each, left, right in zip(
        out.unbind(), first.unbind(), second.unbind(), strict=True
    ):
        each.copy_(product(left, right))
    return out


def tanh(x: Tensor) -> Tensor:
    """Return tanh to within an ulp and a quarter."""
    if x.numel() <= TANH_AT_ONCE:
        return torch.tanh_(x.to_mkldnn()).to_dense()
    out = torch.empty(x.shape, dtype=x.dtype)
    parts = zip(
        x.reshape(-1).split(TANH_AT_ONCE), out.view(-1).split(TANH_AT_ONCE), strict=True
    )
    for source, target in parts:
        target.copy_(torch.tanh_(source.to_mkldnn()).to_dense())
    return out


ENTRIES: dict[OpOverload, Callable[..., Tensor]] = {
    aten.mm.default: product,
    aten.addmm.default: product_and_term,
    aten.bmm.default: products,
    aten.tanh.default: tanh,
}
