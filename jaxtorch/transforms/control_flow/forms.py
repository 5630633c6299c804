"""What the branches and loops share: flat tensors, closed functions, checks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core import alias
from jaxtorch.core.batching import BatchTensor
from jaxtorch.core.level import STATE, Wrapper
from jaxtorch.errors import ArgumentTypeError, explain
from jaxtorch.staging.subgraph import Kind, Subgraph, kind_of, trace, written
from jaxtorch.staging.tracer import TraceLevel, TraceTensor, user_line

NUMBERS = (bool, int, float, complex)
BATCHED = "batched"
TRACED = "traced"


class Form(NamedTuple):
    """How to put flat tensors back into a tree.

    Attributes:
        spec: the structure of the tree.
        others: one entry per leaf: None for a tensor, else what the leaf is in a tuple.
        weak: one entry per tensor: whether it was a Python number.
    """

    spec: Any
    others: tuple[Any, ...]
    weak: tuple[bool, ...]

    def join(self, tensors: Sequence[Any]) -> Any:
        """Return the tree with these tensors."""
        found = iter(tensors)
        leaves = [next(found) if own is None else own[0] for own in self.others]
        return pytree.unflatten(leaves, self.spec)

    def fits(self, other: "Form") -> bool:
        """Tell whether trees of both forms have tensors in the same places."""
        return self.spec == other.spec and self.others == other.others


def separate(tree: Any) -> tuple[list[Tensor], Form]:
    """Return the tensors of a tree and its form; Python numbers become tensors."""
    leaves, spec = pytree.flatten(tree)
    tensors: list[Any] = []
    others: list[Any] = []
    weak = []
    for leaf in leaves:
        if isinstance(leaf, (Tensor, *NUMBERS)):
            is_number = not isinstance(leaf, Tensor)
            tensors.append(torch.as_tensor(leaf) if is_number else leaf)
            weak.append(is_number)
            others.append(None)
        else:
            others.append((leaf,))
    return tensors, Form(spec, tuple(others), tuple(weak))


class Closed(NamedTuple):
    """A user's function as a graph of explicit inputs.

    Attributes:
        graph: takes the inputs, then the captured tensors.
        captured: the tensors of all levels that the function reads from outside.
        form: the form of what it returns.
    """

    graph: Subgraph
    captured: list[Tensor]
    form: Form


def close(where: object, call: Callable[..., Any], kinds: Sequence[Kind]) -> Closed:
    """Trace ``call``, a function of flat tensors that returns a tree."""
    forms = []

    def flat(*values: Any) -> list[Any]:
        tensors, form = separate(call(values))
        forms.append(form)
        return tensors

    graph = trace(where, flat, kinds)
    captured, graph.bound = graph.bound, []
    return Closed(graph, captured, forms[0])


def is_traced() -> bool:
    """Tell whether a function is being staged."""
    return any(isinstance(level, TraceLevel) for level in STATE.levels)


def read_flag(where: object, flag: Any) -> bool | str:
    """Return the truth of a scalar, or BATCHED or TRACED where it has none yet."""
    if isinstance(flag, NUMBERS):
        return bool(flag)
    if not isinstance(flag, Tensor) or flag.dim() != 0:
        what = (
            f"a tensor of shape {list(flag.shape)}"
            if isinstance(flag, Tensor)
            else type(flag).__name__
        )
        raise ArgumentTypeError(
            explain(
                where,
                f"the predicate must be a bool or a tensor without dims, got {what}.",
                "reduce it with .all() or .any(), or choose by torch.where",
                *([f"at {user_line()}"] if is_traced() else []),
            )
        )
    value, split = innermost_value(flag)
    if split:
        return BATCHED
    if isinstance(value, TraceTensor) or is_traced():
        return TRACED
    return bool(value)


def innermost_value(tensor: Tensor) -> tuple[Tensor, bool]:
    """Return what is inside all wrappers, and whether it differs between examples."""
    split = False
    while isinstance(tensor, Wrapper) and not isinstance(tensor, TraceTensor):
        if tensor.alias is not None:
            alias.refresh(tensor)
        split = split or (type(tensor) is BatchTensor and tensor.batch_dim is not None)
        tensor = tensor.value
    return tensor, split


def as_flag(tensor: Any) -> Tensor:
    """Return a predicate as a tensor of bools."""
    flag = torch.as_tensor(tensor)
    return flag if flag.dtype is torch.bool else flag != 0


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """Return how often each tensor has been written."""
    return [version_of(tensor) for tensor in tensors]


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor has been written."""
    if isinstance(tensor, Wrapper):
        return 0 if tensor.alias is None else tensor.alias.version
    return 0 if tensor.is_inference() else tensor._version


def refuse_writes(where: object, tensors: Sequence[Tensor], before: list[int]) -> None:
    """Refuse a step that has written into what it was given."""
    if versions(tensors) != before:
        raise written(where)


def refuse_other_carry(
    where: object, form: Form, carry: Sequence[Any], own: Form, news: Sequence[Any]
) -> None:
    """Refuse a step that returns another carry than it took.

    The dtype of a carry that started as a Python number is that of the first step.
    """
    if form.fits(own) and all(
        a.shape == b.shape and (weak or a.dtype == b.dtype)
        for a, b, weak in zip(carry, news, form.weak, strict=True)
    ):
        return
    raise ArgumentTypeError(
        explain(
            where,
            "the function must return a carry of the structure, shapes and dtypes that "
            "it takes.",
            "convert what it returns with .to(dtype) or .expand(shape), or start with "
            "a carry of that kind",
            f"it takes {described(form, carry)};",
            f"it returns {described(own, news)}.",
            *([f"at {user_line()}"] if is_traced() else []),
        )
    )


def described(form: Form, tensors: Sequence[Any]) -> str:
    """Return a tree as text, with the kinds of its tensors."""
    kinds = [str(t if isinstance(t, Kind) else kind_of(t)) for t in tensors]
    return str(form.join(kinds)).replace("'", "")


def cast_weak(form: Form, carry: list[Tensor], news: Sequence[Any]) -> list[Tensor]:
    """Give carries that were Python numbers the dtype that a step returns."""
    return [
        old.to(new.dtype) if weak and old.dtype != new.dtype else old
        for old, new, weak in zip(carry, news, form.weak, strict=True)
    ]
