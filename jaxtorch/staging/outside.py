"""torch.autograd outside of a staged call: what the engine sees of it.

A call is one node of PyTorch's graph. Its backward is a staged call as well, so it can
be differentiated again. Random numbers are drawn there once more as they were drawn in
the call, and cotangents that PyTorch does not have are zeros that nothing is done for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core.reverse import LEAF, Node, ReverseLevel, TapeTensor, pull_back, wrap
from jaxtorch.staging.lifting import differentiable
from jaxtorch.staging.passes.rewriting import is_pure
from jaxtorch.staging.region import Region
from jaxtorch.staging.untracked import UNTRACKED

STOPS = (torch.ops.aten.detach.default, UNTRACKED)
"""What gives a value without its derivative."""


class StagedFunction(torch.autograd.Function):
    """Connects a staged call to torch.autograd; the backward pass is staged as well."""

    @staticmethod
    def forward(ctx: Any, staged: Any, *tensors: Tensor) -> Any:
        ctx.drawn = states_of(staged.generators)
        outs = tuple(staged.run(*tensors))
        ctx.staged = staged
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        wanted = set_of(ctx.needs_input_grad[1:])
        ctx.mark_non_differentiable(
            *[
                out
                for out, sources in zip(outs, staged.sources, strict=True)
                if not sources & wanted
            ]
        )
        return outs

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        tensors = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[1:])
        with drawn_again(ctx.staged.generators, ctx.drawn):
            pulled = iter(ctx.staged.backward(wanted, tensors, cotangents))
        return None, *[next(pulled) if want else None for want in wanted]


def any_requires_grad(tensors: list[Tensor], captured: list[Tensor]) -> bool:
    """Tell whether torch.autograd tracks any of the tensors."""
    for group in (tensors, captured):
        for tensor in group:
            if tensor.requires_grad:
                return True
    return False


def pullback_of(
    run: Callable[..., list[Tensor]], wanted: tuple[bool, ...], count: int, read: int
) -> Callable[..., list[Any]]:
    """Return the function of ``count`` inputs and of cotangents that pulls these back.

    ``run`` reads the first of the inputs. None stands for a zero among the cotangents
    and among the results.
    """

    def pull(*leaves: Any) -> list[Any]:
        tensors, cotangents = leaves[:count], leaves[count:]
        level = ReverseLevel()
        nodes = [Node(LEAF) if want else None for want in wanted]
        with level:
            inputs = [
                t if node is None else wrap(level, t, node, None)
                for t, node in zip(tensors, nodes, strict=True)
            ]
            outs = run(*inputs[:read])
        pairs = [
            ((out.node, out.index), c)
            for out, c in zip(outs, cotangents, strict=True)
            if c is not None and type(out) is TapeTensor
            if out.level is level and out.node is not None
        ]
        leaf_nodes = [node for node in nodes if node is not None]
        return pull_back([r for r, _ in pairs], [c for _, c in pairs], leaf_nodes, True)

    return pull


def set_of(flags: Sequence[bool]) -> int:
    """Return a number whose bits are the flags."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def sources_of(graph: fx.Graph) -> list[int]:
    """Return for each result the set of inputs that it may have a derivative by."""
    sets: dict[fx.Node, int] = {}
    places = 0
    for node in graph.nodes:
        if node.op == "output":
            break
        own = 0
        if node.op == "placeholder":
            own, places = 1 << places, places + 1
        elif node.target not in STOPS:
            for source in node.all_input_nodes:
                own |= sets[source]
        value = node.meta.get("val")  # what nobody took of several results has none
        smooth = not isinstance(value, Tensor) or differentiable(value)
        sets[node] = own if smooth else 0
    results: Any = node.args[0]
    return [sets[result] for result in results]


def generators_of(graph: fx.Graph) -> list[torch.Generator]:
    """Return what the calls of a graph draw their random numbers from."""
    found: dict[int, torch.Generator] = {}
    for node in graph.nodes:
        if node.op != "call_function" or is_pure(node):
            continue
        if isinstance(node.target, Region):
            drawn = [g for own in node.target.graphs() for g in generators_of(own)]
        else:
            given = node.kwargs.get("generator")
            drawn = [given or default_generator(node.meta["device"])]
        found.update((id(generator), generator) for generator in drawn)
    return list(found.values())


def default_generator(device: torch.device) -> torch.Generator:
    """Return what random calls on a device draw from."""
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def states_of(generators: list[torch.Generator]) -> list[Tensor]:
    """Return the states of some generators."""
    return [generator.get_state() for generator in generators]


@contextmanager
def drawn_again(
    generators: list[torch.Generator], states: list[Tensor]
) -> Iterator[None]:
    """Within it random numbers are drawn from given states on."""
    kept = states_of(generators)
    try:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        yield
    finally:
        for generator, state in zip(generators, kept, strict=True):
            generator.set_state(state)
