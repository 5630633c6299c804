"""The Inductor back end: a staged graph compiled to fused kernels by PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.region import Region
from jaxtorch.staging.untracked import UNTRACKED

aten = torch.ops.aten


class Fused:
    """A graph compiled by Inductor, once for each way that the inputs lie in memory.

    Compiling takes seconds; then a call costs about 4 us, and elementwise chains are
    single loops.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.module = module_of(graph)
        self.kinds = [
            (node.meta["val"], node.meta["device"])
            for node in graph.nodes
            if node.op == "placeholder"
        ]
        self.compiled: dict[Any, Callable[..., Any]] = {}
        self.compile([value.stride() for value, _ in self.kinds])

    def __call__(self, *tensors: Tensor) -> Any:
        """Run; compile first where the strides are new."""
        strides = [tensor.stride() for tensor in tensors]
        run = self.compiled.get(tuple(strides))
        return (run or self.compile(strides))(*tensors)

    def compile(self, strides: list[Any]) -> Callable[..., Any]:
        """Compile for inputs of these strides; random numbers are drawn as by ATen."""
        examples: list[Any] = [
            torch.empty_strided(value.shape, own, dtype=value.dtype, device=device)
            for (value, device), own in zip(self.kinds, strides, strict=True)
        ]
        with torch._inductor.config.patch(fallback_random=True):
            run: Callable[..., Any] = torch._inductor.compile(self.module, examples)
        self.compiled[tuple(strides)] = run
        return run


def module_of(graph: fx.Graph) -> fx.GraphModule:
    """Copy a graph in the form that Inductor takes."""
    copy = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.target is UNTRACKED:  # the compiled program is not differentiated
            names[node] = names[node.args[0]]
            continue
        if isinstance(node.target, Region):
            raise UsageError(
                explain(
                    "jit(backend='inductor')",
                    f"the graph holds {node.target}, which Inductor can't compile.",
                    "use backend='python'",
                )
            )
        names[node] = copy.node_copy(node, lambda n: names[n])
        if node.target is aten.view.default or node.target is aten._unsafe_view.default:
            names[node].target = aten.reshape.default
        names[node].meta = {}
    return fx.GraphModule(torch.nn.Module(), copy)
