"""The record of a primitive: all that one ATen overload means under every transform."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

BatchRule = Callable[..., tuple[Any, Any]]
LinearizeRule = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Record:
    """What one overload means. At least one of the three functions is given.

    Attributes:
        overload: the ATen overload, for example ``torch.ops.aten.sin.default``.
        batch: ``batch(size, dims, *args, **kwargs) -> (out, out_dims)``. ``args`` are
            unwrapped; ``dims`` has one entry per positional argument: the batch dim,
            ``None`` for what is not batched, a tuple for a list of tensors. A tensor
            among ``kwargs`` is not batched. For several outputs ``out_dims`` is one
            int for all or a tuple with one entry each; ``None`` says not batched.
        linearize: ``linearize(wanted, *args, **kwargs) -> (out, operators)``.
            ``wanted`` has one truth value per positional argument (a tuple of them for
            a list of tensors); ``operators`` has at the wanted places the
            ``LinearOperator`` from that argument's tangent to the output's (a list for
            a list; a tuple of tangents where ``out`` is a tuple). Places that are not
            wanted may hold anything; ``()`` says that the derivative is zero. Where it
            returns ``NotImplemented`` the call is decomposed.
        push: ``push(tangents, *args, **kwargs) -> (out, tangent)``, under jvp in the
            place of ``linearize`` where a kernel makes both in one pass. ``tangents``
            has one entry per positional argument; ``None`` is a zero.
        decompose: the same call written with other torch operators; of an op that
            writes into its arguments, with other in-place operators.
        named_batch: ``named_batch(size, dims, named, *args, **kwargs)``, in the place
            of ``batch`` where tensors among ``kwargs`` are batched: ``named`` has their
            batch dims by name.
        share: of a random op, ``batch`` for one draw that all examples share; without
            it ``vmap(randomness="same")`` refuses batched arguments.
        by_strides: whether the result depends on the strides of the first argument.
            Such a call is decomposed before any level sees it, as those of a handle
            are not always those of its value.
    """

    overload: OpOverload
    batch: BatchRule | None = None
    linearize: LinearizeRule | None = None
    decompose: Callable[..., Any] | None = None
    share: BatchRule | None = None
    push: Callable[..., tuple[Any, Any]] | None = None
    named_batch: BatchRule | None = None
    by_strides: bool = False
