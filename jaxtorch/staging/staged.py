"""One staged signature of a function: its graph, its program, its structure."""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch import pytree
from jaxtorch.errors import ArgumentTypeError, UsageError, explain
from jaxtorch.rules.strides import Readings
from jaxtorch.staging.custom_call import with_calls
from jaxtorch.staging.guards import CapturedKinds, layout_of, readings_since
from jaxtorch.staging.outside import (
    StagedFunction,
    any_requires_grad,
    generators_of,
    pullback_of,
    sources_of,
)
from jaxtorch.staging.packing import packer
from jaxtorch.staging.passes.pipeline import optimize_graph
from jaxtorch.staging.running.backends import build
from jaxtorch.staging.running.beneath import beneath_autograd
from jaxtorch.staging.running.cuda_graph import Run
from jaxtorch.staging.running.execution import compile_graph
from jaxtorch.staging.running.memory import keep_pages
from jaxtorch.staging.tracer import TraceLevel
from jaxtorch.staging.writes import (
    Written,
    originals,
    refuse_overlaps,
    written_by,
)

LOST_HISTORY = explain(
    "jit",
    "the function writes into a tensor under torch.no_grad, or through detach(), and "
    "an input or a captured tensor requires grad: torch.autograd's derivative of such "
    "a write can't be staged.",
    "compute a new tensor instead of writing, or call the function without jit",
)
LOST_RULES = explain(
    "jit",
    "a function with a derivative of its own uses a value that is computed outside of "
    "it and is not among its arguments, or writes into an argument, and an input or a "
    "captured tensor requires grad: torch.autograd's derivative can't be staged.",
    "pass the value as an argument, and return what is written",
)


class Staged:
    """A function traced for one signature.

    Attributes:
        graph: the optimized ``torch.fx`` graph; its inputs are the tensors of the call,
            then the captured tensors.
        code: the generated Python source that runs it.
        captured: the tensors that the function reads from outside, by reference.
        changes: how many nodes (or bytes) each pass changed.
        rewrites: what the passes rewrote, in words.
        choice: the back end, and why this one.
        ruled: the graph as traced, where functions with rules of their own are calls;
            None where there is none.
        reads: which parts of the layout of its tensors the graph depends on.
        layout: how the tensors lay in memory, where it does, else None.
        kinds: what is relied on in captured tensors, if there are any.
    """

    run: Run

    def __init__(
        self,
        func: Callable[..., Any],
        leaves: list[Any],
        spec: Any,
        optimize: str,
        backend: str = "python",
        fold: bool = True,
    ) -> None:
        level = TraceLevel(optimize)
        before = Readings.strides, Readings.offsets
        with level:
            handles = [
                level.add_input(leaf) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            args, kwargs = pytree.unflatten(list(handles), spec)
            outs, self.out_spec = pytree.flatten(func(*args, **kwargs))
            refuse_suspended(outs)
            nodes = [level.handle(o).node for o in outs if isinstance(o, Tensor)]
            written = written_by(level)
        nodes += [own.handle.node for own in written]
        level.graph.output(nodes)
        self.graph = level.graph
        ruled = level.ruled()
        self.written = [own.place for own in written]
        self.places = places_of(outs, written)
        self.sources = sources_of(ruled)
        self.ruled = kept_beside(level, ruled)
        self.optimize = optimize
        self.captured = [tensor for tensor, _ in level.captured.values()]
        self.kinds = CapturedKinds(self.captured) if self.captured else None
        self.reads = readings_since(before, bool(written))
        self.layout = layout_of(tensors_in(leaves), self.reads)
        self.changes: dict[str, int] = {}
        self.rewrites: list[str] = []
        if optimize != "none":
            work = optimize_graph(self.graph, optimize, fold, backend != "inductor")
            self.changes, self.rewrites = work.changes, work.rewrites
            self.captured += work.constants
        self.install()
        self.asked = backend
        self.choice, self.run = build(
            self.graph, self.run, self.captured, backend, optimize
        )
        keep_pages(self.graph)
        self.loses_history = level.loses_history
        self.loses_rules = level.loses_rules
        self.generators = generators_of(self.graph)
        self.backwards: dict[Any, Staged] = {}
        self.only_tensors = not self.written and all(p is None for p in self.places)
        self.pack = packer(self.out_spec)

    def holds(self) -> bool:
        """Tell whether captured tensors are of the kinds that they were."""
        return self.kinds is None or self.kinds.hold()

    def interface(self) -> Any:
        """Return what two traces of one function must agree in to share a graph."""
        captured = [id(tensor) for tensor in self.captured]
        return self.out_spec, self.places, self.written, captured

    def install(self, sized: int | None = None) -> None:
        """Generate the program from the graph."""
        program = compile_graph(self.graph, sized)
        self.sized = sized
        self.code = program.code
        self.run = beneath_autograd(self.graph, program.run)

    def __call__(self, tensors: list[Tensor]) -> Any:
        """Run on the tensors of a call; write what the function wrote."""
        captured = self.captured
        if self.written:
            return self.call_and_write([*tensors, *captured])
        if torch.is_grad_enabled() and any_requires_grad(tensors, captured):
            results = self.call_tracked([*tensors, *captured])
        else:
            results = self.run(*tensors, *captured)
        return self.pack(results) if self.only_tensors else self.packed(results, [])

    def call_tracked(self, given: list[Tensor]) -> Sequence[Tensor]:
        """Run as one call that torch.autograd knows."""
        if self.loses_history:
            raise UsageError(LOST_HISTORY)
        if self.loses_rules:
            raise UsageError(LOST_RULES)
        apply: Any = StagedFunction.apply
        results: Sequence[Tensor] = apply(self, *given)
        return results

    def call_and_write(self, given: list[Tensor]) -> Any:
        """Run, and write what the function wrote."""
        refuse_overlaps(self.written, given)
        if torch.is_grad_enabled() and any_requires_grad(given, []):
            results = self.call_tracked(originals(self.written, given))
        else:
            results = self.run(*given)
        targets = [given[place] for place in self.written]
        count = len(results) - len(targets)
        for target, value in zip(targets, results[count:], strict=True):
            target.copy_(value)
        return self.packed(results, targets)

    def packed(self, results: Sequence[Tensor], targets: list[Tensor]) -> Any:
        """Return the results as the function did: with what is no tensor between."""
        taken = iter(results)
        outs = []
        for place in self.places:
            out = next(taken) if place is None or type(place) is int else place[0]
            outs.append(targets[place] if type(place) is int else out)
        return self.pack(outs)

    def backward(
        self, wanted: tuple[bool, ...], tensors: Sequence[Tensor], cotangents: Any
    ) -> list[Any]:
        """Return the cotangents of the wanted tensors, by a staged function.

        None stands for a zero in both.
        """
        leaves = [*tensors, *cotangents]
        key = wanted, *(c is None for c in cotangents)
        staged = self.backwards.get(key)
        given = tensors_in(leaves)
        if staged is None or staged.layout != layout_of(given, staged.reads):
            graph = self.ruled or self.graph
            run = compile_graph(graph, self.sized, traceable=True).run
            count = len(graph.find_nodes(op="placeholder"))
            pull = pullback_of(run, wanted, len(tensors), count)
            _, spec = pytree.flatten((tuple(leaves), {}))
            staged = Staged(pull, leaves, spec, self.optimize, self.asked)
            self.backwards[key] = staged
        flat: list[Any] = staged(given)
        return flat


def refuse_suspended(outs: list[Any]) -> None:
    """Refuse results whose code has not run yet, or can run only once."""
    for out in outs:
        if isinstance(out, (Iterator, AsyncIterator, Awaitable)):
            if isinstance(out, Coroutine):
                out.close()
            raise ArgumentTypeError(
                explain(
                    "jit",
                    f"the function returns a {type(out).__name__}: what it will do "
                    "can't be staged.",
                    "return a list or a tuple, and no generator; await outside of the "
                    "function",
                )
            )


def tensors_in(leaves: Sequence[Any]) -> list[Tensor]:
    """Return the tensors among some leaves."""
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def kept_beside(level: TraceLevel, ruled: fx.Graph) -> fx.Graph | None:
    """Return the graph with calls of functions with rules, before any pass, if any."""
    if ruled is not level.graph:
        return ruled
    return with_calls(ruled, []) if level.holds_rules else None


def places_of(outs: list[Any], written: list[Written]) -> list[Any]:
    """Return where each output comes from.

    None stands for a result of the graph, a number for a tensor that was written, which
    the function returned itself; what is no tensor is kept in a tuple.
    """
    numbers = {id(own.handle): number for number, own in enumerate(written)}
    return [numbers.get(id(out)) if isinstance(out, Tensor) else (out,) for out in outs]
