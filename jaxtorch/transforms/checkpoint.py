"""``checkpoint``: run a function again in its pullback instead of storing it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.batching import BatchLevel
from jaxtorch.core.custom import INTERPRETERS, Custom, Leaves, Linear, apply
from jaxtorch.core.level import STATE
from jaxtorch.core.opaque import opaque, standing_for
from jaxtorch.core.plain import any_requires_grad
from jaxtorch.transforms.capturing import Captured
from jaxtorch.transforms.deriving import push_through, record_through
from jaxtorch.transforms.vmap import vmap

torch_checkpoint = torch.utils.checkpoint.checkpoint
# From 2.14 on torch calls the second of these names.
HOOKS = "_checkpoint_without_reentrant_generator"
if hasattr(torch.utils.checkpoint, f"{HOOKS}_impl"):
    HOOKS = f"{HOOKS}_impl"
TORCH_HOOKS = getattr(torch.utils.checkpoint, HOOKS)
Function = Callable[..., Any]
Run = Callable[[Leaves], Leaves]


@opaque
def checkpoint(func: Function | None = None, *, preserve_rng_state: bool = True) -> Any:
    """Recompute a function when its derivative is taken, and store only its inputs.

    Under reverse mode the memory between the forward and the backward computation is
    that of the arguments and the output; the price is one more forward computation. It
    holds at every level: nested transforms, ``vmap``, and torch.autograd outside.
    Values that ``func`` captures from outside (parameters in a closure or in a module)
    count as arguments.

    Args:
        func: a function of tensors, or pytrees of them, that returns the same. It must
            give the same result when it is run again.
        preserve_rng_state: let the second run draw the same random numbers.

    Returns:
        A function of the same arguments. Without ``func``, a decorator.

    Raises:
        UsageError: (a RuntimeError) when it is called, where ``func`` captures a value
            of a transform that is not found among its closure and modules.

    Examples:
        >>> import torch, jaxtorch
        >>> @jaxtorch.checkpoint
        ... def block(x):
        ...     return x.sin().cos().sin()
        >>> x = torch.zeros(2)
        >>> jaxtorch.grad(lambda x: block(x).sum())(x)
        tensor([-0., -0.])

    Source: ``jax.checkpoint`` and ``torch.utils.checkpoint``.
    """
    if func is None:
        return functools.partial(checkpoint, preserve_rng_state=preserve_rng_state)
    inner = func

    @standing_for(inner)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        own, spec = pytree.flatten((args, kwargs))
        found = Captured(inner)
        handles = found.handles
        seen: dict[str, Any] = {}

        def run(leaves: Leaves) -> Leaves:
            values, inputs = leaves[len(own) :], leaves[: len(own)]
            with found.standing_for(values, inputs) as barrier:
                args, kwargs = pytree.unflatten(barrier.inputs, spec)
                outs, seen["spec"] = pytree.flatten(inner(*args, **kwargs))
                results: Leaves = barrier.results(outs)
            return results

        remat = Remat(run, preserve_rng_state, found.tracked)
        return pytree.unflatten(apply(remat, [*own, *handles]), seen["spec"])

    return checkpointed


class Remat(Custom):
    """One call of a checkpointed function.

    What a level computes for it (the mapped function, the pushed tangents, the
    pullback) is a checkpointed function again for the levels outside.
    """

    name = "checkpoint"
    ruled = False

    def __init__(self, run: Run, preserve: bool, tracked: bool) -> None:
        self.run = run
        self.preserve = preserve
        self.tracked = tracked

    def call(self, leaves: Leaves) -> Leaves:
        return self.run(leaves)

    def outside(self, leaves: Leaves) -> Leaves:
        """Let torch.autograd do it, which also knows what the function captures."""
        if not (self.tracked or any_requires_grad(leaves)):
            return self.run(leaves)
        outs = torch_checkpoint(
            lambda *own: self.run(list(own)),
            *leaves,
            use_reentrant=False,
            preserve_rng_state=self.preserve,
        )
        return list(outs)

    def again(self, run: Run, leaves: Leaves) -> Leaves:
        """Run what is derived from the function, checkpointed."""
        return apply(Remat(run, self.preserve, self.tracked), leaves)

    def batch(
        self, level: BatchLevel, values: Leaves, dims: Leaves
    ) -> tuple[Leaves, Leaves]:
        mapped = vmap(
            lambda *own: self.run(list(own)),
            tuple(dims),
            randomness=level.randomness,
            axis_size=level.size,
        )
        outs = self.again(lambda leaves: list(mapped(*leaves)), values)
        return outs, [0 if isinstance(out, Tensor) else None for out in outs]

    def push(self, values: Leaves, tangents: Leaves) -> tuple[Leaves, Leaves]:
        count = len(values)

        def run(leaves: Leaves) -> Leaves:
            outs, pushed = push_through(self.run, leaves[:count], leaves[count:])
            return [*outs, *pushed]

        both = self.again(run, [*values, *tangents])
        half = len(both) // 2
        return both[:half], both[half:]

    def record(self, values: Leaves, wanted: list[bool]) -> tuple[Leaves, Linear]:
        if STATE.levels and not isinstance(STATE.levels[0], INTERPRETERS):
            return record_through(self.run, values, wanted)
        surroundings = Surroundings(values, self.preserve)
        return apply(self, values), Recomputed(self, values, wanted, surroundings)


class Recomputed(Linear):
    """The derivative of a checkpointed call: it runs the function again."""

    def __init__(
        self, remat: Remat, values: Leaves, wanted: list[bool], surroundings: Any
    ) -> None:
        self.remat = remat
        self.values = values
        self.wanted = wanted
        self.surroundings = surroundings

    def through(self, direction: str, own: Leaves) -> Leaves:
        """Run the function again on a tape, and read the tape."""
        count = len(self.values)

        def run(leaves: Leaves) -> Leaves:
            with self.surroundings.restored():
                _, tape = record_through(self.remat.run, leaves[:count], self.wanted)
            read: Run = getattr(tape, direction)
            return read(leaves[count:])

        return self.remat.again(run, [*self.values, *own])

    def pull(self, cotangents: Leaves) -> Leaves:
        return self.through("pull", cotangents)

    def push(self, tangents: Leaves) -> Leaves:
        return self.through("push", tangents)


class Surroundings:
    """What a function's result depends on besides its arguments.

    The states of the random generators and of autocast.
    """

    def __init__(self, values: Leaves, preserve: bool) -> None:
        tensors = [value for value in values if isinstance(value, Tensor)]
        self.kinds = sorted({"cpu", *(t.device.type for t in tensors)})
        self.casts = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in self.kinds
            if torch.amp.is_autocast_available(kind)
        ]
        self.states = self.read() if preserve else None

    def read(self) -> list[Any]:
        """Read the states of the random generators."""
        with torch._C._DisableTorchDispatch():
            states = [torch.get_rng_state()]
            if "cuda" in self.kinds:
                states.extend(torch.cuda.get_rng_state_all())
        return states

    def write(self, states: list[Any]) -> None:
        """Set the states of the random generators."""
        with torch._C._DisableTorchDispatch():
            torch.set_rng_state(states[0])
            if "cuda" in self.kinds:
                torch.cuda.set_rng_state_all(states[1:])

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Within it they are as they were when this was made."""
        now = None if self.states is None else self.read()
        with contextlib.ExitStack() as stack:
            for kind, dtype, enabled in self.casts:
                stack.enter_context(torch.autocast(kind, dtype, enabled))
            if self.states is not None:
                self.write(self.states)
            try:
                yield
            finally:
                if now is not None:
                    self.write(now)


def hooks_inside(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Stand in for what ``torch.utils.checkpoint`` does around the call.

    Reached where the user's module holds torch's function itself: the call is recorded
    as any other, as torch's saved-tensor hooks can't recompute values of closed levels.
    """
    if STATE.levels:
        yield
    else:
        yield from TORCH_HOOKS(*args, **kwargs)


def checkpoint_inside(func: Function | None = None, *args: Any, **kwargs: Any) -> Any:
    """Stand in for ``torch.utils.checkpoint.checkpoint`` while a level is open."""
    rest = {k: kwargs.pop(k, None) for k in OPTIONS}
    if func is None or not STATE.levels or rest["context_fn"] is not None:
        given = {k: v for k, v in rest.items() if v is not None}
        return torch_checkpoint(func, *args, **given, **kwargs)
    preserve = rest["preserve_rng_state"] is not False
    return checkpoint(func, preserve_rng_state=preserve)(*args, **kwargs)


OPTIONS = (
    "use_reentrant",
    "preserve_rng_state",
    "context_fn",
    "determinism_check",
    "debug",
    "early_stop",
    "respect_saved_tensors_hooks",
)
