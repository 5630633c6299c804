"""The native back end: groups of small calls run as loops, compiled from C."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import Parameter

from jaxtorch.staging.native.function import UnfitError
from jaxtorch.staging.native.grouping import group
from jaxtorch.staging.running.beneath import beneath_autograd, is_differentiated_forward
from jaxtorch.staging.running.cuda_graph import Run
from jaxtorch.staging.running.execution import compile_graph

KINDS = {Tensor, Parameter}
"""Types of tensors that surely have memory of their own."""


class Native:
    """A graph with loops in the place of groups of calls.

    Where an index is out of bounds, a tensor is of a subclass that may have no memory,
    a call of ATen makes another size than it says, or someone watches the calls, the
    program of ATen calls runs from the start.

    Attributes:
        graph: the graph that runs.
        functions: the groups.
        names: of the calls that loops make.
    """

    def __init__(self, graph: fx.Graph, program: Run) -> None:
        self.graph, self.functions = group(graph)
        self.names = set().union(*(f.names for f in self.functions))
        self.program = program
        self.run = beneath_autograd(self.graph, compile_graph(self.graph).run)

    def __call__(self, *tensors: Tensor) -> Any:
        """Run."""
        if not KINDS.issuperset(map(type, tensors)) or is_watched():
            return self.program(*tensors)
        try:
            return self.run(*tensors)
        except (IndexError, UnfitError):
            return self.program(*tensors)


def is_watched() -> bool:
    """Tell whether each call must be seen: by a mode, or to push a tangent on."""
    watchers = torch._C._len_torch_dispatch_stack()
    return watchers > 0 or is_differentiated_forward()
