"""The CUDA graph back end: all launches of a call recorded once, replayed as one.

What is replayed reads and writes fixed addresses. Inputs are copied into buffers before
a replay and results out of them after it; captured tensors are read where they lie.
"""

from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core.primitive import Kind, primitive_of
from jaxtorch.staging.region import Region
from jaxtorch.staging.running.memory import storages
from jaxtorch.staging.untracked import UNTRACKED

Run = Callable[..., list[Tensor]]
Record = Callable[[Run, list[Tensor]], tuple[Callable[[], None], list[Tensor]]]
"""Records a run on fixed tensors; returns what replays it, and its results."""


def refusal(graph: fx.Graph) -> str | None:
    """Say why a graph can't be replayed as a CUDA graph; None where it can."""
    inputs: set[int] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            inputs.update(storages(node))
        if node.op == "output":
            return refusal_of_results(node, inputs)
        device = node.meta["device"]
        if device.type != "cuda":
            return f"{node} is on the device {device}, not on CUDA"
        if node.op == "call_function":
            reason = refusal_of_call(node)
            if reason is not None:
                return reason
    return None


def refusal_of_call(node: fx.Node) -> str | None:
    """Say why a call can't be recorded; what waits for values is never staged."""
    target: Any = node.target
    if target is getitem or target is UNTRACKED:
        return None
    if isinstance(target, Region):
        return f"{target} runs in Python, step by step"
    if primitive_of(target).kind is Kind.RANDOM:
        return f"{target} draws random numbers"
    if torch.Tag.cudagraph_unsafe in target.tags:
        return f"{target} can't be recorded"
    return None


def refusal_of_results(output: Any, inputs: set[int]) -> str | None:
    """Say why results can't be copied out: they share memory."""
    seen = set(inputs)
    for node in output.args[0]:
        own = set(storages(node))
        if not own.isdisjoint(seen):
            return f"the result {node} shares memory with an input or another result"
        seen |= own
    return None


class CudaGraph:
    """A program that is recorded at its first call and replayed at the others.

    Attributes:
        fallen: why it is not replayed any more; empty while it is.
    """

    def __init__(self, run: Run, captured: list[Tensor], record: Record) -> None:
        self.run = run
        self.record = record
        self.addresses = [tensor.data_ptr() for tensor in captured]
        self.fallen = ""
        self.buffers: list[Tensor] = []
        self.results: list[Tensor] = []
        self.replay: Callable[[], None] | None = None

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Copy the inputs in, replay, copy the results out."""
        count = len(tensors) - len(self.addresses)
        if self.fallen or self.moved(tensors[count:]):
            return self.run(*tensors)
        if self.replay is None:
            self.buffers = [tensor.clone() for tensor in tensors[:count]]
            fixed = [*self.buffers, *tensors[count:]]
            try:
                self.replay, self.results = self.record(self.run, fixed)
            except Exception as error:  # a library that waits for the device, say
                self.let_go(f"recording it raised {type(error).__name__}")
                return self.run(*tensors)
        for buffer, tensor in zip(self.buffers, tensors, strict=False):
            buffer.copy_(tensor)
        self.replay()
        return [result.clone() for result in self.results]

    def moved(self, captured: tuple[Tensor, ...]) -> bool:
        """Tell whether a captured tensor got another memory; if so, let go."""
        if [tensor.data_ptr() for tensor in captured] == self.addresses:
            return False
        self.let_go("a captured tensor was given another memory")
        return True

    def let_go(self, why: str) -> None:
        """Replay no more."""
        self.fallen = why
        self.replay = None
        self.buffers = self.results = []


def record_on_device(
    run: Run, fixed: list[Tensor]
) -> tuple[Callable[[], None], list[Tensor]]:
    """Record a run as a CUDA graph, after a few runs that let libraries set up.

    Other threads may go on using the device.
    """
    current = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run(*fixed)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = run(*fixed)
    return graph.replay, results


WARM_UPS = 3
