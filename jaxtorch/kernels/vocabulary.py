"""ATen's calls in the words of programs. Which calls a kernel may hold, no kernel."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jaxtorch.kernels.language import DTYPES
from jaxtorch.kernels.program import Value, is_finite

aten = torch.ops.aten
Word = Callable[..., Any]
"""Takes the arguments of the call, with ``Value`` for tensors; None where it can't."""


def simple(name: str) -> Word:
    """Return the word for a step that takes tensors or numbers in order."""

    def word(first: Any, *args: Any) -> Any:
        value = next(a for a in (first, *args) if isinstance(a, Value))
        return value.step(name, first, *args)

    return word


def scaled(name: str, swap: bool = False) -> Word:
    """Return the word for a sum or difference, whose second operand has a factor."""

    def word(x: Any, y: Any, alpha: Any = 1) -> Any:
        right = y if alpha == 1 else y * alpha
        pair = (right, x) if swap else (x, right)
        return simple(name)(*pair)

    return word


def square(x: Value) -> Value:
    """Return ``x^2``."""
    return x * x


def power(x: Value, exponent: Any) -> Any:
    """Return a power that needs no logarithm."""
    known: dict[Any, Callable[[], Value]] = {
        -1: lambda: 1.0 / x,
        0.5: lambda: x.apply("sqrt"),
        -0.5: lambda: x.apply("rsqrt"),
        1: lambda: x,
        2: lambda: x * x,
        3: lambda: x * x * x,
        4: lambda: square(x * x),
    }
    return known[exponent]() if exponent in known else None


def clamp(x: Value, low: Any = None, high: Any = None) -> Value:
    """Keep x inside, and NaN as it is."""
    if low is not None:
        x = (x < low).where(low, x)
    if high is not None:
        x = (x > high).where(high, x)
    return x


def larger(x: Any, y: Any) -> Any:
    """Return the larger one, or NaN."""
    x, y = (x, y) if isinstance(x, Value) else (y, x)
    return x.step("either", x > y, x.step("ne", x, x)).where(x, y)


def smaller(x: Any, y: Any) -> Any:
    """Return the smaller one, or NaN."""
    x, y = (x, y) if isinstance(x, Value) else (y, x)
    return x.step("either", x < y, x.step("ne", x, x)).where(x, y)


def sigmoid(x: Value) -> Value:
    """Return ``1 / (1 + exp(-x))``."""
    return x.apply("sigmoid")


def softplus(x: Value, beta: float = 1, threshold: float = 20) -> Value:
    """Return ``log(1 + exp(beta x)) / beta``."""
    z = x * beta
    return (z > threshold).where(x, z.apply("exp").apply("log1p") / beta)


def softplus_backward(g: Value, x: Value, beta: float, threshold: float) -> Value:
    """Return ``g sigmoid(beta x)``."""
    z = x * beta
    return (z > threshold).where(g, g * sigmoid(z))


def tanh_backward(g: Value, y: Value) -> Value:
    """Return ``g (1 - y^2)``."""
    return g * (1.0 - y * y)


def sigmoid_backward(g: Value, y: Value) -> Value:
    """Return ``g y (1 - y)``."""
    return g * (y * (1.0 - y))


def silu(x: Value) -> Value:
    """Return ``x sigmoid(x)``."""
    return x * sigmoid(x)


def silu_backward(g: Value, x: Value) -> Value:
    """Return ``g s (1 + x (1 - s))`` with ``s = sigmoid(x)``."""
    s = sigmoid(x)
    return g * (s * (1.0 + x * (1.0 - s)))


ROOT = math.sqrt(2 / math.pi)
CUBE = 0.044715


def gelu(x: Value, approximate: str = "none") -> Value:
    """Return ``x cdf(x)``, or its form with tanh."""
    if approximate == "none":
        return x * (0.5 * (1.0 + (x * math.sqrt(0.5)).apply("erf")))
    u = (x * (ROOT + ROOT * CUBE * (x * x))).apply("tanh")
    return x * (0.5 * (1.0 + u))


def gelu_backward(g: Value, x: Value, approximate: str = "none") -> Value:
    """Return ``g (cdf(x) + x pdf(x))``, or the derivative of the form with tanh."""
    square = x * x
    if approximate == "none":
        below = 0.5 * (1.0 + (x * math.sqrt(0.5)).apply("erf"))
        density = (square * -0.5).apply("exp") * (1 / math.sqrt(2 * math.pi))
        return g * (below + x * density)
    u = (x * (ROOT + ROOT * CUBE * square)).apply("tanh")
    slope = ROOT + 3 * ROOT * CUBE * square
    return g * (0.5 * (1.0 + u) + 0.5 * x * (1.0 - u * u) * slope)


def mish(x: Value) -> Value:
    """Return ``x tanh(softplus(x))``."""
    return x * softplus(x).apply("tanh")


def mish_backward(g: Value, x: Value) -> Value:
    """Return ``g (w + x s (1 - w^2))``, ``w = tanh(softplus x)``."""
    w = softplus(x).apply("tanh")
    return g * (w + x * sigmoid(x) * (1.0 - w * w))


def elu(x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    """Return ``x``, and ``alpha expm1(x)`` below zero, with factors."""
    below = (x * input_scale).apply("expm1") * (alpha * scale)
    return (x > 0).where(x * scale, below)


def elu_backward(
    g: Value,
    alpha: float,
    scale: float,
    input_scale: float,
    is_result: bool,
    x: Value,
) -> Value:
    """Return the derivative by the input, or by the result."""
    if is_result:
        below = (x + alpha * scale) * input_scale
    else:
        below = (x * input_scale).apply("exp") * (alpha * scale * input_scale)
    return (x > 0).where(g * scale, g * below)


def celu(x: Value, alpha: float = 1) -> Value:
    """Return ``elu`` with the input scaled by ``1 / alpha``."""
    return elu(x, alpha, 1, 1 / alpha)


def leaky_relu(x: Value, slope: float = 0.01) -> Value:
    """Return ``x``, and ``slope x`` below zero."""
    return (x > 0).where(x, x * slope)


def leaky_relu_backward(g: Value, x: Value, slope: float, is_result: bool) -> Value:
    """Return ``g``, and ``slope g`` below zero."""
    return (x > 0).where(g, g * slope)


def hardswish(x: Value) -> Value:
    """Return ``x min(max(x + 3, 0), 6) / 6``."""
    return x * clamp(x + 3.0, 0.0, 6.0) / 6.0


def hardswish_backward(g: Value, x: Value) -> Value:
    """Return ``g (x / 3 + 1 / 2)`` inside the curved piece."""
    middle = g * (x / 3.0 + 0.5)
    return (x <= -3.0).where(0.0, (x < 3.0).where(middle, g))


def threshold_backward(g: Value, x: Value, threshold: float) -> Value:
    """Return ``g`` where x is above."""
    return (x <= threshold).where(0.0, g)


def relu(x: Value) -> Value:
    """Return ``max(x, 0)``, or NaN."""
    return (x <= 0).where(0.0, x)


def sign(x: Value) -> Value:
    """Return -1, 0 or 1; 0 for NaN, as ATen does."""
    return (x > 0).where(1.0, (x < 0).where(-1.0, 0.0))


def total(x: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """Return the sum, if it has the dtype of x."""
    return None if dtype is not None else x.apply("sum")


def mean(x: Value, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """Return the mean, if it has the dtype of x."""
    return None if dtype is not None else x.apply("sum") / x.step("count")


def softmax(x: Value, dim: int, wide: bool) -> Value:
    """Return ``exp(x - max)`` over its sum."""
    e = (x - x.apply("max")).apply("exp")
    return e / e.apply("sum")


def log_softmax(x: Value, dim: int, wide: bool) -> Value:
    """Return ``x - max`` less the log of the sum of its exp."""
    z = x - x.apply("max")
    return z - z.apply("exp").apply("sum").apply("log")


def softmax_backward(g: Value, y: Value, dim: int, dtype: Any) -> Value:
    """Return ``y (g - sum(y g))``."""
    return y * (g - (y * g).apply("sum"))


def log_softmax_backward(g: Value, y: Value, dim: int, dtype: Any) -> Value:
    """Return ``g - exp(y) sum(g)``."""
    return g - y.apply("exp") * g.apply("sum")


def cast(x: Value, *, dtype: Any = None, **rest: Any) -> Any:
    """Return the value itself, which is computed in float32 and stored in any dtype."""
    return x if dtype in DTYPES and not rest else None


def same(x: Value, *args: Any, **kwargs: Any) -> Value:
    """Return the value itself: broadcasting is left to the kernel."""
    return x


STEPS_OF_ONE = "neg abs exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid erf"
COMPARISONS = "gt ge lt le eq ne"

WORDS: dict[OpOverload, Word] = {
    **{getattr(aten, n).default: simple(n) for n in STEPS_OF_ONE.split()},
    **{getattr(aten, n).Tensor: simple(n) for n in COMPARISONS.split()},
    **{getattr(aten, n).Scalar: simple(n) for n in COMPARISONS.split()},
    aten.add.Tensor: scaled("add"),
    aten.sub.Tensor: scaled("sub"),
    aten.add.Scalar: scaled("add"),
    aten.sub.Scalar: scaled("sub"),
    aten.mul.Scalar: simple("mul"),
    aten.div.Scalar: simple("div"),
    aten.rsub.Scalar: scaled("sub", swap=True),
    aten.mul.Tensor: simple("mul"),
    aten.div.Tensor: simple("div"),
    aten.reciprocal.default: lambda x: 1.0 / x,
    aten.pow.Tensor_Scalar: power,
    aten.sgn.default: sign,
    aten.sign.default: sign,
    aten.where.self: simple("where"),
    aten.where.ScalarOther: simple("where"),
    aten.where.ScalarSelf: simple("where"),
    aten.where.Scalar: simple("where"),
    aten.logical_and.default: simple("both"),
    aten.bitwise_and.Tensor: simple("both"),
    aten.logical_or.default: simple("either"),
    aten.bitwise_or.Tensor: simple("either"),
    aten.logical_not.default: lambda x: x.step("eq", x, 0),
    aten.bitwise_not.default: lambda x: x.step("eq", x, 0),
    aten.maximum.default: larger,
    aten.minimum.default: smaller,
    aten.clamp.default: clamp,
    aten.clamp_min.default: clamp,
    aten.clamp_max.default: lambda x, high: clamp(x, None, high),
    aten.relu.default: relu,
    aten.threshold_backward.default: threshold_backward,
    aten.tanh_backward.default: tanh_backward,
    aten.sigmoid_backward.default: sigmoid_backward,
    aten.silu.default: silu,
    aten.silu_backward.default: silu_backward,
    aten.gelu.default: gelu,
    aten.gelu_backward.default: gelu_backward,
    aten.mish.default: mish,
    aten.mish_backward.default: mish_backward,
    aten.softplus.default: softplus,
    aten.softplus_backward.default: softplus_backward,
    aten.elu.default: elu,
    aten.elu_backward.default: elu_backward,
    aten.celu.default: celu,
    aten.leaky_relu.default: leaky_relu,
    aten.leaky_relu_backward.default: leaky_relu_backward,
    aten.hardswish.default: hardswish,
    aten.hardswish_backward.default: hardswish_backward,
    aten._to_copy.default: cast,
    aten.expand.default: same,
}
"""Elementwise calls."""
ROW_WORDS: dict[OpOverload, Word] = {
    aten.sum.default: total,
    aten.sum.dim_IntList: total,
    aten.mean.dim: mean,
    aten._softmax.default: softmax,
    aten._log_softmax.default: log_softmax,
    aten._softmax_backward_data.default: softmax_backward,
    aten._log_softmax_backward_data.default: log_softmax_backward,
}
"""Calls that reduce along rows."""


def word_of(overload: OpOverload) -> Word | None:
    """Return the word for a call, if there is one."""
    return WORDS.get(overload) or ROW_WORDS.get(overload)


def dims_of(overload: OpOverload, args: Sequence[Any], rank: int) -> tuple[int, ...]:
    """Return the dims along which a call reduces."""
    if overload not in ROW_WORDS:
        return ()
    backward = overload in (
        aten._softmax_backward_data.default,
        aten._log_softmax_backward_data.default,
    )
    place = 2 if backward else 1
    dims = args[place] if len(args) > place else None
    if isinstance(dims, int):
        dims = [dims]
    return tuple(sorted(d % rank for d in (dims or range(rank))))


def speak(overload: OpOverload, args: Sequence[Any], kwargs: Any) -> Any:
    """Write a call into the program of its values; None where that is not possible."""
    word = word_of(overload)
    numbers = [*args, *kwargs.values()]
    if word is None or not all(map(is_finite, numbers)):
        return None
    return word(*args, **kwargs)


def fits(x: Tensor) -> bool:
    """Tell whether a value of a call may be a value of a program."""
    return x.dtype in DTYPES or x.dtype in (torch.bool, torch.int64)
