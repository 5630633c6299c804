"""The base of all linear operators: a map of tangents that can be transposed."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor


class LinearOperator:
    """A linear map from the tangent of one input to the tangent of the output.

    ``apply`` pushes a tangent forward; ``apply_transpose`` pulls a cotangent back. For
    complex tensors the transpose is the adjoint, so that always
    ``<A v, w> == <v, A.transpose w>`` with the inner product that conjugates its second
    argument. Where the primitive has several outputs, ``apply`` returns one tangent per
    output and ``apply_transpose`` takes one cotangent per output; ``None`` is a zero.
    """

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Any:
        """Return the output's tangent for the input's ``tangent``."""
        raise NotImplementedError

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        """Return the input's cotangent for the output's ``cotangent``."""
        raise NotImplementedError

    def transpose(self) -> "LinearOperator":
        """Return the transposed operator."""
        return Transposed(self)


class Transposed(LinearOperator):
    """The transpose of another operator."""

    __slots__ = ("operator",)

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator

    def apply(self, tangent: Tensor) -> Any:
        return self.operator.apply_transpose(tangent)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        return self.operator.apply(cotangent)  # type: ignore[no-any-return]

    def transpose(self) -> LinearOperator:
        return self.operator


class Identity(LinearOperator):
    """The output's tangent is the input's tangent."""

    __slots__ = ()

    def apply(self, tangent: Tensor) -> Tensor:
        return tangent

    def apply_transpose(self, cotangent: Tensor) -> Tensor:
        return cotangent


class Zero(LinearOperator):
    """The output's tangent does not depend on the input's."""

    __slots__ = ()

    def apply(self, tangent: Tensor) -> None:
        return None

    def apply_transpose(self, cotangent: Any) -> None:
        return None


class General(LinearOperator):
    """An operator given by its two functions, for fused ATen backward kernels."""

    __slots__ = ("forward", "backward")

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        backward: Callable[[Any], Tensor | None],
    ) -> None:
        self.forward = forward
        self.backward = backward

    def apply(self, tangent: Tensor) -> Any:
        return self.forward(tangent)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        return self.backward(cotangent)


class Output(LinearOperator):
    """An operator into one output of a primitive that has several."""

    __slots__ = ("operator", "index", "arity")

    def __init__(self, operator: LinearOperator, index: int, arity: int) -> None:
        self.operator = operator
        self.index = index
        self.arity = arity

    def apply(self, tangent: Tensor) -> tuple[Any, ...]:
        out = [None] * self.arity
        out[self.index] = self.operator.apply(tangent)
        return tuple(out)

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        own = cotangent[self.index]
        return None if own is None else self.operator.apply_transpose(own)


class Composition(LinearOperator):
    """``outer`` after ``inner``."""

    __slots__ = ("outer", "inner")

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        self.outer = outer
        self.inner = inner

    def apply(self, tangent: Tensor) -> Any:
        return self.outer.apply(self.inner.apply(tangent))

    def apply_transpose(self, cotangent: Any) -> Tensor | None:
        middle = self.outer.apply_transpose(cotangent)
        return None if middle is None else self.inner.apply_transpose(middle)


class Joined(list[Any]):
    """The operators of a list of tensors, whose tangents can be pushed at once.

    One after the other, each would be padded to the size of the whole.
    """

    def __init__(
        self,
        operators: Iterable[Any],
        join: Callable[[list[Tensor | None]], Tensor],
    ) -> None:
        super().__init__(operators)
        self.join = join

    def apply_all(self, tangents: list[Tensor | None]) -> Tensor:
        """Return the output's tangent; None among ``tangents`` is a zero."""
        return self.join(tangents)
