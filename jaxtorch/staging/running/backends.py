"""Which back end runs a graph, and why. The choice is a function of the graph alone."""

import os
import shutil
from typing import Any, NamedTuple

from torch import Tensor, fx

from jaxtorch.staging.native.compiler import find_compiler
from jaxtorch.staging.native.grouping import calls_saved
from jaxtorch.staging.region import Region
from jaxtorch.staging.running.cuda_graph import (
    CudaGraph,
    Run,
    record_on_device,
    refusal,
)
from jaxtorch.staging.running.fusion import Fusion
from jaxtorch.staging.running.inductor import Fused
from jaxtorch.staging.running.native import Native
from jaxtorch.staging.untracked import UNTRACKED

BACKENDS = ("auto", "python", "native", "inductor", "cudagraph")

BYTES_PER_SECOND = 20e9
"""How fast a chain of separate calls moves data on a CPU."""
SECONDS_TO_COMPILE = 5.0, 1.0
"""What Inductor takes for a graph, and for each of its loops, on an idle core."""
CALLS_TO_PAY = 1000
"""Within how many calls Inductor's compilation must have paid for itself."""
LEAST_SAVED = 0.25
"""The share of calls that loops must save to be compiled: the others take time too."""


class Choice(NamedTuple):
    """A back end by name, and the reason in words."""

    backend: str
    why: str


def choose(graph: fx.Graph, backend: str, optimize: str) -> Choice:
    """Choose the back end for an optimized graph."""
    if backend == "cudagraph":
        reason = refusal(graph)
        return Choice("python", reason) if reason else Choice(backend, "as asked for")
    if backend != "auto":
        return Choice(backend, "as asked for")
    if any(n.meta["device"].type == "cuda" for n in graph.nodes if n.op != "output"):
        reason = refusal(graph)
        if reason is None:
            return Choice("cudagraph", "one launch instead of one for each call")
        return Choice("python", reason)
    return fused_or_not(graph, optimize)


def fused_or_not(graph: fx.Graph, optimize: str) -> Choice:
    """Choose Inductor where fused loops soon make up for the time to compile them."""
    if optimize != "full":
        return Choice("python", "only optimize='full' allows the rounding of compilers")
    fixed, each = SECONDS_TO_COMPILE
    fusion = Fusion(graph)
    price = fixed + each * fusion.loops
    gain = fusion.saved / BYTES_PER_SECOND
    said = (
        f"fusing saves {fusion.saved / 1e6:.3g} MB, about {gain * 1e3:.3g} ms, in each "
        f"call; compiling takes about {price:.0f} s (loops: {fusion.loops})"
    )
    if gain * CALLS_TO_PAY < price:
        return looped_or_not(graph, said)
    reason = why_not_fused(graph)
    return looped_or_not(graph, reason) if reason else Choice("inductor", said)


def looped_or_not(graph: fx.Graph, said: str) -> Choice:
    """Choose native loops where they save many of the calls; ``said``: why not fuse."""
    calls = sum(node.op == "call_function" for node in graph.nodes)
    saved = calls_saved(graph)
    share = f"loops in C save {saved} of {calls} calls"
    if saved == 0 or saved < LEAST_SAVED * calls:
        return Choice("python", f"{said}; {share}")
    if find_compiler() is None:
        return Choice("python", f"{said}; there is no C compiler for loops")
    return Choice("native", share)


def why_not_fused(graph: fx.Graph) -> str | None:
    """Say why Inductor would not do for a graph on a CPU; None where it would."""
    for node in graph.nodes:
        target: Any = node.target
        if isinstance(target, Region) and target is not UNTRACKED:
            return f"Inductor can't compile {target}"
    if not has_compiler():
        return "there is no C++ compiler for Inductor"
    return None


def has_compiler() -> bool:
    """Tell whether Inductor finds a C++ compiler."""
    names = (os.environ.get("CXX", "g++"), "clang++")
    return any(shutil.which(name) is not None for name in names)


def build(
    graph: fx.Graph, run: Run, captured: list[Tensor], backend: str, optimize: str
) -> tuple[Choice, Run]:
    """Choose a back end; returns the choice and what runs the graph.

    ``run`` is the generated program. It runs where a compiler was chosen but fails.
    """
    choice = choose(graph, backend, optimize)
    if choice.backend == "cudagraph":
        return choice, CudaGraph(run, captured, record_on_device)
    try:
        if choice.backend == "native":
            return choice, Native(graph, run)
        if choice.backend == "inductor":
            return choice, Fused(graph)
    except Exception as error:  # whatever it is, the program is there
        if backend != "auto":
            raise
        name = "Inductor" if choice.backend == "inductor" else "the native back end"
        return Choice("python", f"{name} raised {type(error).__name__}"), run
    return choice, run
