"""Programs that run beneath torch.autograd: each ATen call else crosses its layers."""

from operator import getitem
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.autograd import forward_ad

from jaxtorch.staging.native.function import LoopFunction
from jaxtorch.staging.running.cuda_graph import Run
from jaxtorch.staging.running.memory import storages

MIN_CALLS = 16
"""From how many calls on more is saved than it costs to shut the layers."""
KEY = torch._C.DispatchKey
LAYERS = torch._C.DispatchKeySet(KEY.AutogradCPU) | torch._C.DispatchKeySet(
    KEY.ADInplaceOrView
)
"""What records a call on any device, and what ties views and counts writes."""


def beneath_autograd(graph: fx.Graph, run: Run) -> Run:
    """Return a graph's program, without torch.autograd's layers where it may do so.

    For tensors of which none requires grad.
    """
    if not may_skip_layers(graph):
        return run

    def beneath(*tensors: Any) -> Any:
        if is_differentiated_forward():
            return run(*tensors)
        with torch._C._ExcludeDispatchKeyGuard(LAYERS):
            return run(*tensors)

    return beneath


def is_differentiated_forward() -> bool:
    """Tell whether a tensor may have a tangent, or be a wrapper, of PyTorch's own."""
    return forward_ad._current_level >= 0 or bool(
        torch._C._dispatch_tls_is_dispatch_key_included(
            KEY.FuncTorchDynamicLayerFrontMode
        )
    )


def may_skip_layers(graph: fx.Graph) -> bool:
    """Tell whether a graph is long, of ATen alone, and no result shares its memory.

    Where memory is shared a write must be seen by torch.autograd on the other side.
    """
    calls = 0
    taken: set[int] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            taken.update(storages(node))
        elif node.op == "output":
            for result in node.args[0]:
                own = set(storages(result))
                if not own.isdisjoint(taken):
                    return False
                taken |= own
        elif node.target is not getitem:
            target = node.target
            if isinstance(target, LoopFunction):
                continue
            if not isinstance(target, OpOverload) or target.namespace != "aten":
                return False
            calls += 1
    return calls >= MIN_CALLS
