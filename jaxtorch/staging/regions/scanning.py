"""``Scan``: a body runs once per slice of its inputs and hands on a carry."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from jaxtorch.core.batching import BatchLevel
from jaxtorch.staging.lifting import (
    at_front,
    batched,
    batched_outputs,
    differentiable,
    kinds_of,
    pushed,
)
from jaxtorch.staging.passes.dead_results import needed
from jaxtorch.staging.region import Slim
from jaxtorch.staging.regions.binding import Bound
from jaxtorch.staging.regions.pulling import Pullback
from jaxtorch.staging.splitting import Split
from jaxtorch.staging.subgraph import Function, Kind, trace


class Scan(Bound):
    """``(*consts, *carry, *xs) -> (*carry, *ys)``, one step per slice of the xs.

    The function takes the constants, the carry and one slice of each of the xs; it
    returns the next carry and one slice of each of the ys.
    """

    __name__ = "scan"

    def __init__(
        self, body: Function, counts: tuple[int, int], length: int, reverse: bool
    ) -> None:
        self.functions = (body,)
        self.counts = counts
        self.length = length
        self.reverse = reverse

    def parts(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Split what belongs to the arguments into constants, carry and xs."""
        n, m = self.counts
        return list(values[:n]), list(values[n : n + m]), list(values[n + m :])

    def step_kinds(self, kinds: Sequence[Kind]) -> list[Kind]:
        """Return the kinds of what the body takes."""
        consts, carry, xs = self.parts(kinds)
        return [*consts, *carry, *(Kind(k.shape[1:], k.dtype, k.device) for k in xs)]

    def execute(self, args: Sequence[Tensor]) -> list[Tensor]:
        (body,) = self.functions
        consts, carry, xs = self.parts(args)
        count = len(carry)
        slices = list(zip(*(x.unbind(0) for x in xs), strict=True))
        slices = slices or [()] * self.length
        steps = []
        for own in reversed(slices) if self.reverse else slices:
            results = body(*consts, *carry, *own)
            carry = results[:count]
            steps.append(results[count:])
        if not steps:
            return carry + [
                torch.empty(k.shape, dtype=k.dtype, device=k.device)
                for k in self.outs[count:]
            ]
        if self.reverse:
            steps.reverse()
        return carry + [torch.stack(column) for column in zip(*steps, strict=True)]

    def stage(self, kinds: Sequence[Kind]) -> "Scan":
        body = trace("scan", self.functions[0], self.step_kinds(kinds))
        staged = Scan(body, self.counts, self.length, self.reverse)
        staged.settle(body)
        count = self.counts[1]
        staged.outs = body.outs[:count] + [
            Kind(torch.Size([self.length, *k.shape]), k.dtype, k.device)
            for k in body.outs[count:]
        ]
        return staged

    def batch(
        self, level: BatchLevel, values: list[Any], dims: list[int | None]
    ) -> tuple[list[Any], list[int | None]]:
        (body,) = self.functions
        n, m = self.counts
        fixed, _, sliced = self.parts(dims)
        xs = [
            v if d is None else v.movedim(d, 1)
            for v, d in zip(values[n + m :], sliced, strict=True)
        ]
        carried = [dim is not None for dim in dims[n : n + m]]
        while True:
            carry = [
                at_front(v, d, level.size) if c else v
                for v, d, c in zip(
                    values[n : n + m], dims[n : n + m], carried, strict=True
                )
            ]
            fronts = [*values[:n], *carry, *xs]
            own: list[int | None] = [
                *fixed,
                *(0 if c else None for c in carried),
                *(None if d is None else 0 for d in sliced),
            ]
            kinds = self.step_kinds(kinds_of(fronts))
            grown = batched_outputs(body, level, own, kinds)
            wanted = [a or b for a, b in zip(carried, grown[:m], strict=True)]
            if wanted == carried:
                break
            carried = wanted
        flags = carried + grown[m:]
        lifted = Scan(
            batched(body, level, own, flags), self.counts, self.length, self.reverse
        )
        places = [0] * m + [1] * (len(flags) - m)
        out_dims = [p if f else None for p, f in zip(places, flags, strict=True)]
        return lifted(*fronts), out_dims

    def push(
        self, values: list[Any], tangents: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        n, m = self.counts
        consts, carry, xs = self.parts(values)
        wanted = self.wanted(values, [tangent is not None for tangent in tangents])
        filled = [
            torch.zeros_like(v) if t is None else t
            for v, t, want in zip(values, tangents, wanted, strict=True)
            if want
        ]
        a, b, _ = (sum(part) for part in self.parts(wanted))
        dual = pushed(self.functions[0], wanted)
        count = len(xs)

        def step(*leaves: Any) -> list[Any]:
            own, tan = leaves[:n], leaves[n : n + a]
            rest = leaves[n + a :]
            state, moving, rest = rest[:m], rest[m : m + b], rest[m + b :]
            results = dual(*own, *state, *rest[:count], *tan, *moving, *rest[count:])
            total = len(results) - sum(differentiable(r) for r in results) // 2
            outs, tans = results[:total], results[total:]
            return [*outs[:m], *tans[:b], *outs[m:], *tans[b:]]

        lifted = Scan(step, (n + a, m + b), self.length, self.reverse)
        results = lifted(
            *consts, *filled[:a], *carry, *filled[a : a + b], *xs, *filled[a + b :]
        )
        ys = results[m + b :]
        total = len(ys) - sum(differentiable(y) for y in ys) // 2
        outs = [*results[:m], *ys[:total]]
        found = iter([*results[m : m + b], *ys[total:]])
        return outs, [next(found) if differentiable(out) else None for out in outs]

    def wanted(self, values: Sequence[Any], wanted: Sequence[bool]) -> list[bool]:
        """Return what has a derivative in a step: also all of the carry."""
        n, m = self.counts
        return [
            differentiable(value) if n <= i < n + m else want
            for i, (value, want) in enumerate(zip(values, wanted, strict=True))
        ]

    def linearize(
        self, values: list[Any], wanted: list[bool]
    ) -> tuple[list[Any], Pullback]:
        n, m = self.counts
        stepwise = self.wanted(values, wanted)
        kinds = self.step_kinds(kinds_of(values))
        invariant = [i < n for i in range(len(values))]
        split = Split(self.functions[0], kinds, stepwise, invariant)
        moving = [i for i in split.read if n <= i < n + m]
        count = len(split.outs)

        def forward(*leaves: Any) -> list[Any]:
            results = split.forward(*leaves)
            kept = [leaves[i] for i in moving]
            return [*results[:count], *kept, *results[count:]]

        kept_scan = Scan(forward, self.counts, self.length, self.reverse)
        results = kept_scan(*values)
        outs = results[:count]
        backward = Backward(self, split, stepwise, values, results[count:])
        chosen = [want for want, step in zip(wanted, stepwise, strict=True) if step]

        def pull(cotangents: list[Tensor]) -> list[Tensor]:
            pulled = backward(cotangents)
            return [p for p, want in zip(pulled, chosen, strict=True) if want]

        inputs = [v for v, want in zip(values, wanted, strict=True) if want]
        return outs, Pullback(pull, outs, inputs)

    def slim(self, used: set[int]) -> Slim | None:
        (body,) = self.functions
        n, m = self.counts
        inputs, outputs = needed(body.reads(), used, range(n, n + m), set())
        if len(outputs) == len(self.outs):
            return None
        counts = sum(i < n for i in inputs), sum(i < m for i in outputs)
        slim = Scan(body.part(inputs, outputs), counts, self.length, self.reverse)
        slim.outs = [self.outs[i] for i in outputs]
        return Slim(slim, inputs, outputs)

    def flops(self, count: Callable[[fx.Graph], int]) -> int:
        return self.length * super().flops(count)


class Backward:
    """The pullback of a scan: a scan the other way over what was kept of each step."""

    def __init__(
        self,
        scan: Scan,
        split: Split,
        wanted: list[bool],
        values: list[Any],
        stacked: list[Any],
    ) -> None:
        n, m = scan.counts
        self.scan = scan
        self.split = split
        self.fixed = [i for i in split.read if i < n]
        self.sliced = [i for i in split.read if i >= n + m]
        self.consts = [values[i] for i in self.fixed]
        self.totals = [v for v, want in zip(values[:n], wanted, strict=False) if want]
        self.xs = [*stacked, *(values[i] for i in self.sliced)]
        self.stacked = len(stacked)
        self.carried = sum(differentiable(kind) for kind in split.outs[:m])

    def __call__(self, cotangents: list[Tensor]) -> list[Tensor]:
        """Return the cotangents of all values that are wanted in a step."""
        carried, given = cotangents[: self.carried], cotangents[self.carried :]
        totals = [torch.zeros_like(value) for value in self.totals]
        a, b = len(carried), len(totals)
        region = Scan(
            self.step,
            (len(self.consts), a + b),
            self.scan.length,
            not self.scan.reverse,
        )
        results = region(*self.consts, *carried, *totals, *given, *self.xs)
        return [*results[a : a + b], *results[:a], *results[a + b :]]

    def step(self, *leaves: Any) -> list[Any]:
        """Pull back through one step; add up the cotangents of the constants."""
        a, b = self.carried, len(self.totals)
        n = len(self.consts)
        consts, carried, totals = (
            leaves[:n],
            leaves[n : n + a],
            leaves[n + a : n + a + b],
        )
        rest = leaves[n + a + b :]
        count = len(rest) - len(self.xs)
        given, kept = rest[:count], rest[count:]
        moving = self.stacked - len(self.split.made)
        pulled = self.split.linear(
            *consts,
            *kept[:moving],
            *kept[self.stacked :],
            *kept[moving : self.stacked],
            *carried,
            *given,
        )
        sums = [total + own for total, own in zip(totals, pulled[:b], strict=True)]
        return [*pulled[b : b + a], *sums, *pulled[b + a :]]
