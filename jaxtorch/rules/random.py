"""Random numbers: samplers, their functional in-place forms, dropout.

A batch rule here is called for ``randomness="different"`` even if no argument is
batched, and draws for all examples in one call; ``share`` draws once for all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.errors import RandomnessError, explain
from jaxtorch.linear.diagonal import Elementwise, Scale
from jaxtorch.linear.operator import General, LinearOperator, Output, Zero
from jaxtorch.rules.batching import (
    batched_at_front,
    pad_rank,
    rank_of,
)
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


def multinomial_batch(
    size: int, dims: Any, x: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Draw for all rows of all examples."""
    x = batched_at_front(x, dims[0], size)
    out = torch.multinomial(x.reshape(-1, x.shape[-1]), *args, **kwargs)
    return out.reshape(*x.shape[:-1], out.shape[-1]), 0


def bernoulli_tensor_share(
    size: int, dims: Any, x: Tensor, p: Tensor, **kwargs: Any
) -> Any:
    """Draw once where only the tensor that is filled is batched."""
    if dims[1] is not None:
        raise RandomnessError(
            explain(
                "vmap",
                "bernoulli_ does not currently support same randomness with a batched "
                "tensor input.",
                "pass randomness='different', or probabilities that are not batched",
            )
        )
    return aten.bernoulli.Tensor(one_example(x, dims[0]), p, **kwargs), None


def standard_gamma_linearize(wanted: Any, x: Tensor, *args: Any) -> Any:
    """The reparametrized derivative that ATen gives with each draw."""
    out = aten._standard_gamma.default(x, *args)
    return out, (Elementwise(gamma_scale, x, out),)


def gamma_scale(t: Tensor, x: Tensor, out: Tensor) -> Any:
    """Multiply by the derivative of the draw ``out`` by its shape parameter."""
    return t * aten._standard_gamma_grad.default(x, out)


def derivative_kernel(overload: OpOverload) -> Record:
    """Make the record of a kernel of operands of one shape without a derivative."""

    def batch(size: int, dims: Any, *args: Tensor) -> Any:
        fronts = zip(args, dims, strict=True)
        return overload(*(batched_at_front(a, d, size) for a, d in fronts)), 0

    return Record(overload, batch)


def sample_dirichlet_batch(size: int, dims: Any, x: Tensor, *args: Any) -> Any:
    """Draw along the last dim of the batch."""
    return aten._sample_dirichlet.default(batched_at_front(x, dims[0], size), *args), 0


def sample_dirichlet_linearize(wanted: Any, x: Tensor, *args: Any) -> Any:
    """The derivative by which ``torch.distributions.Dirichlet`` is reparametrized."""
    out = aten._sample_dirichlet.default(x, *args)

    def scale() -> Any:
        total = x.sum(-1, keepdim=True).expand(x.shape)
        return aten._dirichlet_grad.default(out, x, total)

    def push(t: Tensor) -> Any:
        moved = t * scale()
        return moved - out * moved.sum(-1, keepdim=True)

    def pull(c: Tensor) -> Any:
        return scale() * (c - (out * c).sum(-1, keepdim=True))

    return out, (General(push, pull),)


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


def dropped(x: Tensor, mask: Tensor, p: float, train: bool | None) -> Any:
    """Keep and scale what the mask keeps."""
    if train is False:
        return x * mask
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return aten.native_dropout_backward.default(x, mask, scale)


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
    grad = batched_at_front(grad, dims[0], size)
    mask = batched_at_front(mask, dims[1], size)
    return aten.native_dropout_backward.default(grad, mask, scale), 0


def rrelu_batch(size: int, dims: Any, x: Tensor, noise: Tensor, *args: Any) -> Any:
    """Draw slopes for the whole batch."""
    x = batched_at_front(x, dims[0], size)
    noise = batched_at_front(noise, dims[1], size)
    return aten.rrelu_with_noise_functional.default(x, noise, *args), 0


def rrelu_share(
    size: int,
    dims: Any,
    x: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    """Draw slopes once: the n-th element below zero of every example has the n-th."""
    x = batched_at_front(x, dims[0], size)
    if not training:
        slope = (lower + upper) / 2
        return (torch.where(x <= 0, x * slope, x), noise), (0, dims[1])
    count = x.shape[1:].numel()
    drawn = aten.uniform.default(
        x.new_empty(count, dtype=torch.float64), lower, upper, generator=generator
    )
    below = (x <= 0).reshape(size, count)
    order = torch.clamp(torch.cumsum(below, 1) - 1, min=0)
    slopes = aten.index.Tensor(drawn.to(x.dtype), [order])
    noise = torch.where(below, slopes, slopes.new_ones(())).reshape(x.shape)
    return (x * noise, noise), 0


def rrelu_linearize(
    wanted: Any,
    x: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    """Each element is multiplied by its slope."""
    out = aten.rrelu_with_noise_functional.default(
        x, noise, lower, upper, training, generator
    )
    if training:
        operator: LinearOperator = Scale(out[1], x.shape, x.shape)
    else:
        slope = (lower + upper) / 2
        operator = Elementwise(lambda t, x: torch.where(x <= 0, t * slope, t), x)
    return out, (Output(operator, 0, 2), Zero())


def variants(name: str, *overloads: str) -> list[OpOverload]:
    """Return the overloads of an operator that this version of PyTorch has."""
    packet = getattr(aten, name)
    return [getattr(packet, o) for o in overloads if o in packet.overloads()]


FACTORIES = (
    *variants("rand", "default", "generator"),
    *variants("randn", "default", "generator"),
    *variants("randint", "default", "generator", "low", "low_generator"),
    *variants("normal", "float_float"),
)
FILLS = (
    *variants("rand_like", "default", "generator"),
    *variants("randn_like", "default", "generator"),
    *variants("randint_like", "default", "generator"),
    *variants("randint_like", "low_dtype", "low_generator_dtype"),
    *variants("bernoulli", "p"),
    *variants("normal_functional", "default"),
    *variants("uniform", "default"),
    *variants("exponential", "default"),
    *variants("cauchy", "default"),
    *variants("log_normal", "default"),
    *variants("geometric", "default"),
    *variants("random", "default", "from", "to"),
)
DRAWS = (
    *variants("bernoulli", "default"),
    *variants("normal", "Tensor_float", "float_Tensor", "Tensor_Tensor"),
    *variants("randint_like", "Tensor", "Tensor_generator"),
    *variants("poisson", "default"),
    *variants("binomial", "default"),
)
RECORDS = (
    *(factory(overload) for overload in FACTORIES),
    *(fill(overload) for overload in FILLS),
    *(draw(overload) for overload in DRAWS),
    Record(aten.randperm.default, randperm_batch(aten.randperm.default)),
    Record(aten.randperm.generator, randperm_batch(aten.randperm.generator)),
    Record(
        aten.bernoulli.Tensor,
        draw(aten.bernoulli.Tensor).batch,
        zero_derivative(aten.bernoulli.Tensor),
        share=bernoulli_tensor_share,
    ),
    Record(
        aten._standard_gamma.default,
        draw(aten._standard_gamma.default).batch,
        standard_gamma_linearize,
    ),
    derivative_kernel(aten._standard_gamma_grad.default),
    Record(
        aten._sample_dirichlet.default,
        sample_dirichlet_batch,
        sample_dirichlet_linearize,
    ),
    derivative_kernel(aten._dirichlet_grad.default),
    Record(
        aten.rrelu_with_noise_functional.default,
        rrelu_batch,
        rrelu_linearize,
        share=rrelu_share,
    ),
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
