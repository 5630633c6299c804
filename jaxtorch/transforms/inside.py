"""``torch.autograd.grad`` and ``.backward()`` called inside a transformed function.

A wrapper that requires grad (after ``x.requires_grad_()``) is recorded by
torch.autograd itself, above the levels, which see its backward as any other code. Here
are the wrappers that do not: where they are on a tape of ours, the tape is read.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import functional, graph

from jaxtorch.core import alias
from jaxtorch.core.custom import Beneath
from jaxtorch.core.level import STATE, Wrapper, paused
from jaxtorch.core.reverse import LEAF, Node, ReverseLevel, TapeTensor, pull_back
from jaxtorch.errors import UsageError, explain

ORIGINAL = graph._engine_run_backward
PREPARE: Any = functional._grad_preprocess
Root = tuple[Node, int | None]


def run_backward(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
    """Stand in for torch's engine while a level is open."""
    cotangents, _, create_graph, inputs = args[:4]
    leaves = [*outputs, *inputs]
    if not STATE.levels or not any(isinstance(leaf, Wrapper) for leaf in leaves):
        return ORIGINAL(outputs, *args, **kwargs)
    if kwargs.get("accumulate_grad"):
        raise UsageError(
            explain(
                STATE.levels[-1].transform,
                "backward() was called on a value of the transform: it would write "
                ".grad of a tensor that exists only inside.",
                "use jaxtorch.grad, or torch.autograd.grad, which return the gradient",
            )
        )
    if all(leaf.requires_grad for leaf in leaves):
        return ORIGINAL(outputs, *args, **kwargs)
    level = common_level(inputs, create_graph)
    allow_unused = args[4] if len(args) > 4 else kwargs.get("allow_unreachable", False)
    pulled = [pull(level, outputs, cotangents, leaf) for leaf in inputs]
    if not allow_unused and any(p is None for p in pulled):
        raise UsageError(
            explain(
                "torch.autograd.grad",
                "One of the differentiated Tensors appears to not have been used in "
                "the graph.",
                "pass allow_unused=True if that is intended",
            )
        )
    return tuple(None if p is None else level.lift(p) for p in pulled)


def common_level(inputs: Sequence[Any], create_graph: bool) -> ReverseLevel:
    """Return the level whose tape has all inputs; refuse what no tape can do."""
    if all(leaf.requires_grad for leaf in inputs):
        raise UsageError(
            explain(
                "torch.autograd.grad",
                "the inputs require grad, but an output was not recorded: it does not "
                "depend on them, or it came out of another transform.",
                "compute the output without vmap or grad in between, or use "
                "jaxtorch.grad",
            )
        )
    levels = set()
    for leaf in inputs:
        on_tape = isinstance(leaf, TapeTensor) and leaf.node is not None
        levels.add(leaf.level if on_tape else None)
    level = levels.pop()
    if levels or not isinstance(level, ReverseLevel):
        raise UsageError(
            explain(
                "torch.autograd.grad",
                "an input was not recorded: it is a value of a transform that does not "
                "require grad.",
                "call x.requires_grad_() inside the function, before computing with x, "
                "or use jaxtorch.grad",
            )
        )
    if create_graph:
        raise UsageError(
            explain(
                "torch.autograd.grad(create_graph=True)",
                "the tape of the enclosing transform can be read, but not again be "
                "differentiated by it.",
                "call x.requires_grad_() inside the function, before computing with x, "
                "or use jaxtorch.grad",
            )
        )
    return level


def pull(
    level: ReverseLevel, outputs: Sequence[Any], cotangents: Sequence[Any], leaf: Any
) -> Tensor | None:
    """Carry the cotangents of the outputs back to one input, where the tape is cut."""
    roots: list[Root] = []
    own: list[Tensor] = []
    for out, cotangent in zip(outputs, cotangents, strict=True):
        if isinstance(out, TapeTensor) and out.level is level:
            if out.alias is not None:
                alias.refresh(out)
            if out.node is not None:
                roots.append((out.node, out.index))
                own.append(seed(level, out, cotangent))
    node, edges = leaf.node, leaf.node.edges
    node.edges = LEAF
    try:
        with Beneath(level), torch.set_grad_enabled(level.outer_grad_mode), paused():
            arrived: Any = pull_back(roots, own, [node], False)[0]
    finally:
        node.edges = edges
    if arrived is None or leaf.index is None:
        return arrived  # type: ignore[no-any-return]
    return arrived[leaf.index]  # type: ignore[no-any-return]


def seed(level: ReverseLevel, out: TapeTensor, cotangent: Any) -> Tensor:
    """Return the cotangent of one output as a value below ``level``."""
    if cotangent is None:
        if out.numel() != 1:
            raise UsageError(
                explain(
                    "torch.autograd.grad",
                    "grad can be implicitly created only for scalar outputs.",
                    "pass grad_outputs=, or reduce the output",
                )
            )
        return torch.ones_like(out.value)
    if isinstance(cotangent, TapeTensor) and cotangent.level is level:
        return cotangent.value
    return cotangent  # type: ignore[no-any-return]


def prepare(inputs: Sequence[Any], create_graph: bool, need_graph: bool) -> Any:
    """Stand in for what the functions of torch.autograd.functional do to their inputs.

    Theirs detaches what does not require grad, and so the wrappers from their levels.
    """
    if not (STATE.levels and create_graph):
        return PREPARE(inputs, create_graph, need_graph)
    own: list[Any] = []
    for x in inputs:
        if isinstance(x, Wrapper) and not x.requires_grad:
            own.append(x.view_as(x).requires_grad_(need_graph))
        else:
            own += PREPARE((x,), create_graph, need_graph)
    return tuple(own)


def refuse_retain_grad(self: Wrapper) -> None:
    """Stand in for ``retain_grad()`` of a wrapper."""
    raise UsageError(
        explain(
            self.level.transform,
            "retain_grad() was called on a value of the transform: it has no .grad.",
            "return the value and use jaxtorch.vjp, or torch.autograd.grad",
        )
    )
