"""``Branch``: one of two functions runs, as a number without dims says."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core.batching import BatchLevel
from jaxtorch.errors import ArgumentTypeError, explain
from jaxtorch.staging.lifting import (
    batched,
    batched_outputs,
    differentiable,
    kinds_of,
    pushed,
    run_batched,
    zeros_of,
)
from jaxtorch.staging.passes.dead_results import needed
from jaxtorch.staging.region import Slim
from jaxtorch.staging.regions.binding import Bound
from jaxtorch.staging.regions.pulling import Pullback
from jaxtorch.staging.splitting import Split
from jaxtorch.staging.subgraph import Function, Kind, trace
from jaxtorch.staging.tracer import user_line


class Branch(Bound):
    """``(pred, *operands)``: runs the first function where ``pred`` is true."""

    __name__ = "cond"

    def __init__(self, on_true: Function, on_false: Function) -> None:
        self.functions = (on_true, on_false)

    def execute(self, args: Sequence[Tensor]) -> list[Tensor]:
        on_true, on_false = self.functions
        outs: list[Tensor] = (on_true if args[0] else on_false)(*args[1:])
        return outs

    def stage(self, kinds: Sequence[Kind]) -> "Branch":
        on_true, on_false = (trace("cond", f, kinds[1:]) for f in self.functions)
        refuse_different(on_true.outs, on_false.outs)
        staged = Branch(on_true, on_false)
        staged.settle(on_true, on_false)
        staged.outs = on_true.outs
        return staged

    def slim(self, used: set[int]) -> Slim | None:
        both = [function.reads() for function in self.functions]
        reads = [first | second for first, second in zip(*both, strict=True)]
        operands, outputs = needed(reads, used, range(0), set())
        if len(outputs) == len(self.outs):
            return None
        slim = Branch(*(f.part(operands, outputs) for f in self.functions))
        slim.outs = [self.outs[i] for i in outputs]
        return Slim(slim, [0, *(i + 1 for i in operands)], outputs)

    def batch(
        self, level: BatchLevel, values: list[Any], dims: list[int | None]
    ) -> tuple[list[Any], list[int | None]]:
        on_true, on_false = self.functions
        if dims[0] is not None:
            return run_batched(
                lambda pred, *operands: select(pred, on_true, on_false, operands),
                level,
                dims,
                values,
            )
        kinds = kinds_of(values[1:])
        either = [
            a or b
            for a, b in zip(
                batched_outputs(on_true, level, dims[1:], kinds),
                batched_outputs(on_false, level, dims[1:], kinds),
                strict=True,
            )
        ]
        lifted = Branch(*(batched(f, level, dims[1:], either) for f in self.functions))
        return lifted(*values), [0 if own else None for own in either]

    def push(
        self, values: list[Any], tangents: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        wanted = [tangent is not None for tangent in tangents[1:]]
        given = [tangent for tangent in tangents[1:] if tangent is not None]
        lifted = Branch(*(pushed(f, wanted) for f in self.functions))
        return split_pushed(lifted(*values, *given))

    def linearize(
        self, values: list[Any], wanted: list[bool]
    ) -> tuple[list[Any], Pullback]:
        pred, *operands = values
        kinds = kinds_of(operands)
        fixed = [False] * len(operands)
        first, second = (Split(f, kinds, wanted[1:], fixed) for f in self.functions)
        refuse_different(first.outs, second.outs)
        count = len(first.outs)
        results = Branch(
            lambda *v: first.forward(*v) + [zeros_of(kind) for kind in second.made],
            lambda *v: padded(second.forward(*v), count, first.made),
        )(pred, *operands)
        outs, made = results[:count], results[count:]
        read = sorted({*first.read, *second.read})
        backward = Branch(
            linear_part(first, read, 0), linear_part(second, read, len(first.made))
        )
        kept = [operands[i] for i in read]

        def pull(cotangents: list[Tensor]) -> list[Tensor]:
            return backward(pred, *kept, *made, *cotangents)

        inputs = [v for v, want in zip(values, wanted, strict=True) if want]
        return outs, Pullback(pull, outs, inputs)

    def flops(self, count: Callable[[fx.Graph], int]) -> int:
        return max(count(graph) for graph in self.graphs())


def split_pushed(results: list[Any]) -> tuple[list[Any], list[Any]]:
    """Split ``(*outs, *tangents)``, where only some outputs have a tangent."""
    count = 0
    left = len(results)
    while left > 0:
        left -= 2 if differentiable(results[count]) else 1
        count += 1
    found = iter(results[count:])
    outs = results[:count]
    return outs, [next(found) if differentiable(out) else None for out in outs]


def padded(results: list[Any], count: int, kinds: Sequence[Kind]) -> list[Any]:
    """Put zeros of ``kinds`` after the first ``count`` results."""
    return [*results[:count], *(zeros_of(kind) for kind in kinds), *results[count:]]


def linear_part(split: Split, read: list[int], start: int) -> Function:
    """Return the linear part as a function of what both branches read and made."""
    places = [read.index(i) for i in split.read]
    made = len(split.made)
    cotangents = sum(differentiable(kind) for kind in split.outs)

    def run(*leaves: Any) -> list[Any]:
        own = leaves[len(read) + start : len(read) + start + made]
        tail = leaves[len(leaves) - cotangents :]
        return split.linear(*[leaves[i] for i in places], *own, *tail)

    return run


def select(
    pred: Tensor,
    on_true: Callable[..., list[Any]],
    on_false: Callable[..., list[Any]],
    operands: Sequence[Any],
) -> list[Any]:
    """Run both functions and choose example by example.

    Each gets its operands cut off from the derivative where it is not chosen, so that
    an infinite slope there does no harm.
    """
    firsts = on_true(*cut(pred, operands, True))
    seconds = on_false(*cut(pred, operands, False))
    return [torch.where(pred, a, b) for a, b in zip(firsts, seconds, strict=True)]


def cut(pred: Tensor, operands: Sequence[Any], chosen: bool) -> list[Any]:
    """Detach the operands where ``pred`` is not ``chosen``."""
    return [cut_one(pred, operand, chosen) for operand in operands]


def cut_one(pred: Tensor, operand: Any, chosen: bool) -> Any:
    """Detach one operand where ``pred`` is not ``chosen``."""
    if not differentiable(operand):
        return operand
    still = operand.detach()
    return torch.where(pred, *((operand, still) if chosen else (still, operand)))


def refuse_different(firsts: Sequence[Kind], seconds: Sequence[Kind]) -> None:
    """Refuse branches that return different kinds of tensors."""
    same = len(firsts) == len(seconds) and all(
        a.shape == b.shape and a.dtype == b.dtype
        for a, b in zip(firsts, seconds, strict=True)
    )
    if same:
        return
    raise ArgumentTypeError(
        explain(
            "cond",
            "the branches return different shapes or dtypes: "
            f"{', '.join(map(str, firsts))} and {', '.join(map(str, seconds))}.",
            "return the same from both, converted with .to(dtype) or .expand(shape)",
            f"at {user_line()}",
        )
    )
