"""Jacobians, Hessians and Hessian-vector products, for one input and for batches.

Row by row, by ``vmap(vjp)``, by ``jacrev`` and by ``jacfwd``; which of the two modes
pays; batches of Jacobians; products that never form the Hessian.

    python -m examples.jacobians_hessians [--tiny] [--features D]
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from examples.common import agree, options, seconds
from jaxtorch import grad, hessian, hvp, jacfwd, jacrev, jvp, vjp, vmap


def predict(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer: ``tanh(weight @ x + bias)``."""
    return torch.tanh(torch.nn.functional.linear(x, weight, bias))


def jacobian_by_loop(func: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One backward pass per row."""
    leaf = x.clone().requires_grad_()
    out = func(leaf)
    rows = [torch.autograd.grad(o, leaf, retain_graph=True)[0] for o in out]
    return torch.stack(rows)


def show_jacobian(weight: Tensor, bias: Tensor, x: Tensor) -> None:
    """The same matrix in four ways, and those of the parameters."""

    def func(x: Tensor) -> Tensor:
        return predict(weight, bias, x)

    expected = jacobian_by_loop(func, x)
    out, pull = vjp(func, x)
    (rows,) = vmap(pull)(torch.eye(len(out)))
    agree("vmap(vjp)", rows, expected)
    agree("jacrev", jacrev(func)(x), expected)
    agree("jacfwd", jacfwd(func)(x), expected)
    agree("jacrev in chunks", jacrev(func, chunk_size=3)(x), expected)
    of_weight, of_bias = jacrev(predict, argnums=(0, 1))(weight, bias, x)
    slope = 1 - out.square()
    agree("of the bias", of_bias, slope.diag())
    agree("of the weight", of_weight, slope.diag().unsqueeze(-1) * x)


def compare_modes(few: int, many: int) -> None:
    """Forward mode pays where there are fewer inputs than outputs, and the reverse."""
    for outputs, inputs in ((many, few), (few, many)):
        layer = torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(inputs)
        reverse = functools.partial(jacrev(predict, 2), *layer)
        forward = functools.partial(jacfwd(predict, 2), *layer)
        agree("both modes", forward(), reverse())
        backwards, forwards = seconds(reverse), seconds(forward)
        print(f"  {inputs} inputs, {outputs} outputs:", end=" ")
        print(f"jacrev {backwards * 1e3:.1f} ms, jacfwd {forwards * 1e3:.1f} ms")


def show_hessian(weight: Tensor, bias: Tensor, x: Tensor) -> None:
    """Forward over reverse and forward over forward, against the closed form."""
    out = predict(weight, bias, x)
    curvature = -2 * out * (1 - out.square())
    expected = torch.einsum("o,oi,oj->oij", curvature, weight, weight)
    agree("hessian", hessian(predict, 2)(weight, bias, x), expected)
    twice = jacfwd(jacfwd(predict, 2), 2)
    agree("jacfwd(jacfwd)", twice(weight, bias, x), expected)


def show_batches(weight: Tensor, bias: Tensor, batch: Tensor) -> None:
    """One Jacobian or Hessian per example; the sum of outputs gives the same rows."""
    per_example = vmap(jacrev(predict, 2), in_dims=(None, None, 0))(weight, bias, batch)
    expected = [jacobian_by_loop(lambda x: predict(weight, bias, x), x) for x in batch]
    agree("a batch of Jacobians", per_example, torch.stack(expected))

    def summed(batch: Tensor) -> Tensor:
        return predict(weight, bias, batch).sum(0)

    agree("by the sum", jacrev(summed)(batch).movedim(1, 0), per_example)
    hessians = vmap(hessian(predict, 2), in_dims=(None, None, 0))(weight, bias, batch)
    agree(
        "a batch of Hessians", hessians[0], hessian(predict, 2)(weight, bias, batch[0])
    )


def show_products(x: Tensor, direction: Tensor) -> None:
    """Hessian-vector products in two orders of the modes."""

    def func(x: Tensor) -> Tensor:
        return x.sin().sum() + x.square().mean().exp()

    (expected,) = torch.autograd.functional.hvp(func, x, direction)[1:]
    _, forward_over_reverse = jvp(grad(func), (x,), (direction,))
    agree("forward over reverse", forward_over_reverse, expected)
    _, pull = vjp(grad(func), x)
    agree("reverse over reverse", pull(direction)[0], expected)
    agree("hvp", hvp(func, (x,), (direction,))[1], expected)


def main(argv: Sequence[str] | None = None) -> None:
    """Show each in turn."""
    args = options(
        __doc__, argv, features=(512, 4), outputs=(32, 5), batch=(64, 2), many=(2048, 6)
    )
    torch.manual_seed(0)
    weight, bias = torch.randn(args.outputs, args.features), torch.randn(args.outputs)
    weight /= args.features**0.5
    x = torch.randn(args.features)
    print("one Jacobian")
    show_jacobian(weight, bias, x)
    print("forward or reverse mode")
    compare_modes(args.outputs, args.many)
    print("Hessians")
    show_hessian(weight, bias, x)
    print("batches")
    few = min(args.features, args.outputs)
    show_batches(weight[:, :few], bias, torch.randn(args.batch, few))
    print("Hessian-vector products")
    show_products(*torch.randn(2, args.many))


if __name__ == "__main__":
    main()
