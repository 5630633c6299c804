"""Elementwise calls of ATen in C: the words of kernels, printed for one type."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from jaxtorch.kernels.program import STEPS, Builder, Step, Value, is_finite
from jaxtorch.kernels.vocabulary import WORDS, clamp, same
from jaxtorch.staging.native.loops import TYPES, Scalar
from jaxtorch.staging.passes.rewriting import value_of

aten = torch.ops.aten

Word = Callable[..., Any]
CONDITION, BOOL = "int", TYPES[torch.bool]
LOGIC = ("gt", "ge", "lt", "le", "eq", "ne", "both", "either")
"""Steps that make a condition."""
MATHS = tuple(name for name, meaning in STEPS.items() if "{f}" in meaning.c)
"""Steps that C has for floating point only."""
CHOICES = (
    aten.where.self,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
)
"""Calls whose first argument is a condition."""
BITWISE = (aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.bitwise_not.default)
"""Calls that combine conditions, but the bits of integers."""


def add_product(x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    """Return ``x + value a b``."""
    product = a * b
    return x + (product if value == 1 else product * value)


def add_quotient(x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    """Return ``x + value a / b``."""
    quotient = a / b
    return x + (quotient if value == 1 else quotient * value)


OWN_WORDS: dict[Any, Word] = {
    aten.addcmul.default: add_product,
    aten.addcdiv.default: add_quotient,
    aten.clone.default: same,
    aten._to_copy.default: same,
    aten.hardtanh.default: lambda x, low=-1, high=1: clamp(x, low, high),
}
"""What has no word of a kernel, or another one."""


def word_for(target: Any) -> Word | None:
    """Return the word for an elementwise call."""
    if target is aten.expand.default:
        return None
    return OWN_WORDS.get(target) or WORDS.get(target)


def tensors_in(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that an elementwise call takes, each once."""
    return list(dict.fromkeys(node.all_input_nodes))


def program_of(node: Any) -> tuple[Builder, Any] | None:
    """Write an elementwise call as a program of its own, if there are words for it."""
    word = word_for(node.target)
    if word is None or not all(
        is_finite(a) for a in (*node.args, *node.kwargs.values())
    ):
        return None
    sources = tensors_in(node)
    builder = Builder(len(sources))
    values: dict[Any, Any] = {s: builder.operand(i) for i, s in enumerate(sources)}
    args: Any = fx.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.map_arg({} if word is same else node.kwargs, values.__getitem__)
    made = word(*args, **kwargs)
    return (builder, made) if isinstance(made, Value) else None


def compute_type(node: fx.Node) -> torch.dtype | None:
    """Return the dtype that a call computes in; None where C's would be another one."""
    dtype = value_of(node).dtype
    if dtype is not torch.bool or node.target is aten.clone.default:
        return dtype
    found = torch.bool
    sources: list[Any] = [*node.args]
    tensors = [value_of(s) for s in sources if isinstance(s, fx.Node)]
    for value in tensors:
        found = torch.promote_types(found, value.dtype)
    ranks = [v for v in tensors if v.dim()] or tensors
    if len(ranks) < len(tensors):
        found = torch.result_type(ranks[0], tensors[-1])
    numbers = [s for s in sources if isinstance(s, (int, float))]
    if any(type(s) is float for s in numbers) and not found.is_floating_point:
        return None
    return torch.int64 if found is torch.bool else found


def speaks(node: Any) -> bool:
    """Tell whether an elementwise call can be a line of C."""
    made = program_of(node)
    if made is None:
        return False
    dtype = compute_type(node)
    values = [value_of(source) for source in tensors_in(node)]
    if dtype not in TYPES or any(v.dtype not in TYPES for v in values):
        return False
    names = {step.name for step in made[0].steps}
    if node.target in BITWISE and value_of(node).dtype is not torch.bool:
        return False
    if dtype is torch.bool or not dtype.is_floating_point:
        return names.isdisjoint(MATHS)
    return True


def lines_of(
    node: Any, given: Sequence[Scalar], fresh: Callable[[], str]
) -> tuple[list[str], Scalar]:
    """Return the lines that make an element of a call from elements, and its name."""
    builder, made = program_of(node)  # type: ignore[misc]
    dtype: Any = compute_type(node)
    type_ = TYPES[dtype]
    known = {f"v{i}": converted(s, type_, node, i) for i, s in enumerate(given)}
    lines = []
    for step, name in builder.steps.items():
        own = CONDITION if step.name in LOGIC else type_
        known[name] = Scalar(fresh(), own)
        lines.append(f"const {own} {known[name].text} = {said(step, known, type_)};")
    result = known[made.name]
    if value_of(node).dtype is torch.bool and result.type not in (CONDITION, BOOL):
        truth = Scalar(fresh(), CONDITION)
        lines.append(f"const {CONDITION} {truth.text} = {result.text} != 0;")
        return lines, truth
    return lines, result


def converted(value: Scalar, type_: str, node: Any, place: int) -> Scalar:
    """Return an operand in the type that a call computes in; conditions as they are."""
    chooses = node.target in CHOICES and tensors_in(node)[place] is node.args[0]
    if value.type == type_ or chooses:
        return value
    return Scalar(f"({type_}){value.text}", type_)


def said(step: Step, known: dict[str, Scalar], type_: str) -> str:
    """Return a step in C."""
    args = [
        known[a].text if isinstance(a, str) else literal(a, type_) for a in step.args
    ]
    return STEPS[step.name].c.format(*args, f=ENDINGS.get(type_))


def literal(number: Any, type_: str) -> str:
    """Return a number as C writes it."""
    if type_ == BOOL:
        return str(int(bool(number)))
    if type_ not in ENDINGS:
        return f"{int(number)}LL" if type_ == "long long" else f"{int(number)}"
    number, ending = float(number), ENDINGS[type_]
    if number != number:
        return f'__builtin_nan{ending}("")'
    if math.isinf(number):
        return f"{'-' * (number < 0)}__builtin_inf{ending}()"
    return f"{number!r}{ending}"


ENDINGS = {"float": "f", "double": ""}
"""How numbers of a type end in C, and the names of functions of it."""
