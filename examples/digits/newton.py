"""Newton's method with conjugate gradients on a softmax regression of the pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import jaxtorch
from examples.digits.data import Digits
from examples.digits.report import Row, check

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """A fit by Newton's method.

    Attributes:
        weights: the solution, shape [10, 64].
        gradient_norms: the norm of the gradient before every step and at the end.
        products: how many Hessian-vector products each step took.
        accuracy: on the test images.
    """

    weights: Tensor
    gradient_norms: list[float]
    products: list[int]
    accuracy: float


def regression_loss(pixels: Tensor, labels: Tensor, decay: float = 1e-3) -> Loss:
    """Return the regularized loss as a function of the weights of shape [10, 64]."""

    def loss(weights: Tensor) -> Tensor:
        fit = F.cross_entropy(pixels @ weights.t(), labels)
        return fit + 0.5 * decay * (weights * weights).sum()

    return loss


def newton(
    loss: Loss, weights: Tensor, steps: int, tolerance: float = 1e-9
) -> tuple[Tensor, list[float], list[int]]:
    """Minimize: each step linearizes the gradient once and solves with its derivative.

    The accuracy of the inner solve follows the gradient, which makes the convergence
    superlinear. Source: Nocedal and Wright, Numerical Optimization, algorithm 7.1.
    """
    gradient_norms, products = [], []
    for _ in range(steps):
        gradient, hessian_product = jaxtorch.linearize(jaxtorch.grad(loss), weights)
        norm = gradient.norm().item()
        gradient_norms.append(norm)
        if norm < tolerance:
            break
        step, count = conjugate_gradients(
            hessian_product, -gradient, min(0.5, norm**0.5) * norm
        )
        products.append(count)
        weights = backtrack(loss, weights, step, gradient)
    return weights, gradient_norms, products


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, tolerance: float
) -> tuple[Tensor, int]:
    """Solve ``product(x) = target`` for a positive definite product."""
    x = torch.zeros_like(target)
    residual = direction = target
    square = residual.square().sum()
    for count in range(1, target.numel() + 1):
        image = product(direction)
        length = square / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        new_square = residual.square().sum()
        if new_square.sqrt() < tolerance:
            return x, count
        direction = residual + new_square / square * direction
        square = new_square
    return x, target.numel()


def backtrack(loss: Loss, weights: Tensor, step: Tensor, gradient: Tensor) -> Tensor:
    """Halve the step until the loss falls enough (Armijo's condition)."""
    start = loss(weights)
    slope = (gradient * step).sum()
    length = 1.0
    while length > 1e-8:
        candidate = weights + length * step
        if loss(candidate) <= start + 1e-4 * length * slope:
            return candidate
        length /= 2
    return weights


def autograd_product(loss: Loss, weights: Tensor, direction: Tensor) -> Tensor:
    """Return the Hessian-vector product by differentiating twice."""
    leaf = weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (product,) = torch.autograd.grad(gradient, leaf, direction)
    return product


def repeated_products(
    loss: Loss, weights: Tensor, directions: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return many products at one point: linearized once, and a retained graph."""

    def linearized() -> Tensor:
        _, product = jaxtorch.linearize(jaxtorch.grad(loss), weights)
        return torch.stack([product(d) for d in directions])

    def retained() -> Tensor:
        leaf = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        products = [
            torch.autograd.grad(gradient, leaf, d, retain_graph=True)[0]
            for d in directions
        ]
        return torch.stack(products)

    return linearized, retained


def study(
    digits: Digits, steps: int, generator: torch.Generator
) -> tuple[Fit, list[Row]]:
    """Fit, and check the Hessian-vector products at the solution."""
    pixels = digits.images.flatten(1).double()
    loss = regression_loss(pixels, digits.labels)
    start = torch.zeros(10, pixels.shape[1], dtype=torch.float64)
    weights, gradient_norms, products = newton(loss, start, steps)
    guesses = (digits.test_images.flatten(1).double() @ weights.t()).argmax(1)
    score = (guesses == digits.test_labels).double().mean().item()
    fit = Fit(weights, gradient_norms, products, score)
    directions = torch.randn(
        20, *weights.shape, dtype=torch.float64, generator=generator
    )
    single = check(
        "hvp, softmax regression",
        f"gradient norm {gradient_norms[-1]:.0e} after {len(products)} Newton steps",
        lambda: jaxtorch.hvp(loss, (weights,), (directions[0],))[1],
        lambda: autograd_product(loss, weights, directions[0]),
        rounds=10,
    )
    linearized, retained = repeated_products(loss, weights, directions)
    many = check(
        "linearize(grad), 20 products",
        f"{sum(products)} products in all; test accuracy {score:.1%}",
        linearized,
        retained,
    )
    return fit, [single, many]
