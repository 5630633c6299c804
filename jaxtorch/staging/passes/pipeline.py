"""The passes in order, and two of them: dead code and common subexpressions.

A pass takes a graph, changes it, and says how much it changed. What holds between any
two of them is stated in ``tests/checked_graphs.py``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, fx

from jaxtorch.staging.multilinear.optimizer import optimize as optimize_products
from jaxtorch.staging.passes.broadcasting import drop_expands
from jaxtorch.staging.passes.chains import fuse_chains
from jaxtorch.staging.passes.combining import combine
from jaxtorch.staging.passes.constants import fold_constants
from jaxtorch.staging.passes.dead_results import drop_dead_results
from jaxtorch.staging.passes.factoring import factor_out
from jaxtorch.staging.passes.jacobian import lower_jacobians
from jaxtorch.staging.passes.layouts import lay_out_batches
from jaxtorch.staging.passes.losses import spell_losses
from jaxtorch.staging.passes.norms import spell_norms
from jaxtorch.staging.passes.onednn import choose_onednn
from jaxtorch.staging.passes.per_sample import lower_per_sample
from jaxtorch.staging.passes.pieces import copy_once, join_pieces
from jaxtorch.staging.passes.products import tune_products
from jaxtorch.staging.passes.results import Results, keep_promises
from jaxtorch.staging.passes.reuse import reuse_memory
from jaxtorch.staging.passes.rewriting import freeze, infer_again, is_pure
from jaxtorch.staging.passes.signs import share_up_to_sign
from jaxtorch.staging.passes.simplify import simplify, simplify_exactly
from jaxtorch.staging.passes.small_matrices import lower_matrices
from jaxtorch.staging.passes.zeros import drop_products_with_zero, propagate_zeros
from jaxtorch.staging.running.memory import order_for_memory
from jaxtorch.staging.untracked import drop_inner_marks


def drop_dead_code(graph: fx.Graph) -> int:
    """Remove nodes whose result is not used; returns how many."""
    dropped = 0
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and is_pure(node):
            graph.erase_node(node)
            dropped += 1
    return dropped


def merge_common_subexpressions(graph: fx.Graph) -> int:
    """Compute equal calls once; returns how many nodes were merged."""
    seen: dict[Any, fx.Node] = {}
    merged = 0
    for node in list(graph.nodes):
        if not is_pure(node):
            continue
        key = (node.target, freeze(node.args), freeze(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
            merged += 1
    return merged


class Work:
    """One run of the passes: what was asked for, and what came of it.

    Attributes:
        optimize: "safe" (values stay the same bit by bit) or "full".
        fold: whether constants may be computed now and kept.
        kernels: whether chains may become kernels: not where a compiler follows.
        promised: what is known of the results of the graph as it was traced.
        changes: how many nodes (or bytes) each pass changed.
        constants: the tensors of the placeholders that constant folding put behind the
            others.
        rewrites: what was rewritten, in words.
    """

    def __init__(
        self, graph: fx.Graph, optimize: str, fold: bool, kernels: bool
    ) -> None:
        self.optimize = optimize
        self.fold = fold
        self.kernels = kernels
        self.promised = Results(graph)
        self.changes: dict[str, int] = {}
        self.constants: list[Tensor] = []
        self.rewrites: list[str] = []


class Pass(NamedTuple):
    """A function that changes a graph, and from which level of ``optimize`` on."""

    name: str
    level: str
    run: Callable[[fx.Graph, Work], int]


def alone(run: Callable[[fx.Graph], int]) -> Callable[[fx.Graph, Work], int]:
    """Make a pass of a function that needs to know of the graph only."""
    return lambda graph, work: run(graph)


def fold(graph: fx.Graph, work: Work) -> int:
    """Compute constants now; returns how many are kept."""
    if work.fold:
        work.constants += fold_constants(graph)
    return len(work.constants)


def multiply_best(graph: fx.Graph, work: Work) -> int:
    """Rewrite products through einsum normal form; returns how many results."""
    lines = optimize_products(graph)
    if lines:
        work.rewrites += lines
        clean_up(graph, work)
    return len(lines)


def join(graph: fx.Graph, work: Work) -> int:
    """Concatenate pieces that are added; returns how many calls changed."""
    joined = 0
    while new := join_pieces(graph):
        joined += new
        clean_up(graph, work)
    return joined


def share_signs(graph: fx.Graph, work: Work) -> int:
    """Compute once what is equal up to its sign; returns how many values."""
    shared = share_up_to_sign(graph)
    if shared:
        clean_up(graph, work)
    return shared


def share_factors(graph: fx.Graph, work: Work) -> int:
    """Add before multiplying, where products share a factor; returns how often."""
    shared = factor_out(graph)
    drop_dead_code(graph)
    return shared


def fuse(graph: fx.Graph, work: Work) -> int:
    """Make kernels of chains of calls, where kernels run; returns how many calls."""
    if not work.kernels:
        return 0
    if spell_losses(graph) + spell_norms(graph):
        drop_dead_code(graph)
        merge_common_subexpressions(graph)
    fused = fuse_chains(graph)
    if fused:
        drop_dead_code(graph)
        work.rewrites.append(f"{fused} elementwise calls and sums run in kernels")
    return fused


def combine_calls(graph: fx.Graph, work: Work) -> int:
    """Drop what broadcasting does; make one call of a product and a sum."""
    made = drop_expands(graph) + combine(graph)
    drop_dead_code(graph)
    return made


def into_kernels(
    run: Callable[[fx.Graph], int], said: str
) -> Callable[[fx.Graph, Work], int]:
    """Make a pass of a function that puts kernels into a graph, and say of how many."""

    def lower(graph: fx.Graph, work: Work) -> int:
        lowered = run(graph)
        if lowered:
            drop_dead_code(graph)
            work.rewrites.append(f"{lowered} {said}")
        return lowered

    return lower


def lower_small(graph: fx.Graph, work: Work) -> int:
    """Let kernels factor and solve small matrices; returns how many calls."""
    lowered = lower_matrices(graph)
    if lowered:
        clean_up(graph, work)
        work.rewrites.append(f"{lowered} calls on small matrices run in kernels")
    return lowered


def separate(graph: fx.Graph, work: Work) -> int:
    """Clone results where a pass broke a promise; returns how many."""
    infer_again(graph)
    return keep_promises(graph, work.promised)


def tune(graph: fx.Graph, work: Work) -> int:
    """Write products in the fewest steps, and copies once; returns how many changed."""
    made = tune_products(graph) + copy_once(graph)
    drop_dead_code(graph)
    return made


def reorder(graph: fx.Graph, work: Work) -> int:
    """Lower the peak memory; returns the bytes saved."""
    return order_for_memory(graph, {node for node in graph.nodes if is_pure(node)})


CLEAN_UP = (
    Pass("dead code", "safe", alone(drop_dead_code)),
    Pass("dead results", "safe", alone(drop_dead_results)),
    Pass("common subexpressions", "safe", alone(merge_common_subexpressions)),
    Pass("simplified", "safe", alone(simplify_exactly)),
    Pass("simplified", "full", alone(simplify)),
    Pass("zeros", "safe", alone(propagate_zeros)),
    Pass("zeros", "full", alone(drop_products_with_zero)),
)
"""Run again and again until none of them changes anything."""

FINISH = (
    Pass(
        "per-sample gradients",
        "full",
        into_kernels(lower_per_sample, "per-sample gradients are used and not made"),
    ),
    Pass("multilinear", "full", multiply_best),
    Pass("equal up to sign", "full", share_signs),
    Pass("common factors", "full", share_factors),
    Pass("pieces joined", "full", join),
    Pass("constants", "safe", fold),
    Pass("small matrices", "full", lower_small),
    Pass(
        "Jacobians",
        "full",
        into_kernels(lower_jacobians, "products of Jacobians run in kernels"),
    ),
    Pass("fused", "full", fuse),
    Pass("combined", "full", combine_calls),
    Pass("results copied", "safe", separate),
    Pass("batches laid out", "full", alone(lay_out_batches)),
    Pass("products", "full", tune),
    Pass("bytes off the peak", "safe", reorder),
    Pass("oneDNN", "full", alone(choose_onednn)),
    Pass("in place", "safe", alone(reuse_memory)),
)
"""Run once, in this order."""


def optimize_graph(
    graph: fx.Graph, optimize: str = "full", fold: bool = False, kernels: bool = True
) -> Work:
    """Run all passes that the level of optimization allows."""
    work = Work(graph, optimize, fold, kernels)
    drop_inner_marks(graph)
    clean_up(graph, work)
    for each in FINISH:
        run_pass(each, graph, work)
    return work


def clean_up(graph: fx.Graph, work: Work) -> None:
    """Run the passes of ``CLEAN_UP`` until nothing changes."""
    while sum(run_pass(each, graph, work) for each in CLEAN_UP):
        pass


def run_pass(each: Pass, graph: fx.Graph, work: Work) -> int:
    """Run one pass, if it is allowed, and keep count."""
    if each.level == "full" and work.optimize != "full":
        return 0
    changed = each.run(graph, work)
    work.changes[each.name] = work.changes.get(each.name, 0) + changed
    return changed
