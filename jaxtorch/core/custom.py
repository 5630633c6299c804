"""Functions with rules of their own: how each level treats a call of one.

A ``Custom`` stands where a primitive stands: it says what it means under each
interpreter. It takes and returns flat lists, whose entries may be anything; only
tensors are unwrapped. What the rules are made of is not known here.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from jaxtorch.core import batching, forward, reverse
from jaxtorch.core.batching import BatchLevel
from jaxtorch.core.forward import ForwardLevel
from jaxtorch.core.level import (
    DEAD,
    STATE,
    Below,
    Level,
    Wrapper,
    innermost,
    mode_is_on,
    unwrap_dead,
)
from jaxtorch.core.plain import any_requires_grad
from jaxtorch.core.reverse import Node, ReverseLevel
from jaxtorch.core.tracking import has_derivative
from jaxtorch.errors import UsageError, explain
from jaxtorch.linear.operator import LinearOperator

Leaves = list[Any]
INTERPRETERS = (BatchLevel, ForwardLevel, ReverseLevel)


class Linear:
    """The derivative of one call: all inputs' tangents to all outputs' tangents."""

    def push(self, tangents: Leaves) -> Leaves:
        """Return the outputs' tangents; None is a zero."""
        raise NotImplementedError

    def pull(self, cotangents: Leaves) -> Leaves:
        """Return the inputs' cotangents; None is a zero."""
        raise NotImplementedError


class Custom:
    """One call of a function with rules of its own."""

    name = "a custom function"
    ruled = True
    """Whether its derivative may be another one than that of its code."""

    def call(self, leaves: Leaves) -> Leaves:
        """Run the function; no level is left that has a say."""
        raise NotImplementedError

    def batch(
        self, level: BatchLevel, values: Leaves, dims: Leaves
    ) -> tuple[Leaves, Leaves]:
        """Run it on all examples; return the outputs and their batch dims."""
        raise NotImplementedError

    def push(self, values: Leaves, tangents: Leaves) -> tuple[Leaves, Leaves]:
        """Run it and push tangents forward; None is a zero."""
        raise NotImplementedError

    def record(self, values: Leaves, wanted: list[bool]) -> tuple[Leaves, Linear]:
        """Run it and return its derivative, for the inputs that are wanted."""
        raise NotImplementedError

    def outside(self, leaves: Leaves) -> Leaves:
        """Run it on plain tensors while torch.autograd may record."""
        return attach(self, leaves) if any_requires_grad(leaves) else self.call(leaves)

    def constants(self, outs: Leaves) -> set[int]:
        """Return which of the outputs of ``record`` have no derivative."""
        return set()


class Beneath(Below):
    """As ``Below``; levels may be opened within, so the mode is off where none is."""

    def __enter__(self) -> None:
        self.shut = STATE.shut
        self.popped = not self.outer and mode_is_on()
        if self.popped:
            torch._C._pop_torch_dispatch_stack(None)
        super().__enter__()

    def __exit__(self, *unused: object) -> None:
        super().__exit__(*unused)
        if self.popped:
            torch._C._push_on_torch_dispatch_stack(STATE.mode)
        STATE.shut = self.shut


class Resumed:
    """Within it the mode is on if a level is open: for user code run by a tape."""

    def __enter__(self) -> Self:
        self.pushed = bool(STATE.levels) and not mode_is_on()
        if self.pushed:
            torch._C._push_on_torch_dispatch_stack(STATE.mode)
        return self

    def __exit__(self, *unused: object) -> None:
        if self.pushed:
            torch._C._pop_torch_dispatch_stack(None)


class One(LinearOperator):
    """The part of a ``Linear`` that belongs to one input."""

    __slots__ = ("linear", "index", "arity", "shared")

    def __init__(
        self, linear: Linear, index: int, arity: int, shared: list[Any]
    ) -> None:
        self.linear = linear
        self.index = index
        self.arity = arity
        self.shared = shared

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        tangents: Leaves = [None] * self.arity
        tangents[self.index] = tangent
        with Resumed():
            return tuple(self.linear.push(tangents))

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        cached = self.shared[0]
        if cached is None or cached[0] is not cotangent:
            with Resumed():
                pulled = self.linear.pull(list(cotangent))
            cached = self.shared[0] = (cotangent, pulled)
        if self.index == self.shared[1]:
            self.shared[0] = None
        return cached[1][self.index]  # type: ignore[no-any-return]


def apply(custom: Custom, leaves: Leaves) -> Leaves:
    """Run a custom function at the innermost level among its arguments.

    As in dispatch, fresh results belong to the innermost level that is open.
    """
    level = innermost(leaves)
    if level is not None and level.depth >= DEAD:
        return apply(custom, [unwrap_dead(leaf) for leaf in leaves])
    outs = apply_at(custom, level, leaves)
    levels = STATE.levels
    if not levels or level is levels[-1]:
        return outs
    return [levels[-1].lift(out) if is_outer(out, levels[-1]) else out for out in outs]


def is_outer(out: Any, level: Level) -> bool:
    """Tell whether a value is plain, or of a level outside ``level``."""
    return not isinstance(out, Wrapper) or out.level.depth < level.depth


def apply_at(custom: Custom, level: Level | None, leaves: Leaves) -> Leaves:
    """Run a custom function at ``level``; None where no argument is a wrapper."""
    levels = STATE.levels
    if level is None and levels and isinstance(levels[0], INTERPRETERS):
        with Beneath(levels[0]):
            return at_the_bottom(custom, leaves)
    if level is None and not levels:
        return at_the_bottom(custom, leaves)
    if isinstance(level, BatchLevel):
        return apply_batched(custom, level, leaves)
    if isinstance(level, ForwardLevel):
        return apply_pushed(custom, level, leaves)
    if isinstance(level, ReverseLevel):
        return apply_recorded(custom, level, leaves)
    if level is None:
        with Beneath(levels[1]) if len(levels) > 1 else contextlib.nullcontext():
            return levels[0].run_custom(custom, leaves)
    return level.run_custom(custom, leaves)


def value_of(level: Level, leaf: Any) -> Any:
    """Unwrap a leaf of ``level``."""
    return leaf.value if isinstance(leaf, Wrapper) and leaf.level is level else leaf


def apply_batched(custom: Custom, level: BatchLevel, leaves: Leaves) -> Leaves:
    """Run it under ``vmap``."""
    values = [value_of(level, leaf) for leaf in leaves]
    dims = [
        leaf.batch_dim if type(leaf) is batching.BatchTensor and leaf.level is level
        else None
        for leaf in leaves
    ]  # fmt: skip
    with Beneath(level):
        if any(dim is not None for dim in dims):
            outs, out_dims = custom.batch(level, values, dims)
        else:
            outs = apply(custom, values)
            out_dims = [None] * len(outs)
    refuse_captured(custom, level, outs)
    return [level.wrap_output(o, d) for o, d in zip(outs, out_dims, strict=True)]


def apply_pushed(custom: Custom, level: ForwardLevel, leaves: Leaves) -> Leaves:
    """Run it under ``jvp``."""
    values = [value_of(level, leaf) for leaf in leaves]
    tangents = [
        leaf.tangent
        if type(leaf) is forward.DualTensor and leaf.level is level
        else None
        for leaf in leaves
    ]
    with Beneath(level):
        if any(tangent is not None for tangent in tangents):
            outs, pushed = custom.push(values, tangents)
        else:
            outs = apply(custom, values)
            pushed = [None] * len(outs)
    refuse_captured(custom, level, outs)
    return [level.wrap_output(o, t) for o, t in zip(outs, pushed, strict=True)]


def apply_recorded(custom: Custom, level: ReverseLevel, leaves: Leaves) -> Leaves:
    """Run it under ``vjp`` and note it on the tape."""
    values = [value_of(level, leaf) for leaf in leaves]
    sources: Leaves = [
        level.source_of(leaf)
        if type(leaf) is reverse.TapeTensor and leaf.level is level
        else None
        for leaf in leaves
    ]
    wanted = [source is not None for source in sources]
    recording = torch.is_grad_enabled()
    with Beneath(level), torch.set_grad_enabled(level.outer_grad_mode):
        if not (recording and any(wanted)):
            outs = apply(custom, values)
            refuse_captured(custom, level, outs)
            return [level.wrap_constant(out) for out in outs]
        outs, linear = custom.record(values, wanted)
    refuse_captured(custom, level, outs)
    present = [i for i, source in enumerate(sources) if source is not None]
    shared = [None, present[-1]]
    node = Node(
        [(One(linear, i, len(leaves), shared), *sources[i]) for i in present], len(outs)
    )
    constants = custom.constants(outs)
    return [
        reverse.wrap(level, out, node, i)
        if i not in constants and isinstance(out, Tensor) and has_derivative(out)
        else level.wrap_constant(out)
        for i, out in enumerate(outs)
    ]


def refuse_captured(custom: Custom, level: Level, outs: Leaves) -> None:
    """Refuse a result that depends on a value of ``level`` which was no argument."""
    if any(isinstance(out, Wrapper) and out.level is level for out in outs):
        raise UsageError(
            explain(
                level.transform,
                f"{custom.name} uses a value of this transform that is not among its "
                "arguments.",
                "pass the value as an argument instead of capturing it",
            )
        )


def at_the_bottom(custom: Custom, leaves: Leaves) -> Leaves:
    """Run it on plain tensors."""
    return custom.outside(leaves) if torch.is_grad_enabled() else custom.call(leaves)


def attach(custom: Custom, leaves: Leaves) -> Leaves:
    """Run it with its own derivative for torch.autograd."""
    wanted = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves]
    box: Leaves = []
    tracked = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
    attached = Attached.apply(  # type: ignore[no-untyped-call]
        custom, leaves, wanted, box, *tracked
    )
    outs, places = box
    for place, out in zip(places, attached, strict=True):
        outs[place] = out
    return outs  # type: ignore[no-any-return]


class Attached(torch.autograd.Function):
    """One call as torch.autograd sees it.

    The inputs are detached, so the rules see values of no level; where the pullback is
    itself differentiated they run once more on the tracked inputs.
    """

    @staticmethod
    def forward(
        ctx: Any, custom: Any, leaves: Any, wanted: Any, box: Any, *own: Any
    ) -> Any:
        values = [
            leaf.detach() if want else leaf
            for leaf, want in zip(leaves, wanted, strict=True)
        ]
        with torch.enable_grad():
            outs, ctx.linear = custom.record(values, wanted)
        constants = custom.constants(outs)
        places = [
            i
            for i, out in enumerate(outs)
            if i not in constants and isinstance(out, Tensor) and has_derivative(out)
        ]
        box.extend((list(outs), places))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*own)
        ctx.custom, ctx.wanted, ctx.places, ctx.arity = (
            custom,
            wanted,
            places,
            len(outs),
        )
        ctx.rest = [
            None if want else leaf for leaf, want in zip(leaves, wanted, strict=True)
        ]
        return tuple(outs[i].detach() for i in places)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        full: Leaves = [None] * ctx.arity
        for place, cotangent in zip(ctx.places, cotangents, strict=True):
            full[place] = cotangent
        linear = ctx.linear
        if torch.is_grad_enabled():
            own = iter(ctx.saved_tensors)
            leaves = [
                next(own) if want else leaf
                for leaf, want in zip(ctx.rest, ctx.wanted, strict=True)
            ]
            linear = ctx.custom.record(leaves, ctx.wanted)[1]
        pulled = linear.pull(full)
        kept = [p for p, want in zip(pulled, ctx.wanted, strict=True) if want]
        return (None, None, None, None, *kept)
