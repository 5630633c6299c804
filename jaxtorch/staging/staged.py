"""One staged signature of a function: its graph, its program, its structure."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch import pytree
from jaxtorch.core.reverse import LEAF, Node, ReverseLevel, TapeTensor, pull_back, wrap
from jaxtorch.errors import UsageError, explain
from jaxtorch.rules.strides import Readings
from jaxtorch.staging.packing import packer
from jaxtorch.staging.passes.pipeline import optimize_graph
from jaxtorch.staging.running.backends import build
from jaxtorch.staging.running.beneath import beneath_autograd
from jaxtorch.staging.running.cuda_graph import Run
from jaxtorch.staging.running.execution import compile_graph
from jaxtorch.staging.running.memory import keep_pages
from jaxtorch.staging.tracer import TraceLevel, TraceTensor

LOST_HISTORY = explain(
    "jit",
    "the function writes into a tensor under torch.no_grad, or through detach(), and "
    "an input or a captured tensor requires grad: torch.autograd's derivative of such "
    "a write can't be staged.",
    "compute a new tensor instead of writing, or call the function without jit",
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
        strides: those of the tensors, where the graph depends on them, else None.
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
        readings = Readings.count
        with level:
            handles = [
                level.add_input(leaf) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            args, kwargs = pytree.unflatten(list(handles), spec)
            outs, self.out_spec = pytree.flatten(func(*args, **kwargs))
            self.places, nodes = split_outputs(level, outs)
            self.written = written_targets(level, handles)
        nodes += [handle.node for _, handle in self.written]
        level.graph.output(nodes)
        self.graph = level.graph
        self.optimize = optimize
        self.captured = [tensor for tensor, _ in level.captured.values()]
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
        self.backwards: dict[tuple[bool, ...], Staged] = {}
        self.only_tensors = not self.written and all(p is None for p in self.places)
        self.pack = packer(self.out_spec)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        read = Readings.count > readings
        self.strides = [x.stride() for x in tensors] if read else None

    def interface(self) -> Any:
        """Return what two traces of one function must agree in to share a graph."""
        written = [place for place, _ in self.written]
        captured = [id(tensor) for tensor in self.captured]
        return self.out_spec, self.places, written, captured

    def install(self, sized: int | None = None) -> None:
        """Generate the program from the graph."""
        program = compile_graph(self.graph, sized)
        self.sized = sized
        self.code = program.code
        self.run = beneath_autograd(self.graph, program.run)

    def __call__(self, tensors: list[Tensor]) -> Any:
        """Run on the tensors of a call; write what the function wrote."""
        captured = self.captured
        if self.strides is not None:
            check_strides(self.strides, tensors)
        if torch.is_grad_enabled() and any_requires_grad(tensors, captured):
            if self.loses_history:
                raise UsageError(LOST_HISTORY)
            apply: Any = StagedFunction.apply
            results = apply(self, *tensors, *captured)
        else:
            results = self.run(*tensors, *captured)
        if self.only_tensors:
            return self.pack(results)
        count = len(results) - len(self.written)
        for (place, _), value in zip(self.written, results[count:], strict=True):
            target = tensors[place] if isinstance(place, int) else place
            target.copy_(value)
        taken = iter(results)
        outs = [next(taken) if p is None else p[0] for p in self.places]
        return self.pack(outs)

    def backward(
        self, wanted: tuple[bool, ...], tensors: Sequence[Tensor], cotangents: Any
    ) -> list[Any]:
        """Return the cotangents of the wanted tensors, by a staged function."""
        leaves = [*tensors, *cotangents]
        staged = self.backwards.get(wanted)
        if staged is None:
            run = compile_graph(self.graph, self.sized, traceable=True).run
            pull = pullback_of(run, wanted, len(tensors))
            _, spec = pytree.flatten((tuple(leaves), {}))
            staged = Staged(pull, leaves, spec, self.optimize, self.asked)
            self.backwards[wanted] = staged
        flat: list[Any] = staged([leaf for leaf in leaves if leaf is not None])
        return flat


def check_strides(traced: list[tuple[int, ...]], tensors: list[Tensor]) -> None:
    """Refuse tensors that lie in memory in another way than those of the trace."""
    given = [x.stride() for x in tensors]
    if given != traced:
        raise UsageError(
            explain(
                "jit",
                f"the function calls as_strided and was staged for strides {traced}; "
                f"these tensors have {given}.",
                "pass x.clone(memory_format=torch.contiguous_format) of each in all "
                "calls, or index instead of as_strided",
            )
        )


def any_requires_grad(tensors: list[Tensor], captured: list[Tensor]) -> bool:
    """Tell whether torch.autograd tracks any of the tensors."""
    for group in (tensors, captured):
        for tensor in group:
            if tensor.requires_grad:
                return True
    return False


class StagedFunction(torch.autograd.Function):
    """Connects a staged call to torch.autograd; the backward pass is staged as well."""

    @staticmethod
    def forward(ctx: Any, staged: Staged, *tensors: Tensor) -> Any:
        outs = tuple(staged.run(*tensors))
        ctx.staged = staged
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(True)
        ctx.mark_non_differentiable(
            *[o for o in outs if not (o.is_floating_point() or o.is_complex())]
        )
        return outs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        tensors = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[1:])
        pulled = iter(ctx.staged.backward(wanted, tensors, cotangents))
        return None, *[next(pulled) if want else None for want in wanted]


def pullback_of(
    run: Callable[..., list[Tensor]], wanted: tuple[bool, ...], count: int
) -> Callable[..., list[Any]]:
    """Return the function of inputs and cotangents that pulls these back."""

    def pull(*leaves: Any) -> list[Any]:
        tensors, cotangents = leaves[:count], leaves[count:]
        level = ReverseLevel()
        nodes = [Node(LEAF) if want else None for want in wanted]
        with level:
            inputs = [
                t if node is None else wrap(level, t, node, None)
                for t, node in zip(tensors, nodes, strict=True)
            ]
            outs = run(*inputs)
        pairs = [
            ((out.node, out.index), c)
            for out, c in zip(outs, cotangents, strict=True)
            if type(out) is TapeTensor and out.level is level and out.node is not None
        ]
        leaf_nodes = [node for node in nodes if node is not None]
        pulled = pull_back(
            [r for r, _ in pairs], [c for _, c in pairs], leaf_nodes, True
        )
        inputs_wanted = [t for t, want in zip(tensors, wanted, strict=True) if want]
        return [
            torch.zeros_like(t) if c is None else c
            for t, c in zip(inputs_wanted, pulled, strict=True)
        ]

    return pull


def split_outputs(
    level: TraceLevel, outs: list[Any]
) -> tuple[list[Any], list[fx.Node]]:
    """Separate the tensors among the outputs from the Python values, kept in tuples."""
    places: list[Any] = []
    nodes = []
    for out in outs:
        if not isinstance(out, Tensor):
            places.append((out,))
            continue
        places.append(None)
        nodes.append(level.handle(out).node)
    return places, nodes


def written_targets(
    level: TraceLevel, handles: list[Any]
) -> list[tuple[Any, TraceTensor]]:
    """Return what the function wrote: inputs by position, captured ones themselves."""
    targets: list[tuple[Any, TraceTensor]] = []
    for place, handle in enumerate(h for h in handles if isinstance(h, TraceTensor)):
        targets.append((place, handle))
    targets.extend(level.captured.values())
    return [(t, h) for t, h in targets if h.alias is not None and h.alias.version]
