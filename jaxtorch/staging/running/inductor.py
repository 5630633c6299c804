"""The Inductor back end: a staged graph compiled to fused kernels by PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.passes.rewriting import row_strides, value_of
from jaxtorch.staging.region import Region
from jaxtorch.staging.running.fusion import is_view
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


def spread(graph: fx.Graph) -> set[fx.Node]:
    """Return the calls on elements of which another call reads each many times.

    Inductor would compute them again for each element of the latter.
    """
    behind: dict[fx.Node, list[fx.Node]] = {}
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node.meta["device"].type != "cpu":
            continue
        read = [call for s in node.all_input_nodes for call in behind.get(s, ())]
        if is_view(node):
            behind[node] = read
        elif torch.Tag.pointwise in getattr(node.target, "tags", ()):
            value = node.meta["val"]
            if isinstance(value, Tensor):
                found.update(c for c in read if value_of(c).numel() < value.numel())
                behind[node] = [node]
    return found


def module_of(graph: fx.Graph) -> fx.GraphModule:
    """Copy a graph in the form that Inductor takes."""
    copy = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    parts = spread(graph)
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
        if node in parts:
            names[node] = kept(names[node], node.meta["val"])
    return fx.GraphModule(torch.nn.Module(), copy)


def kept(node: fx.Node, value: Tensor) -> fx.Node:
    """Put a value into memory: Inductor takes such a view of nothing else.

    The copy, which lies row by row whatever the strides of the inputs, costs nothing.
    """
    row_by_row: dict[str, Any] = {"memory_format": torch.contiguous_format}
    copy = node.graph.call_function(aten.clone.default, (node,), row_by_row)
    layout = (copy, list(value.shape), list(row_strides(value.shape)))
    return node.graph.call_function(aten.as_strided.default, layout)
