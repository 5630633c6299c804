"""Recording a function on a tape: what ``vjp``, ``grad`` and ``linearize`` share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jaxtorch import pytree
from jaxtorch.core import alias
from jaxtorch.core.level import paused
from jaxtorch.core.plain import settled
from jaxtorch.core.reverse import (
    LEAF,
    Node,
    ReverseLevel,
    TapeTensor,
    pull_back,
    push_forward,
    wrap,
)
from jaxtorch.errors import UsageError, explain
from jaxtorch.transforms.checks import check_differentiable_inputs, split_aux


class Recording:
    """One call recorded on a tape: its outputs, and the tape that made them.

    Attributes:
        outs: the output's leaves, unwrapped.
        spec: the output's structure.
        aux: the auxiliary output, unwrapped, or None.
    """

    __slots__ = ("outs", "spec", "aux", "inputs", "leaves", "roots")

    def __init__(
        self,
        func: Callable[[list[Any]], Any],
        inputs: list[Tensor],
        where: object,
        has_aux: bool,
    ) -> None:
        self.inputs = inputs
        self.leaves = [Node(LEAF) for _ in inputs]
        self.aux = None
        level = ReverseLevel()
        values = [settled(value) for value in inputs]
        with level:
            wrapped = [
                wrap(level, value, node, None)
                for value, node in zip(values, self.leaves, strict=True)
            ]
            out = func(list(wrapped))
            if has_aux:
                out, aux = split_aux(where, out)
                self.aux = pytree.tree_map(lambda leaf: primal_of(level, leaf), aux)
            outs, self.spec = pytree.flatten(out)
            self.outs = [primal_of(level, leaf) for leaf in outs]
            self.roots = [root_of(level, leaf) for leaf in outs]
        for value, own in zip(inputs, wrapped, strict=True):
            if own.alias is not None and own.alias.version:
                value.copy_(own.value)

    def pull(
        self, cotangents: Sequence[Tensor | None], free: bool = False
    ) -> list[Tensor]:
        """Carry the outputs' cotangents back to the inputs."""
        pairs = [
            (root, cotangent)
            for root, cotangent in zip(self.roots, cotangents, strict=True)
            if root is not None and cotangent is not None
        ]
        with paused():
            pulled = pull_back(
                [root for root, _ in pairs], [c for _, c in pairs], self.leaves, free
            )
            return [
                filled(value, 0) if c is None else c
                for value, c in zip(self.inputs, pulled, strict=True)
            ]

    def pull_one(self) -> list[Tensor]:
        """Carry the cotangent one of a scalar output back, and release the tape."""
        with paused():
            one = filled(self.outs[0], 1)
        return self.pull([one], free=True)

    def push(self, tangents: Sequence[Tensor | None]) -> list[Tensor]:
        """Carry the inputs' tangents forward to the outputs."""
        present = [root for root in self.roots if root is not None]
        with paused():
            pushed = iter(push_forward(self.leaves, tangents, present))
        out = []
        for root, value in zip(self.roots, self.outs, strict=True):
            tangent = None if root is None else next(pushed)
            out.append(torch.zeros_like(value) if tangent is None else tangent)
        return out


def record_function(
    where: object, func: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool
) -> tuple[Recording, Any]:
    """Record ``func(*primals)``; return the tape and the structure of the primals."""
    leaves, spec = pytree.flatten_args(primals)
    check_differentiable_inputs(where, leaves, primals)
    tape = Recording(
        lambda wrapped: func(*pytree.unflatten_args(wrapped, spec)),
        leaves,
        where,
        has_aux,
    )
    return tape, spec


def filled(like: Tensor, number: int) -> Tensor:
    """Return a plain tensor of the shape of ``like``; in a batch, shared by all."""
    return torch.full(like.shape, number, dtype=like.dtype, device=like.device)


def primal_of(level: ReverseLevel, leaf: Any) -> Any:
    """Unwrap a leaf of ``level``; others are returned as they are."""
    if type(leaf) is TapeTensor and leaf.level is level:
        if leaf.alias is not None:
            alias.refresh(leaf)
        return leaf.value
    return leaf


def root_of(level: ReverseLevel, leaf: Any) -> tuple[Node, int | None] | None:
    """Return where a refreshed leaf stands on the tape; None for a constant."""
    if type(leaf) is TapeTensor and leaf.level is level and leaf.node is not None:
        return leaf.node, leaf.index
    return None


def check_outputs(where: object, outs: Sequence[Any], out: str) -> None:
    """Refuse outputs that are not tensors of floating point or complex dtype."""
    check_tensors(where, outs, out)
    for leaf in outs:
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise UsageError(
                explain(
                    where,
                    f"{out} has dtype {leaf.dtype}: only floating point and complex "
                    "tensors have derivatives.",
                    "return it with has_aux=True",
                )
            )


def check_tensors(where: object, outs: Sequence[Any], out: str) -> None:
    """Refuse outputs that are not tensors."""
    if not outs:
        raise UsageError(
            explain(
                where,
                f"expected {out} to be a non-empty pytree of tensors.",
                "return at least one tensor",
            )
        )
    for leaf in outs:
        if not isinstance(leaf, Tensor):
            raise UsageError(
                explain(
                    where,
                    f"expected {out} to be tensors, got {type(leaf).__name__}.",
                    "return tensors; pass what is not differentiated with has_aux=True",
                )
            )
