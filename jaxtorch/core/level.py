"""Levels, the wrapper tensor, and the hand-over of every ATen call to a level.

A wrapper is a handle on a value at one level. ``dispatch`` finds the innermost level
among the arguments and lets that level process the call; the level calls ordinary torch
functions on what is inside, and PyTorch's dispatcher brings the outer levels back in
here. While a level is open a dispatch mode is on, so that operations without a wrapper
(``torch.zeros(3)``, ``torch.rand(3)``) are seen as well: their fresh results become
handles that can be written. Nothing here knows an operator by name.
"""

import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

from jaxtorch.core import alias, hooks
from jaxtorch.core.handle import Handle
from jaxtorch.core.plain import any_requires_grad, heed_lazy_bits, saves_for_backward
from jaxtorch.core.primitive import (
    PRIMITIVES,
    Kind,
    Primitive,
    primitive_of,
    resizes,
)
from jaxtorch.core.rewording import reworded
from jaxtorch.errors import MutationError, RandomnessError, UsageError, explain

DEAD = 1 << 60
FRONT = DEAD - 1
"""The depth of what stands inside of every transform."""
make_wrapper = Tensor._make_wrapper_subclass
stride_of: Any = Tensor.stride
offset_of: Any = Tensor.storage_offset

# PyTorch reads the number of a 0-dim index, as in x[i], unless the index has this key;
# then it is taken as a tensor. The key does nothing else, as it is shut while a level
# is open.
INDEX_KEY = torch._C.DispatchKey.FuncTorchBatched
INDEX_KEYS = torch._C.DispatchKeySet(INDEX_KEY)


class Wrapper(Handle):
    """A handle on a value at a level: its shape and strides, with an empty storage."""

    __slots__ = ()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        heed_lazy_bits()
        return dispatch(func, args, kwargs or {})

    def rebind(self, other: Self) -> None:
        """Take over the value of another wrapper of the same level."""
        raise NotImplementedError

    def keep_history(self, old: Any) -> Any:
        """Return this value with the history of ``old``: a write under no_grad.

        As in PyTorch, such a write changes the value and leaves the derivative.
        """
        return self

    def with_value(self, value: Tensor) -> Tensor:
        """Return ``value``, of this level or below, with this one's derivatives."""
        raise NotImplementedError


def make_index(kind: type[Wrapper], value: Tensor) -> Any:
    """Make a wrapper of a 0-dim tensor that differs between examples."""
    return make_wrapper(
        kind, (), (), 0, None, value.dtype, torch.strided, value.device, False, False,
        None, False, False, INDEX_KEYS,
    )  # fmt: skip


def is_index(value: Tensor) -> bool:
    """Tell whether a 0-dim value was made by ``make_index``."""
    return isinstance(value, Wrapper) and torch._C._dispatch_keys(value).has(INDEX_KEY)


class Level:
    """One open transform call. Subclasses are the interpreters."""

    transform = "?"
    lifts_random = False

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> Self:
        state = STATE
        levels = state.levels
        if not levels:
            state.shut = torch._C._dispatch_tls_is_dispatch_key_excluded(INDEX_KEY)
            torch._C._dispatch_tls_set_dispatch_key_excluded(INDEX_KEY, True)
            state.include = torch._C._dispatch_tls_local_include_set()
            state.exclude = torch._C._dispatch_tls_local_exclude_set()
            torch._C._push_on_torch_dispatch_stack(state.mode)
            hooks.hold()
        levels.append(self)
        self.depth = len(levels)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        levels = STATE.levels
        del levels[self.depth - 1 :]
        self.depth = DEAD
        if not levels:
            torch._C._pop_torch_dispatch_stack(None)
            torch._C._dispatch_tls_set_dispatch_key_excluded(INDEX_KEY, STATE.shut)
            hooks.drop()
        if error is not None and (told := reworded(self.transform, error)):
            raise told from error

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        """Run one primitive whose arguments may be wrappers of this level."""
        raise NotImplementedError

    def run_custom(self, custom: Any, leaves: list[Any]) -> list[Any]:
        """Run a function with rules of its own, where this level has none for it."""
        return custom.call(leaves)  # type: ignore[no-any-return]

    def adopt(self, tensor: Any) -> Any:
        """Return a handle that a tensor from outside can be written by, or itself."""
        return tensor

    def lift(self, out: Any) -> Any:
        """Wrap a fresh plain tensor as a constant of this level."""
        raise NotImplementedError

    def unwrap_dead(self, wrapper: Wrapper) -> Tensor:
        """Return the value of a wrapper that outlived this level."""
        return wrapper.value


class TransformMode(TorchDispatchMode):
    """On while any level is open; sees the calls that the user's functions make.

    A fresh result belongs to the innermost level, also where its arguments are of outer
    ones: only so can a value of the innermost level be written into it.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Keeps torch from wrapping the hot path below in torch._disable_dynamo.
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        heed_lazy_bits()
        out = dispatch(func, args, kwargs or {})
        levels = STATE.levels
        first = out[0] if type(out) in (list, tuple) and out else out
        if isinstance(first, Wrapper) and levels:
            if first.level.depth < levels[-1].depth and PRIMITIVES[func].plain:
                return levels[-1].lift(out)
        return out


class State(threading.local):
    """The open levels of this thread, and the dispatch keys outside of them."""

    def __init__(self) -> None:
        self.levels: list[Level] = []
        self.mode = TransformMode()  # type: ignore[no-untyped-call]
        self.include: Any = None
        self.exclude: Any = None
        self.shut = False


STATE = State()


class Below:
    """Within it only the levels outside ``level`` are open; sampling runs in it."""

    def __init__(self, level: Level) -> None:
        self.kept = STATE.levels
        self.outer = self.kept[: level.depth - 1]

    def __enter__(self) -> None:
        STATE.levels = self.outer
        self.pushed = bool(self.outer) and not mode_is_on()
        if self.pushed:
            torch._C._push_on_torch_dispatch_stack(STATE.mode)

    def __exit__(self, *unused: object) -> None:
        if self.pushed:
            torch._C._pop_torch_dispatch_stack(None)
        STATE.levels = self.kept


def mode_is_on() -> bool:
    """Tell whether the mode is the next to see a call."""
    top = torch._C._len_torch_dispatch_stack() - 1
    return top >= 0 and torch._C._get_dispatch_stack_at(top) is STATE.mode


class Paused:
    """Within it the mode is off."""

    def __enter__(self) -> None:
        torch._C._pop_torch_dispatch_stack(None)

    def __exit__(self, *unused: object) -> None:
        torch._C._push_on_torch_dispatch_stack(STATE.mode)


PAUSED = Paused()
UNCHANGED = contextlib.nullcontext()


def paused() -> Any:
    """Turn the mode off where it is on; only wrappers dispatch, 1 us faster per call.

    For code that neither samples nor writes in place: reading a tape.
    """
    if STATE.levels and mode_is_on():
        return PAUSED
    return UNCHANGED


def tracked_by_autograd() -> Any:
    """Let torch.autograd record the plain tensors, as outside of every level."""
    return torch._C._ForceDispatchKeyGuard(STATE.include, STATE.exclude)


def innermost(args: Sequence[Any]) -> Level | None:
    """Return the innermost level of the wrappers in ``args``; refresh stale views."""
    level = None
    depth = 0
    for arg in args:
        if isinstance(arg, Wrapper):
            if arg.alias is not None:
                alias.refresh(arg)
            if arg.level.depth > depth:
                level = arg.level
                depth = level.depth
        elif type(arg) is list or type(arg) is tuple:
            nested = innermost(arg)
            if nested is not None and nested.depth > depth:
                level = nested
                depth = level.depth
    return level


def dispatch(func: OpOverload, args: Any, kwargs: Any) -> Any:
    """Process one ATen call at the innermost level among its arguments."""
    level = innermost(args)
    if kwargs:
        nested = innermost(tuple(kwargs.values()))
        if nested is not None and (level is None or nested.depth > level.depth):
            level = nested
    primitive = PRIMITIVES.get(func) or primitive_of(func)
    if level is None:
        return dispatch_plain(primitive, args, kwargs)
    if level.depth >= DEAD:
        args = [unwrap_dead(a) for a in args]
        kwargs = {k: unwrap_dead(v) for k, v in kwargs.items()}
        if torch.is_grad_enabled() and STATE.include and any_requires_grad(args):
            with tracked_by_autograd():
                return func(*args, **kwargs)
        return func(*args, **kwargs)
    if primitive.simple:
        return level.process(primitive, args, kwargs)
    if level.depth == FRONT:
        return level.process(primitive, args, kwargs)
    kind = primitive.kind
    if kind is Kind.FUNCTIONAL:
        if primitive.by_strides is not None:
            return primitive.by_strides(*args, **kwargs)
        out = primitive.select(*args)
        return level.process(primitive, args, kwargs) if out is None else out
    if kind is Kind.VIEW:
        return dispatch_view(level, primitive, args, kwargs)
    if kind is Kind.RANDOM:
        return dispatch_random(primitive, args, kwargs)
    if kind is Kind.OUT:
        raise UsageError(
            explain(
                level.transform,
                f"the out= form {func} can't run under a transform.",
                "drop out= and use the result",
            )
        )
    return dispatch_mutation(level, primitive, args, kwargs)


def unwrap_dead(arg: Any) -> Any:
    """Replace wrappers of closed levels by their values, in nested lists too."""
    if isinstance(arg, Wrapper) and arg.level.depth >= DEAD:
        return unwrap_dead(arg.level.unwrap_dead(arg))
    if type(arg) is list or type(arg) is tuple:
        return type(arg)(unwrap_dead(a) for a in arg)
    return arg


def dispatch_plain(primitive: Primitive, args: Any, kwargs: Any) -> Any:
    """Run a call on plain tensors; its fresh results become the top level's handles."""
    levels = STATE.levels
    kind = primitive.kind
    if kind is Kind.RANDOM and levels:
        return dispatch_random(primitive, args, kwargs)
    func = primitive.overload
    if not levels or kind is Kind.OUT or kind is Kind.VIEW:
        if func is not torch.ops.aten.lift_fresh.default:
            return func(*args, **kwargs)
    if kind is Kind.MUTATION:
        refuse_random_write(primitive)
        return func(*args, **kwargs)
    if torch.is_grad_enabled() and any_requires_grad(args):
        with tracked_by_autograd():
            out = func(*args, **kwargs)
    else:
        out = func(*args, **kwargs)
    return levels[-1].lift(out) if levels else out


DETACH = torch.ops.aten.detach.default


def dispatch_view(level: Level, primitive: Primitive, args: Any, kwargs: Any) -> Any:
    """Run a view and tie its results to the tensor they were taken from."""
    if primitive.overload is DETACH and saves_for_backward():
        return level.process(primitive_of(torch.ops.aten.alias.default), args, kwargs)
    parent = args[0]
    if primitive.by_strides is not None:
        out = primitive.by_strides(*args, **kwargs)
    else:
        out = level.process(primitive, args, kwargs)
    if isinstance(parent, Wrapper):
        func = primitive.overload
        rest = args[1:]
        if isinstance(out, Wrapper):
            if out is not parent:
                alias.link(out, parent, func, (rest, kwargs, None))
        elif isinstance(out, (list, tuple)):
            for index, view in enumerate(out):
                alias.link(view, parent, func, (rest, kwargs, index))
    return out


def dispatch_random(primitive: Primitive, args: Any, kwargs: Any) -> Any:
    """Sample at the top level, whose rule samples at the next level below."""
    levels = STATE.levels
    if not levels:
        return primitive.overload(*args, **kwargs)
    level = levels[-1]
    with Below(level):
        return level.process(primitive, args, kwargs)


def refuse_random_write(primitive: Primitive) -> None:
    """Refuse to fill a captured tensor with random numbers under vmap."""
    twin = primitive.functional
    if twin is None or primitive_of(twin).kind is not Kind.RANDOM:
        return
    for level in STATE.levels:
        if level.lifts_random:
            raise RandomnessError(
                explain(
                    level.transform,
                    f"called random operation {primitive.overload} on a tensor "
                    "that is not batched.",
                    "create the tensor inside the function, or pass it as an argument",
                )
            )


def is_outside(level: Level, arg: Any) -> bool:
    """Tell whether an argument means the same outside of a level: it is a constant."""
    if isinstance(arg, (list, tuple)):
        return all(is_outside(level, a) for a in arg)
    return not isinstance(arg, Wrapper) or arg.level is not level or arg.is_constant()


def outside(level: Level, arg: Any) -> Any:
    """Return what an argument is outside of a level."""
    if isinstance(arg, (list, tuple)):
        return [outside(level, a) for a in arg]
    return arg.value if isinstance(arg, Wrapper) and arg.level is level else arg


def dispatch_mutation(
    level: Level, primitive: Primitive, args: Any, kwargs: Any
) -> Any:
    """Compute an in-place operation out of place and rebind its target."""
    if primitive.record is not None and primitive.record.decompose is not None:
        return primitive.record.decompose(*args, **kwargs)
    target, *_ = args = (level.adopt(args[0]), *args[1:])
    func = primitive.overload
    if not isinstance(target, Wrapper) or level.depth > target.level.depth:
        if not kwargs and all(is_outside(level, a) for a in args):
            return dispatch(func, [outside(level, a) for a in args], kwargs)
        raise MutationError(
            explain(
                level.transform,
                f"the in-place operation {func} writes a value of this transform into "
                "a tensor that was captured from outside the function.",
                "write into a copy made inside the function (x = x.clone()), or return "
                "the new value; for the statistics of a batch norm take model.eval() "
                "or replace_all_batch_norm_modules_(model)",
            )
        )
    if primitive.functional is None or resizes(primitive):
        raise UsageError(
            explain(
                level.transform,
                f"the in-place operation {func} has no out-of-place form.",
                "use an operation that returns a new tensor; make deepcopies outside "
                "of the function",
            )
        )
    if primitive.defaults is not None:
        args = (*args, *primitive.defaults[len(args) :])
    out = dispatch(primitive.functional, args, kwargs)
    if torch.Tag.inplace_view in func.tags:
        hidden = level.process(primitive_of(torch.ops.aten.alias.default), [target], {})
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
        alias.restride(target, hidden, out)
        return target
    if out.shape != target.shape:
        raise MutationError(
            explain(
                level.transform,
                f"{func} can't write a result of shape {list(out.shape)} into a "
                f"tensor of shape {list(target.shape)}.",
                "use the out-of-place operation",
            )
        )
    if out.dtype != target.dtype:
        out = out.to(target.dtype)
    if out.level is not target.level:
        raise MutationError(
            explain(
                level.transform,
                f"{func} on a tensor that is not batched would make it different "
                "for each example.",
                "create the tensor inside the function",
            )
        )
    alias.write(target, out)
    return target
