"""What can be read off a staged function: source, flops, bytes, peak memory."""

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from jaxtorch.staging.execution import last_uses
from jaxtorch.staging.memory import bytes_made, peak_bytes
from jaxtorch.staging.region import Region
from jaxtorch.staging.rewriting import VIEWS, meta_of
from jaxtorch.staging.staged import Staged


class Lowered:
    """A staged function for one signature, to be inspected.

    Attributes:
        graph: the optimized graph.
        code: the generated Python source.
        flops: floating point operations of matrix products and convolutions, as
            ``torch.utils.flop_counter`` counts them.
        peak_bytes: the most bytes that results and intermediate values hold at once.
    """

    def __init__(self, staged: Staged) -> None:
        self.staged = staged
        self.graph = staged.graph
        self.code = staged.code
        self.flops = flops_in(staged.graph)
        self.peak_bytes = peak_bytes(staged.graph)

    def explain(self) -> str:
        """Return a table of the calls: op, shape, flops, bytes made, freed after."""
        freed = last_uses(self.graph)
        rows = [("op", "result", "flops", "bytes", "freed after")]
        for node in self.graph.nodes:
            if node.op != "call_function" or node.target is getitem:
                continue
            rows.append(
                (
                    str(node.target),
                    describe(node.meta["val"]),
                    str(flops_of(node)),
                    str(bytes_made(node)),
                    " ".join(n.name for n in freed.get(node, ())),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
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
            ]
        )


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
    counter = FlopCounterMode(display=False)
    with counter:
        target(*[meta_of(a) for a in node.args], **kwargs)
    return int(counter.get_total_flops())


def flops_in(graph: fx.Graph) -> int:
    """Count the flops of a graph."""
    return sum(flops_of(node) for node in graph.nodes)
