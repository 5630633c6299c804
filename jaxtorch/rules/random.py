"""Random numbers: samplers, their functional in-place forms, dropout.

A batch rule here is called for ``randomness="different"`` even if no argument is
batched, and draws for all examples in one call; ``share`` draws once for all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.linear.diagonal import Elementwise, Scale
from jaxtorch.linear.operator import General, Output, Zero
from jaxtorch.rules.batching import batched_at_front, pad_rank, rank_of
from jaxtorch.rules.makers import zero_derivative
from jaxtorch.rules.record import Record

aten = torch.ops.aten


def factory(overload: OpOverload) -> Record:
    """Make the record of a sampler that is given only a size."""
    place = [a.name for a in overload._schema.arguments].index("size")

    def batch(size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        shape = [size, *args[place]]
        return overload(*args[:place], shape, *args[place + 1 :], **kwargs), 0

    return Record(overload, batch)


def fill(overload: OpOverload) -> Record:
    """Make the record of a sampler that reads only the shape and dtype of a tensor."""

    def batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return overload(batched_at_front(x, dims[0], size), *args, **kwargs), 0

    def share(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return overload(one_example(x, dims[0]), *args, **kwargs), None

    return Record(overload, batch, zero_derivative(overload), share=share)


def one_example(x: Tensor, dim: int) -> Tensor:
    """Return a new tensor of the shape of one example, to be filled."""
    return x.new_empty(x.shape[:dim] + x.shape[dim + 1 :])


def draw(overload: OpOverload) -> Record:
    """Make the record of a sampler whose tensors are the distribution's parameters."""

    def batch(size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        return overload(*spread(size, dims, args), **kwargs), 0

    return Record(overload, batch, zero_derivative(overload))


def spread(size: int, dims: Any, args: Any) -> list[Any]:
    """Give every tensor a leading batch dim and the same rank."""
    pairs = list(zip(args, dims, strict=True))
    rank = max(rank_of(a, d) for a, d in pairs if isinstance(a, Tensor))
    return [
        pad_rank(batched_at_front(a, d, size), rank) if isinstance(a, Tensor) else a
        for a, d in pairs
    ]


def randperm_batch(overload: OpOverload) -> Callable[..., Any]:
    """Draw one permutation after the other."""

    def batch(size: int, dims: Any, n: int, **kwargs: Any) -> Any:
        if size == 0:
            kwargs.pop("generator", None)
            kwargs["dtype"] = kwargs.get("dtype") or torch.int64
            return torch.empty((0, n), **kwargs), 0
        return torch.stack([overload(n, **kwargs) for _ in range(size)]), 0

    return batch


def multinomial_batch(size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Draw for all rows of all examples."""
    x = batched_at_front(x, dims[0], size)
    out = torch.multinomial(x.reshape(-1, x.shape[-1]), *args, **kwargs)
    return out.reshape(*x.shape[:-1], out.shape[-1]), 0


def native_dropout_batch(
    size: int, dims: Any, x: Tensor, p: float, train: bool | None
) -> Any:
    """Drop from the whole batch."""
    x = batched_at_front(x, dims[0], size)
    return torch.native_dropout(x, p, train), 0


def native_dropout_share(
    size: int, dims: Any, x: Tensor, p: float, train: bool | None
) -> Any:
    """Drop the same elements of every example."""
    x = batched_at_front(x, dims[0], size)
    _, mask = torch.native_dropout(x.new_empty(x.shape[1:]), p, train)
    return (dropped(x, mask, p, train), mask), (0, None)


def dropped(x: Tensor, mask: Tensor, p: float, train: bool | None) -> Tensor:
    """Keep and scale what the mask keeps."""
    if train is False:
        return x * mask
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return aten.native_dropout_backward.default(x, mask, scale)  # type: ignore[no-any-return]


def native_dropout_linearize(
    wanted: Any, x: Tensor, p: float, train: bool | None
) -> Any:
    """The tangent is dropped and scaled as the input was."""
    out, mask = torch.native_dropout(x, p, train)
    return (out, mask), (Output(Elementwise(dropped, mask, p, train), 0, 2),)


def native_dropout_backward_linearize(
    wanted: Any, grad: Tensor, mask: Tensor, scale: float
) -> Any:
    """Linear in the gradient."""
    call = aten.native_dropout_backward.default
    return call(grad, mask, scale), (Elementwise(call, mask, scale), Zero())


def native_dropout_backward_batch(
    size: int, dims: Any, grad: Tensor, mask: Tensor, scale: float
) -> Any:
    """Elementwise."""
    grad, mask = (batched_at_front(t, d, size) for t, d in ((grad, dims[0]), (mask, dims[1])))
    return aten.native_dropout_backward.default(grad, mask, scale), 0


FACTORIES = (
    aten.rand.default,
    aten.rand.generator,
    aten.randn.default,
    aten.randn.generator,
    aten.randint.default,
    aten.randint.generator,
    aten.randint.low,
    aten.randint.low_generator,
    aten.normal.float_float,
)
FILLS = (
    aten.rand_like.default,
    aten.rand_like.generator,
    aten.randn_like.default,
    aten.randn_like.generator,
    aten.randint_like.default,
    aten.randint_like.generator,
    aten.randint_like.low_dtype,
    aten.randint_like.low_generator_dtype,
    aten.bernoulli.p,
    aten.normal_functional.default,
    aten.uniform.default,
    aten.exponential.default,
    aten.cauchy.default,
    aten.log_normal.default,
    aten.geometric.default,
    aten.random.default,
    getattr(aten.random, "from"),
    aten.random.to,
)
DRAWS = (
    aten.bernoulli.default,
    aten.bernoulli.Tensor,
    aten.normal.Tensor_float,
    aten.normal.float_Tensor,
    aten.normal.Tensor_Tensor,
    aten.randint_like.Tensor,
    aten.randint_like.Tensor_generator,
    aten.poisson.default,
    aten.binomial.default,
)
RECORDS = (
    *(factory(overload) for overload in FACTORIES),
    *(fill(overload) for overload in FILLS),
    *(draw(overload) for overload in DRAWS),
    Record(aten.randperm.default, randperm_batch(aten.randperm.default)),
    Record(aten.randperm.generator, randperm_batch(aten.randperm.generator)),
    Record(
        aten.multinomial.default, multinomial_batch, zero_derivative(torch.multinomial)
    ),
    Record(
        aten.native_dropout.default,
        native_dropout_batch,
        native_dropout_linearize,
        share=native_dropout_share,
    ),
    Record(
        aten.native_dropout_backward.default,
        native_dropout_backward_batch,
        native_dropout_backward_linearize,
    ),
)
