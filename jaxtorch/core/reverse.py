"""The reverse interpreter: records a tape of linear operators.

The tape can be read in both directions: ``pull_back`` carries cotangents from the
outputs to the inputs, ``push_forward`` carries tangents from the inputs to the outputs
(that is ``linearize``).
"""

import heapq
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from jaxtorch.core import fallback
from jaxtorch.core.history import keep_derivatives, keep_history
from jaxtorch.core.level import (
    Level,
    Wrapper,
    is_index,
    make_index,
    make_wrapper,
    offset_of,
    stride_of,
)
from jaxtorch.core.primitive import Primitive
from jaxtorch.core.tracking import add_tangents, has_derivative, run_primals, unwrap
from jaxtorch.errors import UsageError, explain

_counter = itertools.count()
LEAF: tuple[Any, ...] = ()
"""The edges of an input of the function; None stands for those of a released node."""


class Node:
    """One recorded primitive: an edge for each input that its output depends on.

    ``arity`` is None for a single output; otherwise cotangents come as a list.
    """

    __slots__ = ("order", "edges", "arity")

    def __init__(self, edges: Any, arity: int | None = None) -> None:
        self.order = next(_counter)
        self.edges = edges
        self.arity = arity


class TapeTensor(Wrapper):
    """A primal and the node that made it; the node None is a constant."""

    __slots__ = ("node", "index")

    node: Node | None
    index: int | None  # type: ignore[assignment]

    def rebind(self, other: Self) -> None:
        self.value = other.value
        self.node = other.node
        self.index = other.index

    def is_constant(self) -> bool:
        return self.node is None

    def keep_history(self, old: Any) -> Any:
        value = keep_history(old.value, self.value)
        return wrap(self.level, value, old.node, old.index)

    def with_value(self, value: Tensor) -> Tensor:
        if isinstance(value, TapeTensor) and value.level is self.level:
            value = value.value
        value = keep_derivatives(self.value, value)
        return wrap(self.level, value, self.node, self.index)

    def describe(self) -> str:
        return f"TapeTensor({self.value})"


def wrap(
    level: "ReverseLevel", value: Tensor, node: Node | None, index: int | None
) -> TapeTensor:
    """Wrap ``value`` as output ``index`` of ``node``."""
    shape = value.shape
    out: TapeTensor
    if shape or not is_index(value):
        out = make_wrapper(
            TapeTensor,
            shape,
            stride_of(value),
            offset_of(value),
            None,
            value.dtype,
            value.layout,
            value.device,
        )
    else:
        out = make_index(TapeTensor, value)
    out.level = level
    out.value = value
    out.node = node
    out.index = index
    out.alias = None
    return out


class ReverseLevel(Level):
    """One open ``vjp``: records while grad mode is on inside the function."""

    transform = "grad"

    def __enter__(self) -> Self:
        super().__enter__()
        self.outer_grad_mode = torch.is_grad_enabled()
        if not self.outer_grad_mode:
            torch._C._set_grad_enabled(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if torch.is_grad_enabled() is not self.outer_grad_mode:
            torch._C._set_grad_enabled(self.outer_grad_mode)
        super().__exit__(kind, error, trace)

    def lift(self, out: Any) -> Any:
        return self.wrap_constant(out)

    def source_of(self, arg: Any) -> Any:
        """Return (node, index) where the argument depends on the inputs."""
        node = arg.node
        return None if node is None else (node, arg.index)

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        recording = torch.is_grad_enabled()
        if self.outer_grad_mode or not recording:
            return self.record(recording, primitive, args, kwargs)
        torch._C._set_grad_enabled(False)
        try:
            return self.record(True, primitive, args, kwargs)
        finally:
            torch._C._set_grad_enabled(True)

    def record(
        self, recording: bool, primitive: Primitive, args: Sequence[Any], kwargs: Any
    ) -> Any:
        """Run a primitive; where its inputs are on the tape, record its operators."""
        values, sources, wanted, tracked = unwrap(self, args, self.source_of)
        if kwargs:
            if recording and any(self.depends(v) for v in kwargs.values()):
                way = fallback.decompose_or_raise
                return self.decompose(way, primitive, args, kwargs)
            kwargs = {k: self.constant(v) for k, v in kwargs.items()}
        if not (wanted and recording):
            out = run_primals(tracked, primitive.overload, values, kwargs)
            return self.wrap_constant(out)
        rule = primitive.linearize
        if rule is None:
            return self.without_rule(tracked, primitive, values, args, kwargs)
        if tracked:
            result = run_primals(tracked, rule, (sources, *values), kwargs)
        else:
            result = rule(sources, *values, **kwargs)
        if result is NotImplemented:
            return self.without_rule(tracked, primitive, values, args, kwargs)
        out, operators = result
        edges: list[Any] = []
        for operator, source in zip(operators, sources, strict=False):
            if source is None:
                continue
            if type(source) is list:
                for each, own in zip(operator, source, strict=True):
                    if own is not None:
                        edges.append((each, own[0], own[1]))
            else:
                edges.append((operator, source[0], source[1]))
        return self.wrap_output(out, edges)

    def without_rule(
        self,
        tracked: bool,
        primitive: Primitive,
        values: list[Any],
        args: Sequence[Any],
        kwargs: Any,
    ) -> Any:
        """Decompose; without a decomposition only what has no derivative may run."""
        out = self.decompose(fallback.decompose, primitive, args, kwargs)
        if out is not NotImplemented:
            return out
        out = run_primals(tracked, primitive.overload, values, kwargs)
        if has_derivative(out):
            raise fallback.missing_derivative(primitive, self)
        return self.wrap_constant(out)

    def decompose(
        self, way: Any, primitive: Primitive, args: Sequence[Any], kwargs: Any
    ) -> Any:
        """Decompose in the function's own grad mode, so that the parts are recorded."""
        with torch.enable_grad():
            return way(self, primitive, args, kwargs)

    def depends(self, arg: Any) -> bool:
        """Tell whether an argument depends on the inputs."""
        return type(arg) is TapeTensor and arg.level is self and arg.node is not None

    def constant(self, arg: Any) -> Any:
        """Unwrap a keyword argument, which no rule differentiates."""
        return arg.value if type(arg) is TapeTensor and arg.level is self else arg

    def wrap_output(self, out: Any, edges: list[Any]) -> Any:
        """Wrap an output as the result of a new node with ``edges``."""
        if not edges:
            return self.wrap_constant(out)
        if isinstance(out, Tensor):
            if not has_derivative(out):
                return wrap(self, out, None, None)
            return wrap(self, out, Node(edges), None)
        node = Node(edges, len(out))
        wrapped = [
            wrap(self, o, node if has_derivative(o) else None, i)
            if isinstance(o, Tensor)
            else o
            for i, o in enumerate(out)
        ]
        return wrapped if isinstance(out, list) else tuple(wrapped)

    def wrap_constant(self, out: Any) -> Any:
        """Wrap an output that does not depend on the inputs."""
        if isinstance(out, Tensor):
            return wrap(self, out, None, None)
        if isinstance(out, (list, tuple)):
            wrapped = [self.wrap_constant(o) for o in out]
            return wrapped if isinstance(out, list) else tuple(wrapped)
        return out


def pull_back(
    roots: Sequence[tuple[Node, int | None]],
    cotangents: Sequence[Tensor],
    leaves: Sequence[Node],
    free: bool,
) -> list[Tensor | None]:
    """Carry cotangents of the roots back to the leaves; None where nothing arrives.

    With ``free`` each node is emptied as soon as it has been read, so that its
    residuals can be released; the tape can then be read only once.
    """
    pending: dict[Node, Any] = {}
    queue: list[tuple[int, Node]] = []
    for (node, index), cotangent in zip(roots, cotangents, strict=True):
        accumulate(pending, queue, node, index, cotangent)
    while queue:
        node = heapq.heappop(queue)[1]
        cotangent = pending.pop(node)
        edges = node.edges
        if edges is None:
            raise UsageError(
                explain(
                    "vjp_fn(retain_graph=False)",
                    "the tape was released by an earlier call.",
                    "call it with retain_graph=True as long as it is needed again",
                )
            )
        if free:
            node.edges = None
        for operator, parent, index in edges:
            pulled = operator.apply_transpose(cotangent)
            if pulled is not None:
                accumulate(pending, queue, parent, index, pulled)
    return [pending.get(leaf) for leaf in leaves]


def accumulate(
    pending: dict[Node, Any],
    queue: list[tuple[int, Node]],
    node: Node,
    index: int | None,
    cotangent: Tensor,
) -> None:
    """Add a cotangent to what has arrived at ``node``; queue it at its first one."""
    own: Any = pending.get(node)
    if own is None:
        if node.edges is not LEAF:
            heapq.heappush(queue, (-node.order, node))
        if index is None:
            pending[node] = cotangent
            return
        own = pending[node] = [None] * (node.arity or 0)
    if index is None:
        pending[node] = own + cotangent
    else:
        old = own[index]
        own[index] = cotangent if old is None else old + cotangent


def push_forward(
    leaves: Sequence[Node],
    tangents: Sequence[Tensor | None],
    roots: Sequence[tuple[Node, int | None]],
) -> list[Tensor | None]:
    """Carry tangents of the leaves forward to the roots; None is a zero."""
    known: dict[Node, Any] = dict(zip(leaves, tangents, strict=True))
    for node in sorted(reachable(roots), key=lambda n: n.order):
        if node in known:
            continue
        total = None
        for operator, parent, index in node.edges:
            tangent = known[parent]
            if index is not None and tangent is not None:
                tangent = tangent[index]
            if tangent is not None:
                total = add_tangents(total, operator.apply(tangent))
        known[node] = total
    out = []
    for node, index in roots:
        tangent = known[node]
        whole = index is None or tangent is None
        out.append(tangent if whole else tangent[index])
    return out


def reachable(roots: Sequence[tuple[Node, int | None]]) -> set[Node]:
    """Return all nodes that the roots depend on, and the roots."""
    seen: set[Node] = set()
    stack = [node for node, _ in roots]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(parent for _, parent, _ in node.edges)
    return seen
