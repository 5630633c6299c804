"""``torch.autograd.Function`` under the transforms: its staticmethods as rules.

``Function.apply`` never reaches the dispatcher: it would run ``forward`` without
recording, and the derivative would be silently zero. So while a level is open it is
replaced (``core/hooks.py``).
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import (
    FunctionCtx,
    _is_setup_context_defined,
    once_differentiable,
)
from torch.utils.checkpoint import CheckpointFunction

from jaxtorch import pytree
from jaxtorch.core import alias
from jaxtorch.core.batching import BatchLevel
from jaxtorch.core.custom import INTERPRETERS, Beneath, Leaves, apply
from jaxtorch.core.level import STATE, Wrapper, mode_is_on
from jaxtorch.core.reverse import TapeTensor
from jaxtorch.errors import MutationError, UsageError, explain
from jaxtorch.transforms.checkpoint import checkpoint
from jaxtorch.transforms.custom import MapInfo
from jaxtorch.transforms.deriving import Likes, Rules, is_differentiable

Function = torch.autograd.Function
ORIGINAL = Function.__dict__["apply"]
ONCE = once_differentiable(lambda *args: None).__code__


class Context(FunctionCtx):
    """What ``forward``, ``setup_context``, ``backward`` and ``jvp`` see as ``ctx``."""

    to_save: tuple[Any, ...] = ()
    saved_for_forward: tuple[Any, ...] = ()
    non_differentiable: tuple[Any, ...] = ()
    dirty_tensors: tuple[Any, ...] = ()
    materialize_grads = True
    needs_input_grad: tuple[bool, ...] = ()

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """Return what ``save_for_backward`` was given."""
        return self.to_save


class FunctionRules(Rules):
    """One call of ``Function.apply``.

    Where ``forward`` takes the context (the old form) it runs once, on plain values,
    and what it leaves on the context becomes additional outputs without a derivative;
    the contexts of the levels are rebuilt from these, the inputs and the outputs.
    """

    def __init__(self, cls: Any, args: tuple[Any, ...]) -> None:
        self.cls = cls
        self.old_form = not _is_setup_context_defined(cls.setup_context)
        self.leaves, self.spec = pytree.flatten(args)
        self.needed: list[bool] | None = None
        self.single = True
        self.arity = 0
        self.template: Any = None
        self.overwritten: dict[int, int] = {}
        has_backward = user_backward(cls) is not None
        has_jvp = cls.jvp is not Function.jvp
        has_vmap = cls.vmap is not Function.vmap
        if has_vmap and cls.generate_vmap_rule:
            raise UsageError(
                explain(
                    cls.__name__,
                    "it has both generate_vmap_rule=True and a vmap staticmethod.",
                    "keep one of them",
                )
            )
        super().__init__(
            cls.__name__,
            self.run_forward,
            self.forward if has_backward else None,
            self.backward if has_backward else None,
            self.push_tangents if has_jvp else None,
            self.map_forward if has_vmap else None,
        )

    def run_forward(self, leaves: Leaves) -> Leaves:
        """Run the user's ``forward`` without recording."""
        cls = self.cls
        if may_write(cls):
            leaves = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
        args = pytree.unflatten(leaves, self.spec)
        ctx = self.new_context(leaves)
        with torch.no_grad():
            out = cls.forward(ctx, *args) if self.old_form else cls.forward(*args)
        outs = self.flat_output(out)
        if may_write(cls):
            own = {id(x): i for i, x in enumerate(leaves) if isinstance(x, Tensor)}
            self.overwritten = {
                own[id(o)]: j for j, o in enumerate(outs) if id(o) in own
            }
        if not self.old_form:
            return outs
        extra, self.template = self.take_apart(ctx, leaves, outs)
        return [*outs, *extra]

    def flat_output(self, out: Any) -> Leaves:
        """Return the outputs as a list, and note how they came."""
        self.single = not isinstance(out, tuple)
        outs = [out] if self.single else list(out)
        self.arity = len(outs)
        return outs

    def new_context(self, leaves: Leaves) -> Context:
        """Make a fresh context for these inputs."""
        ctx = Context()
        needed = self.needed or [is_differentiable(leaf) for leaf in leaves]
        args = pytree.unflatten(list(needed), self.spec)
        ctx.needs_input_grad = tuple(own is True for own in args)
        return ctx

    def take_apart(self, ctx: Context, leaves: Leaves, outs: Leaves) -> tuple[Any, Any]:
        """Return the tensors on ``ctx`` that are new, and how to put all back."""
        places = {id(x): ("in", i) for i, x in enumerate(leaves)}
        places.update({id(x): ("out", i) for i, x in enumerate(outs)})
        extra: Leaves = []
        entries: list[Any] = []
        state, spec = pytree.flatten(dict(vars(ctx)))
        for leaf in state:
            if not isinstance(leaf, Tensor):
                entries.append(("is", leaf))
            elif id(leaf) in places:
                entries.append(places[id(leaf)])
            else:
                entries.append(("out", self.arity + len(extra)))
                extra.append(leaf)
        return extra, (entries, spec)

    def context(self, leaves: Leaves, outs: Leaves) -> Context:
        """Return the context with what the user saves, as values of this level."""
        ctx = self.new_context(leaves)
        if self.old_form:
            entries, spec = self.template
            sources = {"in": leaves, "out": outs}
            state = [x if kind == "is" else sources[kind][x] for kind, x in entries]
            vars(ctx).update(pytree.unflatten(state, spec))
            vars(ctx)["needs_input_grad"] = self.new_context(leaves).needs_input_grad
        else:
            args = pytree.unflatten(leaves, self.spec)
            output = outs[0] if self.single else tuple(outs)
            self.cls.setup_context(ctx, args, output)
        marked = {id(x) for x in ctx.non_differentiable}
        self.still.update(range(self.arity, len(outs)))
        self.still.update(i for i, o in enumerate(outs) if id(o) in marked)
        return ctx

    def record(self, values: Leaves, wanted: list[bool]) -> Any:
        self.needed = wanted
        return super().record(values, wanted)

    def forward(self, leaves: Leaves) -> tuple[Leaves, Any]:
        """Run it below and set up the context here."""
        outs = apply(self, leaves)
        ctx = self.context(leaves, outs)
        return outs, (dict(vars(ctx)), Likes(leaves), Likes(outs))

    def backward(self, residuals: Any, cotangents: Leaves) -> Leaves:
        """Run the user's ``backward``."""
        state, inputs, outputs = residuals
        ctx = Context()
        vars(ctx).update(state)
        if ctx.materialize_grads:
            cotangents = outputs.fill(cotangents)
        own = cotangents[: self.arity]
        rule: Any = user_backward(self.cls)
        if getattr(rule, "__code__", None) is ONCE:
            self.refuse_tracked([state, own])
        pulled = rule(ctx, *own)
        pulled = pulled if isinstance(pulled, tuple) else (pulled,)
        args = pytree.unflatten([*range(len(self.leaves))], self.spec)
        if len(pulled) < len(args) or any(p is not None for p in pulled[len(args) :]):
            raise UsageError(
                explain(
                    f"{self.name}.backward",
                    "it returned an incorrect number of gradients (expected "
                    f"{len(args)}, got {len(pulled)}).",
                    "return one gradient, or None, per argument of forward",
                )
            )
        out: Leaves = [None] * len(self.leaves)
        for place, cotangent in zip(args, pulled, strict=False):
            if isinstance(place, int) and cotangent is not None:
                out[place] = fitted(cotangent, inputs.each[place])
        return out

    def refuse_tracked(self, tree: Any) -> None:
        """Refuse to differentiate a backward that is ``once_differentiable``."""
        if torch.is_grad_enabled() and any(map(on_a_tape, pytree.flatten(tree)[0])):
            raise UsageError(
                explain(
                    self.name,
                    "its backward is @once_differentiable, and is differentiated.",
                    "drop the mark, and write backward with torch operations",
                )
            )

    def push_tangents(self, leaves: Leaves, pushed: Leaves) -> tuple[Leaves, Leaves]:
        """Run it below, and the user's ``jvp`` here."""
        outs = apply(self, leaves)
        ctx = self.context(leaves, outs)
        if ctx.saved_for_forward:
            ctx.to_save = ctx.saved_for_forward
        out = self.cls.jvp(ctx, *pytree.unflatten(pushed, self.spec))
        tangents = list(out) if isinstance(out, tuple) else [out]
        missing = len(outs) - len(tangents)
        return outs, [*tangents, *[None] * missing]

    def map_forward(
        self, level: BatchLevel, values: Leaves, dims: Leaves
    ) -> tuple[Leaves, Leaves]:
        """Run the user's ``vmap``."""
        args = pytree.unflatten(values, self.spec)
        in_dims = pytree.unflatten(dims, self.spec)
        info = MapInfo(level.size, level.randomness)
        out, out_dims = self.cls.vmap(info, tuple(in_dims), *args)
        outs = self.flat_output(out)
        flat = list(out_dims) if isinstance(out_dims, tuple) else [out_dims] * len(outs)
        return outs, [
            None if d is None or not isinstance(o, Tensor) else d % o.dim()
            for o, d in zip(outs, flat, strict=True)
        ]


def user_backward(cls: Any) -> Any:
    """Return the user's ``backward`` or ``vjp``, or None."""
    if cls.vjp is not Function.vjp:
        return cls.vjp
    return None if cls.backward is Function.backward else cls.backward


def may_write(cls: Any) -> bool:
    """Tell whether the code of a Function marks inputs as dirty."""
    return any(
        "mark_dirty" in inspect.unwrap(func).__code__.co_names
        for func in (cls.forward, cls.setup_context)
        if hasattr(inspect.unwrap(func), "__code__")
    )


def fitted(cotangent: Tensor, like: Any) -> Tensor:
    """Reduce a cotangent that was broadcast, as torch.autograd does."""
    if like is None:
        return cotangent
    if cotangent.shape != like[0]:
        cotangent = cotangent.sum_to_size(like[0])
    if cotangent.is_complex() and not like[1].is_complex:
        cotangent = cotangent.real
    return cotangent if cotangent.dtype is like[1] else cotangent.to(like[1])


def on_a_tape(leaf: Any) -> bool:
    """Tell whether a value is recorded by any level."""
    while isinstance(leaf, Wrapper):
        if isinstance(leaf, TapeTensor) and leaf.node is not None:
            return True
        leaf = leaf.value
    return False


def apply_function(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Stand in for ``Function.apply`` while a level is open."""
    levels = STATE.levels
    if levels and cls is CheckpointFunction:
        func, preserve_rng_state, *own = args
        return checkpoint(func, preserve_rng_state=preserve_rng_state)(*own)
    original = ORIGINAL.__get__(None, cls)
    if not levels:
        return original(*args, **kwargs)
    if not any(isinstance(leaf, Wrapper) for leaf in pytree.flatten((args, kwargs))[0]):
        if not mode_is_on():
            return original(*args, **kwargs)
        if isinstance(levels[0], INTERPRETERS):
            with Beneath(levels[0]):
                out = original(*args, **kwargs)
            return levels[-1].lift(out)
    if _is_setup_context_defined(cls.setup_context):
        bound = inspect.signature(cls.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        args = bound.args
    rules = FunctionRules(cls, args)
    outs = apply(rules, rules.leaves)[: rules.arity]
    for place, index in rules.overwritten.items():
        outs[index] = overwrite(cls, rules.leaves[place], outs[index])
    return outs[0] if rules.single else tuple(outs)


def overwrite(cls: Any, handle: Any, out: Any) -> Any:
    """Let an input that ``forward`` wrote and returned take over its new value."""
    if not isinstance(handle, Wrapper) or handle.level is not out.level:
        raise MutationError(
            explain(
                cls.__name__,
                "it writes into an input that does not belong to the innermost "
                "transform.",
                "pass a copy (x.clone())",
            )
        )
    alias.write(handle, out)
    return handle
