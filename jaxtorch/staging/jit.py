"""``jit``: stage a function once per signature, then replay its graph."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch import pytree
from jaxtorch.core import alias
from jaxtorch.core.level import STATE, Wrapper
from jaxtorch.staging.execution import compile_graph
from jaxtorch.staging.passes import optimize_graph
from jaxtorch.staging.tracer import TraceLevel, TraceTensor

CACHE_SIZE = 256


class Staged:
    """One staged signature: the graph, its program, and how to rebuild the output."""

    def __init__(self, func: Callable[..., Any], leaves: list[Any], spec: Any) -> None:
        level = TraceLevel()
        with level:
            handles = [
                level.add_input(leaf) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            args, kwargs = pytree.unflatten(list(handles), spec)
            outs, self.out_spec = pytree.flatten(func(*args, **kwargs))
            self.places, nodes = split_outputs(level, outs)
            self.written = written_targets(level, leaves, handles)
            nodes += [handle.node for _, handle in self.written]
        level.graph.output(nodes)
        self.graph = level.graph
        self.removed = optimize_graph(self.graph)
        self.program = compile_graph(self.graph)
        self.code = self.program.code
        self.run = self.program.run
        self.captured = [tensor for tensor, _ in level.captured.values()]
        self.simple = self.out_spec is pytree.LEAF and self.places == [None]
        self.simple = self.simple and not self.written

    def __call__(self, tensors: list[Tensor]) -> Any:
        results = self.run(*tensors, *self.captured)
        if self.simple:
            return results[0]
        if self.written:
            count = len(results) - len(self.written)
            for (place, _), value in zip(self.written, results[count:], strict=True):
                target = tensors[place] if isinstance(place, int) else place
                target.copy_(value)
        taken = iter(results)
        outs = [next(taken) if p is None else p[0] for p in self.places]
        return pytree.unflatten(outs, self.out_spec)


def split_outputs(level: TraceLevel, outs: list[Any]) -> tuple[list[Any], list[fx.Node]]:
    """Separate the tensors among the outputs from the Python values, kept in tuples."""
    places: list[Any] = []
    nodes = []
    for out in outs:
        if not isinstance(out, Tensor):
            places.append((out,))
            continue
        handle = out if isinstance(out, TraceTensor) else level.capture(out)
        if handle.alias is not None:
            alias.refresh(handle)
        places.append(None)
        nodes.append(handle.node)
    return places, nodes


def written_targets(
    level: TraceLevel, leaves: list[Any], handles: list[Any]
) -> list[tuple[Any, TraceTensor]]:
    """Return what the function wrote: inputs by position, captured tensors themselves."""
    targets: list[tuple[Any, TraceTensor]] = []
    tensors = [h for h in handles if isinstance(h, TraceTensor)]
    for place, handle in enumerate(tensors):
        targets.append((place, handle))
    targets.extend(level.captured.values())
    return [(t, h) for t, h in targets if h.alias is not None and h.alias.version]


def signature(leaves: list[Any], spec: Any) -> Any:
    """Return the cache key of a call."""
    parts: list[Any] = [spec, torch.is_grad_enabled()]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            parts.append((leaf.shape, leaf.dtype, leaf.device))
        else:
            parts.append((type(leaf), leaf))
    return tuple(parts)


def jit(func: Callable[..., Any]) -> Callable[..., Any]:
    """Stage a function once per signature and replay its optimized graph.

    The graph goes through all transforms inside ``func``. A call under an open
    transform is seen through: ``grad(jit(f))`` and ``vmap(jit(f))`` work.

    Args:
        func: a function of pytrees of tensors and static Python values.

    Returns:
        A function of the same arguments.

    Raises:
        DataDependentError: (a RuntimeError) where the function needs a value to go on.

    Example:
        >>> import torch, jaxtorch
        >>> jaxtorch.jit(lambda x: torch.sin(x) * 2)(torch.zeros(2))
        tensor([0., 0.])
    """
    cache: collections.OrderedDict[Any, Staged] = collections.OrderedDict()

    @functools.wraps(func)
    def staged(*args: Any, **kwargs: Any) -> Any:
        if STATE.levels:
            return func(*args, **kwargs)
        leaves, spec = pytree.flatten((args, kwargs))
        if any(isinstance(leaf, Wrapper) for leaf in leaves):
            return func(*args, **kwargs)
        key = signature(leaves, spec)
        entry = cache.get(key)
        if entry is None:
            entry = cache[key] = Staged(func, leaves, spec)
            if len(cache) > CACHE_SIZE:
                cache.popitem(last=False)
        return entry([leaf for leaf in leaves if isinstance(leaf, Tensor)])

    return staged
