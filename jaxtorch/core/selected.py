"""``x[mask]`` with a mask that differs between the examples: selected values.

How many elements each example selects is not known, so the read is put off: a
``Selected`` holds all elements and the mask. It is no value of a level but stands
before all of them: each operator on it is rewritten, at once, into operators on all
elements, which take their ordinary way through the levels. So every nesting of
transforms holds here as it does there.

What keeps the numbers right: the size can't be read, neither from Python nor by a
kernel in C++, and only operators that act on each element by itself, and reductions,
are let in. Hidden elements are cut off at both ends: an operand enters with a one in
each hidden place and a reduction writes its neutral value there. Both are fills, whose
derivative is exactly zero even where the hidden one is infinite or NaN.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.core.level import FRONT, Level, Wrapper, make_wrapper
from jaxtorch.core.primitive import Kind, Primitive, primitive_of
from jaxtorch.errors import DataDependentError, explain
from jaxtorch.rules.masked_reads import (
    NO_DIMS_REDUCE_NONE,
    READS,
    REDUCTIONS,
    Read,
    is_elementwise,
)

aten = torch.ops.aten
REMEDY = (
    "reduce the selected elements (sum, mean, amax, var, ...) after elementwise "
    "operators, count them with mask.sum(), or keep all: torch.where(mask, x, fill)"
)
SAME_MASK = "compute the mask once and read with the same tensor: x[mask] * y[mask]"


def refused(what: str, remedy: str = REMEDY) -> DataDependentError:
    """Return the error for what asks how many elements are selected."""
    return DataDependentError(
        explain(
            "vmap",
            f"{what} is not possible: x[mask] with a batched boolean mask has a "
            "data-dependent shape, each example may select a different number of "
            "elements (dynamic shape).",
            remedy,
        )
    )


def refuse(what: str) -> Any:
    """Make a method that refuses."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise refused(what)

    return method


class Selected(Wrapper):
    """All elements, of which the mask hides some; it does not tell its size.

    Attributes:
        value: all elements.
        hidden: where the mask is not set. Its first dim is the mask's; the others have
            size one, so that it broadcasts with ``value``.
        tied: it has views, or is one; then it can't be written.
        token: tells reads by the same mask.
    """

    __slots__ = ("hidden", "tied", "token")

    hidden: Tensor
    tied: bool
    token: "Token"

    shape = property(refuse("reading its shape"))
    size = refuse("reading its size()")
    numel = refuse("reading its numel()")
    tolist = refuse("tolist()")
    numpy = refuse("numpy()")
    __len__ = refuse("len()")
    __iter__ = refuse("iterating over it")

    def describe(self) -> str:
        return f"Selected(of {self.value},\nhidden={self.hidden})"


class Token:
    """What a mask was when it was read; a later write into the mask changes it."""

    __slots__ = ("level", "value", "dim", "shape")

    def __init__(self, mask: Wrapper, shape: torch.Size) -> None:
        self.level = mask.level
        self.value = mask.value
        self.dim = getattr(mask, "batch_dim", None)
        self.shape = shape

    def same(self, other: "Token") -> bool:
        """Tell whether two reads select the same places."""
        return (
            self.level is other.level
            and self.value is other.value
            and self.dim == other.dim
            and self.shape == other.shape
        )


def make_selected(value: Tensor, hidden: Tensor, token: Token) -> Selected:
    """Make the wrapper; who asks its size, also in C++, asks ``SELECTION``."""
    out: Selected = make_wrapper(
        Selected,
        (),
        dtype=value.dtype,
        device=value.device,
        dispatch_sizes_strides_policy="sizes",
    )
    out.level = SELECTION
    out.value = value
    out.alias = None
    out.hidden = hidden
    out.tied = False
    out.token = token
    return out


def is_batched(value: Tensor) -> bool:
    """Tell whether a value differs between the examples of any open ``vmap``."""
    while isinstance(value, Wrapper):
        if getattr(value, "batch_dim", None) is not None:
            return True
        value = value.value
    return False


def mask_of(index: Any) -> Any:
    """Return the first index of a list, or the mask itself."""
    if isinstance(index, Tensor):
        return index
    return next((i for i in index if i is not None), None)


def select(reader: Callable[..., Read | None], *args: Any) -> Any:
    """Put off a read by a batched mask; None for every other call."""
    given = mask_of(args[1])
    if not is_batched(given) or isinstance(given, Selected):
        return None
    if isinstance(args[0], Selected):
        return None
    read = reader(*args)
    if read is None:
        return None
    x, mask, place = read
    shape = mask.shape
    behind = x.shape[place + len(shape) :]
    if x.shape[place : place + len(shape)] != shape:
        return None
    hidden = torch.logical_not(mask).reshape(-1, *[1] * len(behind))
    value = x.reshape(*x.shape[:place], shape.numel(), *behind)
    value = torch.masked_fill(value, hidden, 1)
    return make_selected(value, hidden, Token(given, shape))


class SelectionLevel(Level):
    """Not the level of a transform: it stands inside of all and rewrites for them."""

    transform = "vmap"

    def __init__(self) -> None:
        self.depth = FRONT

    def process(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        overload = primitive.overload
        if overload in ANSWERS:
            return ANSWERS[overload](args[0])
        if overload in REDUCTIONS and isinstance(args[0], Selected):
            return reduced(overload, args[0], args[1:], kwargs)
        if primitive.kind is Kind.MUTATION:
            return self.write(primitive, args, kwargs)
        if not is_elementwise(overload):
            raise refused(str(overload))
        operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        like = next(a for a in operands if isinstance(a, Selected))
        dtype = shaped_dtype(operands)
        args = [entered(overload, like, dtype, a) for a in args]
        kwargs = {k: entered(overload, like, dtype, v) for k, v in kwargs.items()}
        out = wrap_all(overload(*args, **kwargs), like.hidden, like.token)
        if primitive.kind is Kind.VIEW:
            out.tied = like.tied = True
        return out

    def write(self, primitive: Primitive, args: Sequence[Any], kwargs: Any) -> Any:
        """Compute an elementwise in-place operator out of place and rebind."""
        target = args[0]
        twin = primitive.functional
        constant = not torch.is_grad_enabled() and target.dtype.is_floating_point
        if (
            not isinstance(target, Selected)
            or target.tied
            or constant
            or twin is None
            or primitive.defaults is not None
            or not is_elementwise(twin)
        ):
            raise refused(
                f"the in-place operation {primitive.overload}",
                "use the operation that returns a new tensor",
            )
        out = self.process(primitive_of(twin), args, kwargs)
        target.value = out.value.to(target.dtype)
        return target


SELECTION = SelectionLevel()
ANSWERS: dict[OpOverload, Callable[[Selected], Any]] = {
    aten.dim.default: lambda x: x.value.dim(),
}


def wrap_all(out: Any, hidden: Tensor, token: Token) -> Any:
    """Wrap the outputs of an operator on all elements."""
    if isinstance(out, Tensor):
        return make_selected(out, hidden, token)
    return type(out)(make_selected(o, hidden, token) for o in out)


def shaped_dtype(operands: Sequence[Tensor]) -> torch.dtype:
    """Return what the operands with dims promote to; a read has dims."""
    dtypes = [o.dtype for o in operands if isinstance(o, Selected) or o.dim()]
    return reduce(torch.promote_types, dtypes)


def entered(overload: OpOverload, like: Selected, dtype: torch.dtype, arg: Any) -> Any:
    """Return an operand for all elements; refuse one that does not go along.

    A tensor without dims gets a dim, so it is cast to what it would have promoted to.
    """
    if not isinstance(arg, Tensor):
        return arg
    if isinstance(arg, Selected):
        if arg.token.same(like.token) and arg.hidden.dim() == like.hidden.dim():
            return arg.value
        raise refused(f"{overload} of reads by two masks", SAME_MASK)
    rank = like.hidden.dim()
    if arg.dim() >= rank and arg.shape[-rank] != 1:
        raise refused(f"{overload} of x[mask] and a tensor that is not read by it")
    if arg.dim() == 0 and arg.dtype != torch.bool:
        arg = arg.to(
            torch.result_type(
                torch.empty(1, dtype=dtype, device="meta"),
                torch.empty((), dtype=arg.dtype, device="meta"),
            )
        )
    return torch.masked_fill(arg, like.hidden, 1)


@cache
def place_of(overload: OpOverload, name: str) -> int:
    """Return the place of an argument behind the first; -1 of a keyword."""
    names = [a.name for a in overload._schema.arguments if not a.kwarg_only]
    return names.index(name) - 1 if name in names else -1


def option(overload: OpOverload, name: str, args: Any, kwargs: Any) -> Any:
    """Return an option of a reduction, None where it is not given."""
    place = place_of(overload, name)
    if 0 <= place < len(args):
        return args[place]
    return kwargs.get(name)


def reduced(overload: OpOverload, x: Selected, args: Any, kwargs: Any) -> Any:
    """Reduce; without the dim of the mask the result is a read as well."""
    rank = x.value.dim()
    place = rank - x.hidden.dim()
    dim = option(overload, "dim", args, kwargs)
    dims = [dim] if isinstance(dim, int) else dim
    if dims is not None and not dims and overload in NO_DIMS_REDUCE_NONE:
        raise refused(f"{overload} of no dims")
    if not dims or any(d in (place, place - rank) for d in dims):
        return REDUCTIONS[overload](x.value, x.hidden, *args, **kwargs)
    out = overload(x.value, *args, **kwargs)
    gone = 0
    if not option(overload, "keepdim", args, kwargs):
        gone = sum(d % rank > place for d in dims)
    hidden = x.hidden.reshape(-1, *[1] * (x.hidden.dim() - 1 - gone))
    return wrap_all(out, hidden, x.token)


for _overload, _reader in READS.items():
    primitive_of(_overload).read_by(partial(select, _reader))
