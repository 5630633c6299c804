"""What can be read off a staged function: source, flops, bytes, peak memory."""

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from jaxtorch.staging.passes.rewriting import VIEWS, meta_of
from jaxtorch.staging.region import Region
from jaxtorch.staging.running.cuda_graph import CudaGraph
from jaxtorch.staging.running.flops import FORMULAS
from jaxtorch.staging.running.fusion import Fusion
from jaxtorch.staging.running.memory import bytes_made, last_uses, peak_bytes
from jaxtorch.staging.running.native import Native
from jaxtorch.staging.staged import Staged


class Lowered:
    """A staged function for one signature, to be inspected.

    Attributes:
        graph: the optimized graph.
        code: the generated Python source.
        flops: floating point operations of matrix products and convolutions, as
            ``torch.utils.flop_counter`` counts them, but of a convolution's weight
            gradient only those within its groups.
        peak_bytes: the most bytes that results and intermediate values hold at once.
        c_code: the loops in C, where ``backend="native"`` made some.
    """

    def __init__(self, staged: Staged) -> None:
        self.staged = staged
        self.graph = staged.graph
        self.code = staged.code
        self.flops = flops_in(staged.graph)
        native = staged.run if isinstance(staged.run, Native) else None
        functions = native.functions if native else []
        own = max((f.scratch for f in functions), default=0)
        self.peak_bytes = peak_bytes(native.graph if native else staged.graph) + own
        self.c_code = "\n".join(f.source for f in functions)

    def explain(self) -> str:
        """Return a table of the calls and totals, the back end, and the rewrites.

        The columns: op, result, flops, bytes made, what runs it, freed after it.
        """
        freed = last_uses(self.graph)
        groups = self.groups()
        rows = [("op", "result", "flops", "bytes", "kernel", "freed after")]
        for node in self.graph.nodes:
            if node.op != "call_function" or node.target is getitem:
                continue
            rows.append(
                (
                    str(node.target),
                    describe(node.meta["val"]),
                    str(flops_of(node)),
                    str(bytes_made(node)),
                    self.kernel(node, groups),
                    " ".join(n.name for n in freed.get(node, ())),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
            for row in rows
        ]
        passes = ", ".join(f"{name} {n}" for name, n in self.staged.changes.items())
        return "\n".join(
            [
                *(line.rstrip() for line in lines),
                f"{len(rows) - 1} calls, {self.flops} flops, peak {self.peak_bytes} B",
                f"passes: {passes or 'none'}",
                f"backend: {self.backend()}",
                "rewrites:" if self.staged.rewrites else "rewrites: none",
                *(f"  {line}" for line in self.staged.rewrites),
            ]
        )

    def backend(self) -> str:
        """Say which back end runs the graph, and why."""
        name, why = self.staged.choice
        if isinstance(self.staged.run, CudaGraph) and self.staged.run.fallen:
            return f"python ({self.staged.run.fallen})"
        return f"{name} ({why})"

    def groups(self) -> dict[fx.Node, int]:
        """Return the number of the fused loop that a call is part of."""
        fused = self.staged.choice.backend == "inductor"
        return Fusion(self.graph).groups if fused else {}

    def kernel(self, node: Any, groups: dict[fx.Node, int]) -> str:
        """Name what runs a call."""
        if isinstance(node.target, Region):
            return "python"
        if node.target.namespace == "jaxtorch":
            return str(node.target)
        if isinstance(self.staged.run, Native) and node.name in self.staged.run.names:
            return "loops"
        if self.staged.choice.backend != "inductor":
            return "oneDNN" if "onednn" in node.meta else "aten"
        group = groups.get(node)
        return "inductor" if group is None else f"inductor (fused group {group})"


def describe(value: Any) -> str:
    """Return dtype and shape of a value."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return ", ".join(describe(v) for v in value if isinstance(v, Tensor))


def flops_of(node: fx.Node) -> int:
    """Count the flops of one call by running it on meta tensors."""
    if node.op != "call_function" or node.target is getitem:
        return 0
    target: Any = node.target
    if isinstance(target, Region):
        return target.flops(flops_in)
    kwargs = {k: meta_of(v) for k, v in node.kwargs.items()}
    if "device" in kwargs:
        kwargs["device"] = torch.device("meta")
    if not node.all_input_nodes or target in VIEWS:
        return 0
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with counter:
        target(*[meta_of(a) for a in node.args], **kwargs)
    return int(counter.get_total_flops())


def flops_in(graph: fx.Graph) -> int:
    """Count the flops of a graph."""
    return sum(flops_of(node) for node in graph.nodes)
