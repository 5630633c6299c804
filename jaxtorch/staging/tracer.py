"""Tracing: records a function, through all transforms inside it, as one flat graph.

The tracer is the outermost level. Its wrappers hold meta tensors, so nothing is
computed; every call that reaches it becomes a node. A second dispatch mode, below the
one of the transforms, hands it the calls that rules make on plain tensors. A trace
within another (the body of a loop) takes values of the levels around it as captured
tensors. Optimizing and running the graph is not done here.
"""

import traceback
from collections.abc import Sequence
from operator import getitem
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

from jaxtorch.core import alias
from jaxtorch.core.level import (
    INDEX_KEYS,
    STATE,
    Level,
    TransformMode,
    Wrapper,
    dispatch,
    innermost,
    make_wrapper,
    offset_of,
    stride_of,
)
from jaxtorch.core.primitive import Kind, Primitive, primitive_of
from jaxtorch.errors import (
    DataDependentError,
    MissingRuleError,
    MutationError,
    explain,
)
from jaxtorch.kernels import PLAIN
from jaxtorch.staging.custom_call import Noted, run_custom, with_calls
from jaxtorch.staging.passes.constants import NotConstantError, evaluate
from jaxtorch.staging.passes.rewriting import run_on_meta
from jaxtorch.staging.untracked import UNTRACKED

aten = torch.ops.aten


class TraceTensor(Wrapper):
    """A value of the graph: a meta tensor for its shape, and the node that makes it."""

    __slots__ = ("node",)

    node: fx.Node
    level: "TraceLevel"

    def rebind(self, other: Self) -> None:
        self.value = other.value
        self.node = other.node

    def with_value(self, value: Tensor) -> Tensor:
        self.level.note_lost_history(self.node)
        return value

    def keep_history(self, old: Any) -> Any:
        self.level.note_lost_history(old.node)
        return self

    def tolist(self) -> Any:
        if self.alias is not None:
            alias.refresh(self)
        (value,) = self.level.values_of("tolist", [self])
        return value.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if self.alias is not None:
            alias.refresh(self)
        (value,) = self.level.values_of("numpy", [self])
        return value.numpy(force=force)

    def __repr__(  # type: ignore[override]
        self, *, tensor_contents: Any = None
    ) -> str:
        return f"TraceTensor({list(self.shape)}, {self.dtype}, {self.node})"


PLAIN.add(TraceTensor)


class TraceMode(TorchDispatchMode):
    """Sees the calls of rules that have no wrapper among their arguments."""

    def __init__(self, level: "TraceLevel") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.level = level

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            if is_outside(self.level, args, kwargs):
                return self.level.trace_plain(primitive_of(func), args, kwargs)
            return dispatch(func, args, kwargs)


class NestedMode(TransformMode):
    """The mode of the transforms within a trace that other levels are open around."""

    def __init__(self, level: "TraceLevel") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.level = level

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any_wrapper(args, kwargs) and is_outside(self.level, args, kwargs):
            out = self.level.trace_plain(primitive_of(func), args, kwargs)
            if STATE.levels[-1] is self.level or not primitive_of(func).plain:
                return out
            return STATE.levels[-1].lift(out)
        return super().__torch_dispatch__(func, types, args, kwargs)


def is_outside(level: "TraceLevel", args: Any, kwargs: Any) -> bool:
    """Tell whether no argument belongs to ``level`` or to a level opened within it."""
    for group in (args, tuple(kwargs.values())):
        found = innermost(group)
        if found is not None and found.depth >= level.depth:
            return False
    return True


def any_wrapper(args: Any, kwargs: Any) -> bool:
    """Tell whether any argument is a wrapper of an open level."""
    return innermost(args) is not None or innermost(tuple(kwargs.values())) is not None


class TraceLevel(Level):
    """One trace: the graph, and the tensors that it captures by reference."""

    transform = "jit"

    def __init__(self, optimize: str = "full") -> None:
        super().__init__()
        self.optimize = optimize
        self.graph = fx.Graph()
        self.captured: dict[int, tuple[Tensor, TraceTensor]] = {}
        self.literals: dict[fx.Node, Tensor] = {}
        self.inputs: list[TraceTensor] = []
        self.loses_history = False
        self.noted: list[Noted] = []
        self.holds_rules = False
        self.loses_rules = False
        self.mode = TraceMode(self)

    def __enter__(self) -> Self:
        self.mode.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()
        self.grad_mode = torch.is_grad_enabled()
        self.outer_mode = STATE.mode
        if self.depth > 1:
            STATE.mode = NestedMode(self)
            torch._C._push_on_torch_dispatch_stack(STATE.mode)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if STATE.mode is not self.outer_mode:
            torch._C._pop_torch_dispatch_stack(None)
            STATE.mode = self.outer_mode
        try:
            super().__exit__(kind, error, trace)
        finally:
            self.mode.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def note_lost_history(self, old: fx.Node) -> None:
        """Note that a write kept the derivative of a value, which no graph can say.

        It matters to torch.autograd outside, and only where the value was computed from
        an input or a captured tensor.
        """
        stack, seen = [old], {old}
        while stack:
            node = stack.pop()
            if node.op == "placeholder":
                self.loses_history = True
            fresh = [n for n in node.all_input_nodes if n not in seen]
            seen.update(fresh)
            stack.extend(fresh)

    def add_input(self, tensor: Tensor) -> TraceTensor:
        """Add an argument of the function to the graph."""
        node = self.graph.placeholder(f"x{len(self.inputs)}")
        handle = self.wrap(to_meta(tensor), node, tensor.device)
        self.inputs.append(handle)
        return handle

    def capture(self, tensor: Tensor) -> TraceTensor:
        """Return the handle of a tensor from outside, which the graph reads anew."""
        found = self.captured.get(id(tensor))
        if found is None:
            with self.graph.inserting_before(self.first_call()):
                node = self.graph.placeholder(f"c{len(self.captured)}")
            found = tensor, self.wrap(to_meta(tensor), node, tensor.device)
            self.captured[id(tensor)] = found
        return found[1]

    def handle(self, tensor: Tensor) -> TraceTensor:
        """Return the handle of a value of this level, or of one from outside."""
        own = type(tensor) is TraceTensor and tensor.level is self
        handle: Any = tensor if own else self.capture(tensor)
        if handle.alias is not None:
            alias.refresh(handle)
        return handle  # type: ignore[no-any-return]

    def run_custom(self, custom: Any, leaves: list[Any]) -> list[Any]:
        return run_custom(self, custom, leaves)

    def ruled(self) -> fx.Graph:
        """Return the graph, after the trace, with functions that have rules as calls.

        The traces around this one are told.
        """
        if not self.noted:
            return self.graph
        for each in STATE.levels:
            if isinstance(each, TraceLevel):
                each.holds_rules = True
                each.loses_rules |= self.loses_rules
        return with_calls(self.graph, self.noted)

    def first_call(self) -> Any:
        """Return the first node that is not a placeholder, or the end of the graph."""
        for node in self.graph.nodes:
            if node.op != "placeholder":
                return node
        return self.graph._root

    def wrap(self, value: Tensor, node: fx.Node, device: torch.device) -> TraceTensor:
        """Make the handle of a node."""
        node.meta["val"] = value
        node.meta["device"] = device
        index = not value.shape and not value.dtype.is_floating_point
        keys = (False, False, None, False, False, INDEX_KEYS) if index else ()
        out: TraceTensor = make_wrapper(
            TraceTensor,
            value.shape,
            value.stride(),
            value.storage_offset(),
            None,
            value.dtype,
            torch.strided,
            device,
            *keys,
        )
        out.level = self
        out.value = value
        out.node = node
        out.alias = None
        return out

    def adopt(self, tensor: Any) -> Any:
        if isinstance(tensor, Wrapper) or not isinstance(tensor, Tensor):
            return tensor
        if tensor.requires_grad and torch.is_grad_enabled():
            raise MutationError(
                explain(
                    "jit",
                    "the function writes into a captured tensor that requires grad.",
                    "pass the tensor as an argument, write under torch.no_grad(), or "
                    "return the new value",
                    f"at {user_line()}",
                )
            )
        return self.capture(tensor)

    def lift(self, out: Any) -> Any:
        return out

    def trace_plain(self, primitive: Primitive, args: Any, kwargs: Any) -> Any:
        """Record a call that has no wrapper among its arguments."""
        if primitive.overload is aten.lift_fresh.default:
            return self.literal(args[0])
        if primitive.kind is Kind.MUTATION:
            return dispatch(
                primitive.overload, (self.adopt(args[0]), *args[1:]), kwargs
            )
        if primitive.kind is Kind.VIEW and isinstance(args[0], Tensor):
            args = (self.capture(args[0]), *args[1:])
            return dispatch(primitive.overload, args, kwargs)
        return self.process(primitive, args, kwargs)

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        overload = primitive.overload
        if overload is aten.index.Tensor and any_mask(args[1]):
            args = (args[0], self.without_masks(args[1]))
        elif overload is aten.index_put.default and not args[0].dim():
            return put_whole(*args)
        elif depends_on_values(overload):
            out = self.constant(overload, args, kwargs)
            return pytree.tree_map_only(Tensor, self.literal, out)
        if primitive.record is not None and primitive.record.decompose is not None:
            return primitive.record.decompose(*args, **kwargs)
        out = overload.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        devices: list[torch.device] = []
        values, nodes = self.unwrap(args, devices)
        named: dict[str, Any] = {}
        named_nodes: dict[str, Any] = {}
        for key, arg in kwargs.items():
            (named[key],), (named_nodes[key],) = self.unwrap([arg], devices)
        device = kwargs.get("device") or (devices[0] if devices else None)
        if device is None:
            device = torch.get_default_device()
        if "device" in named or not devices:
            named["device"] = torch.device("meta")
        with torch._C._DisableTorchDispatch():
            out = on_meta(overload, values, named)
        if not devices and isinstance(out, Tensor):
            named_nodes |= defaults_of(overload, out.dtype, torch.device(device))
        node = self.graph.call_function(overload, tuple(nodes), named_nodes)
        return self.wrap_output(out, node, torch.device(device))

    def unwrap(
        self, args: Sequence[Any], devices: list[torch.device]
    ) -> tuple[list[Any], list[Any]]:
        """Split arguments into meta values and graph nodes; note the devices met."""
        values: list[Any] = []
        nodes: list[Any] = []
        for arg in args:
            if isinstance(arg, Tensor):
                own = type(arg) is TraceTensor and arg.level is self
                handle: Any = arg if own else self.capture(arg)
                devices.append(handle.device)
                values.append(handle.value)
                nodes.append(handle.node)
            elif type(arg) is list or type(arg) is tuple:
                inner, inner_nodes = self.unwrap(arg, devices)
                values.append(inner)
                nodes.append(inner_nodes)
            else:
                values.append(arg)
                nodes.append(arg)
        return values, nodes

    def wrap_output(self, out: Any, node: fx.Node, device: torch.device) -> Any:
        """Wrap the tensors of an output; several are taken out of the node's tuple."""
        if isinstance(out, Tensor):
            return self.wrap(out, self.marked(out, node, device), device)
        if isinstance(out, (list, tuple)):
            node.meta["val"] = tuple(out)
            node.meta["device"] = device
            pick = self.graph.call_function
            wrapped = [
                self.wrap_output(o, pick(getitem, (node, i)), device)
                if isinstance(o, Tensor)
                else o
                for i, o in enumerate(out)
            ]
            return wrapped if isinstance(out, list) else tuple(wrapped)
        return out

    def marked(self, value: Tensor, node: fx.Node, device: torch.device) -> fx.Node:
        """Return a node, and under ``torch.no_grad`` one that stops its derivative."""
        if torch.is_grad_enabled() or not self.grad_mode:
            return node
        if not (value.is_floating_point() or value.is_complex()):
            return node
        node.meta["val"] = value
        node.meta["device"] = device
        mark: Any = UNTRACKED
        return self.graph.call_function(mark, (node,))

    def literal(self, tensor: Tensor) -> Any:
        """Return a fresh copy of a tensor that the function itself has made."""
        handle = self.capture(tensor)
        self.literals[handle.node] = tensor
        return aten.clone.default(handle)

    def without_masks(self, indices: Sequence[Any]) -> list[Any]:
        """Replace masks that are constant by the places that they select."""
        out: list[Any] = []
        for index in indices:
            if is_mask(index):
                places = self.constant(aten.nonzero_numpy.default, [index], {})
                out += map(self.literal, places)
            else:
                out.append(index)
        return out

    def constant(self, overload: OpOverload, args: Any, kwargs: Any) -> Any:
        """Run a call now that depends on nothing from outside; refuse any other."""
        values = self.values_of(overload, [*args, *kwargs.values()])
        named = dict(zip(kwargs, values[len(args) :], strict=True))
        with torch.no_grad(), torch._C._DisableTorchDispatch():
            return overload(*values[: len(args)], **named)

    def values_of(self, what: object, args: Sequence[Any]) -> list[Any]:
        """Return the arguments of a call as plain tensors, if they are constant."""
        try:
            return evaluate(self.unwrap(args, [])[1], self.literals)
        except NotConstantError as error:
            raise DataDependentError(
                explain(
                    "jit",
                    f"{what} depends on the values of a tensor, which are not "
                    "known while a function is staged.",
                    "use torch.where, or jaxtorch.cond and while_loop, or compute the "
                    "value outside and pass it as a static argument",
                    f"at {user_line()}",
                )
            ) from error


def defaults_of(
    overload: OpOverload, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Spell out what a call without tensors takes from the defaults of its time."""
    taken = {argument.name for argument in overload._schema.arguments}
    found = {"dtype": dtype, "device": device}
    return {name: value for name, value in found.items() if name in taken}


def depends_on_values(overload: OpOverload) -> bool:
    """Tell whether the result can't be known before the values are."""
    tags = overload.tags
    return (
        bool(tags)
        and overload is not aten.index.Tensor
        and (
            torch.Tag.data_dependent_output in tags
            or torch.Tag.dynamic_output_shape in tags
        )
    )


def any_mask(indices: Sequence[Tensor | None]) -> bool:
    """Tell whether any index selects by truth, so that the values decide the shape."""
    return any(map(is_mask, indices))


def put_whole(
    x: Tensor, masks: Sequence[Tensor], value: Tensor, accumulate: bool = False
) -> Tensor:
    """Write where a mask without dims is true; ATen does not for ``x`` without dims."""
    value = value.reshape(())
    return torch.where(masks[0], x + value if accumulate else value, x)


def is_mask(index: Tensor | None) -> bool:
    """Tell whether an index selects by truth."""
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def on_meta(overload: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Run a call on meta tensors; say what is missing where it has no such kernel."""
    try:
        return run_on_meta(overload, args, kwargs)
    except NotImplementedError as error:
        raise MissingRuleError(
            explain(
                "jit",
                f"{overload} can't be staged: it has no kernel for meta tensors.",
                "register a fake implementation (torch.library.register_fake), or call "
                "it outside of jit",
                f"at {user_line()}",
            )
        ) from error


def to_meta(tensor: Tensor) -> Tensor:
    """Return a meta tensor of the same shape, strides, offset and dtype."""
    shape, stride, start = tensor.shape, stride_of(tensor), offset_of(tensor)
    with torch._C._DisableTorchDispatch():
        value = torch.empty_strided(shape, stride, dtype=tensor.dtype, device="meta")
        return value.as_strided(shape, stride, start) if start else value


def user_line() -> str:
    """Return the innermost line of the stack that is neither ours nor torch's."""
    for frame in reversed(traceback.extract_stack()):
        name = frame.filename
        if "/jaxtorch/" not in name and "/torch/" not in name:
            return f"{name}:{frame.lineno}: {frame.line}"
    return "an unknown line"
