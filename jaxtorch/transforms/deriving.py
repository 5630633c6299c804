"""Rules of a custom function: those that were given, and those derived from them.

What the user writes is in ``custom.py`` and ``function.py``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core.batching import BatchLevel
from jaxtorch.core.custom import Custom, Leaves, Linear, apply
from jaxtorch.core.tracking import has_derivative
from jaxtorch.transforms.forward import jvp
from jaxtorch.transforms.taping import Recording
from jaxtorch.transforms.vmap import vmap

Forward = Callable[[Leaves], tuple[Leaves, Any]]
Backward = Callable[[Any, Leaves], Leaves]
Push = Callable[[Leaves, Leaves], tuple[Leaves, Leaves]]


def is_differentiable(leaf: Any) -> bool:
    """Tell whether a leaf is a tensor of floating point or complex dtype."""
    return isinstance(leaf, Tensor) and has_derivative(leaf)


def zeros_for(values: Leaves, given: Leaves) -> Leaves:
    """Replace None in ``given`` by zeros where the value has a derivative."""
    return [
        torch.zeros_like(value) if own is None and is_differentiable(value) else own
        for value, own in zip(values, given, strict=True)
    ]


class Likes:
    """The shapes of some leaves."""

    def __init__(self, leaves: Leaves) -> None:
        self.each = [
            (leaf.shape, leaf.dtype, leaf.device) if is_differentiable(leaf) else None
            for leaf in leaves
        ]

    def fill(self, leaves: Leaves) -> Leaves:
        """Replace None by zeros."""
        return [
            torch.zeros(like[0], dtype=like[1], device=like[2])
            if leaf is None and like is not None
            else leaf
            for leaf, like in zip(leaves, self.each, strict=True)
        ]

    def match(self, leaves: Leaves) -> bool:
        """Tell whether the tensors in ``leaves`` have these shapes."""
        return all(
            like is None or not isinstance(leaf, Tensor) or leaf.shape == like[0]
            for leaf, like in zip(leaves, self.each, strict=True)
        )


class Rules(Custom):
    """The rules of one call, over flat lists.

    Attributes:
        run: leaves -> outputs.
        fwd: leaves -> (outputs, residuals), or None.
        bwd: (residuals, cotangents) -> the leaves' cotangents; linear in the
            cotangents. None among them is a zero.
        tangents: (leaves, tangents) -> (outputs, tangents), or None. Every leaf with a
            derivative has a tangent.
        mapped: (level, values, dims) -> (outputs, batch dims), or None.
        still: which outputs have no derivative; may be known only after a run.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Leaves], Leaves],
        fwd: Forward | None = None,
        bwd: Backward | None = None,
        tangents: Push | None = None,
        mapped: Any = None,
    ) -> None:
        self.name = name
        self.run = run
        self.fwd = fwd
        self.bwd = bwd
        self.tangents = tangents
        self.mapped = mapped
        self.still: set[int] = set()
        self.ruled = fwd is not None or tangents is not None

    def constants(self, outs: Leaves) -> set[int]:
        return self.still

    def call(self, leaves: Leaves) -> Leaves:
        return self.run(leaves)

    def batch(
        self, level: BatchLevel, values: Leaves, dims: Leaves
    ) -> tuple[Leaves, Leaves]:
        if self.mapped is not None:
            outs, out_dims = self.mapped(level, values, dims)
            return outs, out_dims
        front = [
            value if dim is None else value.movedim(dim, 0)
            for value, dim in zip(values, dims, strict=True)
        ]
        outs = apply(batched(self, level, [dim is not None for dim in dims]), front)
        return outs, [0 if isinstance(out, Tensor) else None for out in outs]

    def push(self, values: Leaves, tangents: Leaves) -> tuple[Leaves, Leaves]:
        if self.tangents is not None:
            return self.tangents(values, zeros_for(values, tangents))
        if self.fwd is not None:
            outs, residuals = self.fwd(values)
            like = [
                torch.zeros_like(out) if is_differentiable(out) else None
                for out in outs
            ]
            return outs, self.push_by_transposing(residuals, like, tangents)
        return push_through(self.run, values, tangents)

    def record(self, values: Leaves, wanted: list[bool]) -> tuple[Leaves, Linear]:
        if self.fwd is not None:
            outs, residuals = self.fwd(values)
            return outs, Pair(self, values, residuals, outs)
        if self.tangents is None:
            return record_through(self.run, values, wanted)
        return record_tangents(self.tangents, values, wanted)

    def push_by_transposing(
        self, residuals: Any, zeros: Leaves, tangents: Leaves
    ) -> Leaves:
        """Push tangents forward by pulling them back through ``bwd``, which is linear.

        ``zeros`` holds one zero for each output with a derivative.
        """
        places = [i for i, zero in enumerate(zeros) if zero is not None]
        present = [i for i, tangent in enumerate(tangents) if tangent is not None]
        reached: list[int] = []

        def pull(cotangents: list[Tensor]) -> list[Tensor]:
            full: Leaves = [None] * len(zeros)
            for place, cotangent in zip(places, cotangents, strict=True):
                full[place] = cotangent
            pulled = self.pull(residuals, full)
            reached.extend(i for i in present if pulled[i] is not None)
            return [pulled[i] for i in reached]

        tape = Recording(pull, [zeros[i] for i in places], self.name, False)
        pushed = tape.pull([tangents[i] for i in reached])
        out: Leaves = [None] * len(zeros)
        for place, tangent in zip(places, pushed, strict=True):
            out[place] = tangent
        return out

    def pull(self, residuals: Any, cotangents: Leaves) -> Leaves:
        """Pull cotangents back by ``bwd``."""
        assert self.bwd is not None
        return self.bwd(residuals, cotangents)


class Pair(Linear):
    """The derivative given by ``fwd`` and ``bwd``, and ``tangents`` if there is one."""

    def __init__(
        self, rules: Rules, values: Leaves, residuals: Any, outs: Leaves
    ) -> None:
        self.rules = rules
        self.values = values if rules.tangents is not None else None
        self.residuals = residuals
        self.outs = [
            (out.shape, out.dtype, out.device) if is_differentiable(out) else None
            for out in outs
        ]

    def push(self, tangents: Leaves) -> Leaves:
        rules = self.rules
        if rules.tangents is not None and self.values is not None:
            return rules.tangents(self.values, zeros_for(self.values, tangents))[1]
        like = [
            None if o is None else torch.zeros(o[0], dtype=o[1], device=o[2])
            for o in self.outs
        ]
        return rules.push_by_transposing(self.residuals, like, tangents)

    def pull(self, cotangents: Leaves) -> Leaves:
        return self.rules.pull(self.residuals, cotangents)


class Tape(Linear):
    """The derivative as a recording of some of the inputs into some of the outputs."""

    def __init__(
        self, tape: Recording, inputs: list[int], outputs: list[int], sizes: Any
    ) -> None:
        self.tape = tape
        self.inputs = inputs
        self.outputs = outputs
        self.sizes = sizes

    def push(self, tangents: Leaves) -> Leaves:
        out: Leaves = [None] * self.sizes[1]
        pushed = self.tape.push([tangents[i] for i in self.inputs])
        for place, tangent in zip(self.outputs, pushed, strict=True):
            out[place] = tangent
        return out

    def pull(self, cotangents: Leaves) -> Leaves:
        out: Leaves = [None] * self.sizes[0]
        pulled = self.tape.pull([cotangents[i] for i in self.outputs])
        for place, cotangent in zip(self.inputs, pulled, strict=True):
            out[place] = cotangent
        return out


def record_through(
    run: Callable[[Leaves], Leaves], values: Leaves, wanted: list[bool]
) -> tuple[Leaves, Linear]:
    """Run a function and record the operators in it."""
    inputs = [i for i, want in enumerate(wanted) if want]

    def call(wrapped: list[Tensor]) -> tuple[Leaves, Leaves]:
        full = list(values)
        for place, leaf in zip(inputs, wrapped, strict=True):
            full[place] = leaf
        outs = run(full)
        return [out for out in outs if is_differentiable(out)], outs

    tape = Recording(call, [values[i] for i in inputs], "a custom function", True)
    outs: Leaves = tape.aux  # type: ignore[assignment]
    outputs = [i for i, out in enumerate(outs) if is_differentiable(out)]
    return outs, Tape(tape, inputs, outputs, (len(values), len(outs)))


def record_tangents(
    rule: Push, values: Leaves, wanted: list[bool]
) -> tuple[Leaves, Linear]:
    """Run a rule of tangents and record it as a linear function of these."""
    inputs = [i for i, want in enumerate(wanted) if want]
    outputs: list[int] = []

    def call(wrapped: list[Tensor]) -> tuple[Leaves, Leaves]:
        tangents: Leaves = [None] * len(values)
        for place, leaf in zip(inputs, wrapped, strict=True):
            tangents[place] = leaf
        outs, pushed = rule(values, zeros_for(values, tangents))
        outputs.extend(i for i, t in enumerate(pushed) if isinstance(t, Tensor))
        return [pushed[i] for i in outputs], outs

    like = [torch.zeros_like(values[i]) for i in inputs]
    tape = Recording(call, like, "a custom function", True)
    outs: Leaves = tape.aux  # type: ignore[assignment]
    return outs, Tape(tape, inputs, outputs, (len(values), len(outs)))


def push_through(
    run: Callable[[Leaves], Leaves], values: Leaves, tangents: Leaves
) -> tuple[Leaves, Leaves]:
    """Run a function and push tangents through the operators in it."""
    inputs = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def call(*wrapped: Tensor) -> tuple[Leaves, Leaves]:
        full = list(values)
        for place, leaf in zip(inputs, wrapped, strict=True):
            full[place] = leaf
        outs = run(full)
        return [torch.zeros(()), *filter(is_differentiable, outs)], outs

    _, (_, *pushed), outs = jvp(
        call,
        tuple(values[i] for i in inputs),
        tuple(tangents[i] for i in inputs),
        has_aux=True,
    )
    own = iter(pushed)
    return outs, [next(own) if is_differentiable(out) else None for out in outs]


def batched(rules: Rules, level: BatchLevel, mapped: list[bool]) -> Rules:
    """Return the rules of the function mapped over dim 0 of the ``mapped`` leaves."""
    dims = [0 if own else None for own in mapped]

    def over(func: Callable[..., Any], flags: Leaves, args: Leaves) -> Any:
        mapping = vmap(func, tuple(flags), 0, level.randomness, axis_size=level.size)
        return mapping(*args)

    def run(leaves: Leaves) -> Leaves:
        return list(over(lambda *own: rules.run(list(own)), dims, leaves))

    def fwd(leaves: Leaves) -> tuple[Leaves, Any]:
        assert rules.fwd is not None
        outs, residuals = over(lambda *own: rules.fwd(list(own)), dims, leaves)  # type: ignore[misc]
        return list(outs), residuals

    def bwd(residuals: Any, cotangents: Leaves) -> Leaves:
        flat, spec = pytree.flatten((residuals, cotangents))
        flags = [0 if isinstance(leaf, Tensor) else None for leaf in flat]

        def one(*own: Any) -> Leaves:
            return rules.pull(*pytree.unflatten(list(own), spec))

        pulled = over(one, flags, flat)
        return [
            cotangent.sum(0) if isinstance(cotangent, Tensor) and not own else cotangent
            for cotangent, own in zip(pulled, mapped, strict=True)
        ]

    def tangents(leaves: Leaves, pushed: Leaves) -> tuple[Leaves, Leaves]:
        count = len(leaves)

        def one(*own: Any) -> tuple[Leaves, Leaves]:
            assert rules.tangents is not None
            return rules.tangents(list(own[:count]), list(own[count:]))

        flags = [
            *dims,
            *(None if t is None else dim for t, dim in zip(pushed, dims, strict=True)),
        ]
        outs, out_tangents = over(one, flags, [*leaves, *pushed])
        return list(outs), list(out_tangents)

    out = Rules(
        rules.name,
        run,
        fwd if rules.fwd is not None else None,
        bwd if rules.bwd is not None else None,
        tangents if rules.tangents is not None else None,
    )
    out.still = rules.still
    return out
