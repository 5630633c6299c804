"""``Loop``: a body runs as long as a condition holds."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch.core.batching import BatchLevel
from jaxtorch.errors import UsageError, explain
from jaxtorch.staging.lifting import (
    at_front,
    batched,
    batched_outputs,
    differentiable,
    kinds_of,
    pushed,
    run_batched,
)
from jaxtorch.staging.passes.dead_results import needed
from jaxtorch.staging.region import Slim
from jaxtorch.staging.regions.binding import Bound
from jaxtorch.staging.regions.branch import cut
from jaxtorch.staging.subgraph import Function, Kind, trace
from jaxtorch.staging.tracer import user_line


class Loop(Bound):
    """``(*consts, *carry)``: both functions take all of them.

    The first function returns whether to go on, the second one the next carry.
    """

    __name__ = "while_loop"

    def __init__(self, cond: Function, body: Function, consts: int) -> None:
        self.functions = (cond, body)
        self.consts = consts

    def execute(self, args: Sequence[Tensor]) -> list[Tensor]:
        cond, body = self.functions
        consts = args[: self.consts]
        carry = list(args[self.consts :])
        while cond(*consts, *carry)[0]:
            carry = body(*consts, *carry)
        return carry

    def stage(self, kinds: Sequence[Kind]) -> "Loop":
        cond, body = (trace("while_loop", f, kinds) for f in self.functions)
        staged = Loop(cond, body, self.consts)
        staged.settle(cond, body)
        staged.outs = body.outs
        return staged

    def slim(self, used: set[int]) -> Slim | None:
        cond, body = self.functions
        n = self.consts
        (decides,) = cond.reads()
        carry = range(n, n + len(self.outs))
        inputs, outputs = needed(body.reads(), used, carry, decides)
        if len(outputs) == len(self.outs):
            return None
        consts = sum(i < n for i in inputs)
        slim = Loop(cond.part(inputs, [0]), body.part(inputs, outputs), consts)
        slim.outs = [self.outs[i] for i in outputs]
        return Slim(slim, inputs, outputs)

    def batch(
        self, level: BatchLevel, values: list[Any], dims: list[int | None]
    ) -> tuple[list[Any], list[int | None]]:
        cond, body = self.functions
        n = self.consts
        carried = [dim is not None for dim in dims[n:]]
        while True:
            own: list[int | None] = [0 if c else None for c in carried]
            fronts = self.at_front(level, values, dims, carried)
            kinds = kinds_of(fronts)
            (split,) = batched_outputs(cond, level, dims[:n] + own, kinds)
            grown = batched_outputs(body, level, dims[:n] + own, kinds)
            wanted = [split or a or b for a, b in zip(carried, grown, strict=True)]
            if wanted == carried:
                break
            carried = wanted
        if not split:
            lifted = Loop(
                batched(cond, level, dims[:n] + own, [False]),
                batched(body, level, dims[:n] + own, carried),
                n,
            )
            return lifted(*fronts), own
        return self.batch_each(level, fronts, dims[:n] + own), own

    def at_front(
        self,
        level: BatchLevel,
        values: list[Any],
        dims: list[int | None],
        carried: list[bool],
    ) -> list[Any]:
        """Return the values with the batched carries batched at dim 0."""
        n = self.consts
        return values[:n] + [
            at_front(v, d, level.size) if c else v
            for v, d, c in zip(values[n:], dims[n:], carried, strict=True)
        ]

    def batch_each(
        self, level: BatchLevel, values: list[Any], dims: list[int | None]
    ) -> list[Any]:
        """Run until all examples are done; those that are done stay as they are."""
        cond, body = self.functions
        n = self.consts

        def step(*leaves: Any) -> list[Any]:
            *consts, active = leaves[: n + 1]
            carry = leaves[n + 1 :]
            news = body(*consts, *cut(active, carry, True))
            news = [torch.where(active, a, b) for a, b in zip(news, carry, strict=True)]
            return [active & cond(*consts, *news)[0], *news]

        (active,), (dim,) = run_batched(cond, level, dims, values)
        active = at_front(active, dim, level.size)
        step_dims = [*dims[:n], 0, *dims[n:]]
        lifted = Loop(
            lambda *leaves: [leaves[n].any()],
            batched(step, level, step_dims, [True] * (len(values) - n + 1)),
            n,
        )
        return lifted(*values[:n], active, *values[n:])[1:]

    def push(
        self, values: list[Any], tangents: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        cond, body = self.functions
        n = self.consts
        wanted = [t is not None for t in tangents[:n]]
        wanted += [differentiable(v) for v in values[n:]]
        fixed = [t for t in tangents[:n] if t is not None]
        moving = [
            torch.zeros_like(v) if t is None else t
            for v, t in zip(values[n:], tangents[n:], strict=True)
            if differentiable(v)
        ]
        m = n + len(fixed)
        count = len(values) - n
        dual = pushed(body, wanted)

        def step(*leaves: Any) -> list[Any]:
            primals = [*leaves[:n], *leaves[m : m + count]]
            return dual(*primals, *leaves[n:m], *leaves[m + count :])

        lifted = Loop(
            lambda *leaves: cond(*leaves[:n], *leaves[m : m + count]), step, m
        )
        results = lifted(*values[:n], *fixed, *values[n:], *moving)
        found = iter(results[count:])
        outs = results[:count]
        return outs, [next(found) if differentiable(out) else None for out in outs]

    def linearize(self, values: list[Any], wanted: list[bool]) -> tuple[list[Any], Any]:
        return self(*values), Pushing(self, values, wanted)


class Pushing:
    """The derivative of a loop; it can be pushed forward only."""

    __slots__ = ("loop", "values", "wanted", "line")

    def __init__(self, loop: Loop, values: list[Any], wanted: list[bool]) -> None:
        self.loop = loop
        self.values = values
        self.wanted = wanted
        self.line = user_line()

    def apply(self, tangent: Sequence[Any]) -> tuple[Any, ...]:
        """Run the loop again with tangents."""
        found = iter(tangent)
        tangents = [next(found) if want else None for want in self.wanted]
        return tuple(self.loop.push(self.values, tangents)[1])

    def apply_transpose(self, cotangent: Any) -> Any:
        """Refuse: the steps of a staged loop are not counted in advance."""
        raise UsageError(
            explain(
                "while_loop",
                "a loop whose number of steps is not known has no reverse-mode "
                "derivative under jit.",
                "use fori_loop with Python ints, or scan; or jvp, jacfwd; or call the "
                "derivative outside of jit",
                f"at {self.line}",
            )
        )
