"""``hvp``: the Hessian-vector product of a scalar function."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from jaxtorch.core.opaque import opaque
from jaxtorch.transforms.checks import Argnums
from jaxtorch.transforms.forward import jvp
from jaxtorch.transforms.gradient import grad


@opaque
def hvp(func: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Tensor, Any]:
    """Return the value of a scalar function and its Hessian-vector product.

    Forward over reverse mode: about the cost of two gradients, no Hessian is formed.

    Args:
        func: a function of tensors, or pytrees of them, that returns a scalar tensor.
        primals: the tuple of its arguments.
        tangents: the tuple of directions, in the structure of ``primals``.

    Returns:
        ``(value, product)``; the product has the structure of ``primals`` (of its only
        entry where there is one).

    Raises:
        UsageError: (a RuntimeError) as ``jvp`` and ``grad``.

    Examples:
        >>> import torch, jaxtorch
        >>> x = torch.tensor([1.0, 2.0])
        >>> jaxtorch.hvp(lambda x: (x**3).sum(), (x,), (torch.ones(2),))
        (tensor(9.), tensor([ 6., 12.]))

    Source: Pearlmutter, Fast Exact Multiplication by the Hessian, 1994.
    """
    argnums = 0 if len(primals) == 1 else tuple(range(len(primals)))

    def gradient(*inputs: Any) -> Any:
        grads, value = grad_with_value(func, argnums, inputs)
        return grads, value

    _, product, value = jvp(gradient, primals, tangents, has_aux=True)
    return value, product


def grad_with_value(
    func: Callable[..., Any], argnums: Argnums, inputs: tuple[Any, ...]
) -> tuple[Any, Tensor]:
    """Return the gradient, and the value as its auxiliary output."""

    def doubled(*args: Any) -> tuple[Any, Any]:
        value = func(*args)
        return value, value

    result: tuple[Any, Tensor] = grad(doubled, argnums, has_aux=True)(*inputs)
    return result
