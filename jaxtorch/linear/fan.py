"""One input that several outputs depend on, each through its own operator."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from jaxtorch.linear.operator import LinearOperator


class Fan(LinearOperator):
    """One operator per output of a primitive; None where the derivative is zero."""

    __slots__ = ("operators",)

    def __init__(self, operators: Sequence[LinearOperator | None]) -> None:
        self.operators = operators

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        return tuple(None if o is None else o.apply(tangent) for o in self.operators)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        total: Tensor | None = None
        for operator, own in zip(self.operators, cotangent, strict=True):
            if operator is None or own is None:
                continue
            pulled = operator.apply_transpose(own)
            if pulled is not None:
                total = pulled if total is None else total + pulled
        return total
