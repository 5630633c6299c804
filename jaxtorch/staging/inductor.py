"""The Inductor back end: a staged graph compiled to fused kernels by PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.region import Region
from jaxtorch.staging.untracked import UNTRACKED

aten = torch.ops.aten


def compile_with_inductor(graph: fx.Graph) -> Callable[..., Any]:
    """Compile a graph; takes seconds, and then about 4 us a call and fused loops."""
    copy = fx.Graph()
    names: dict[fx.Node, fx.Node] = {}
    examples: list[Any] = []
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
        if node.op == "placeholder":
            examples.append(example_of(node))
        names[node].meta = {}
    module = fx.GraphModule(torch.nn.Module(), copy)
    compiled: Callable[..., Any] = torch._inductor.compile(module, examples)
    return compiled


def example_of(node: fx.Node) -> Tensor:
    """Return a tensor like the one that a placeholder stands for."""
    value = node.meta["val"]
    return torch.zeros(value.shape, dtype=value.dtype, device=node.meta["device"])
