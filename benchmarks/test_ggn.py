"""What does a product with the generalized Gauss-Newton matrix cost?"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.harness import Contender, Library, Workload, optional, transformed
from benchmarks.regression import Fit, curvature
from benchmarks.timing import Call


def product(own: Fit, lib: Library) -> Any:
    """Return ``J^T H J v``: through the network, the loss's Hessian, and back."""
    model, transforms = own.model(lib), lib.transforms

    def call(params: Any, x: Any, y: Any, direction: Any) -> Any:
        def predict(params: Any) -> Any:
            return model(params, x)

        def loss_gradient(logits: Any) -> Any:
            return transforms.grad(lambda z: models.cross_entropy(lib, z, y))(logits)

        _, pushed = transforms.jvp(predict, (params,), (direction,))
        logits, pull_back = transforms.vjp(predict, params)
        _, curved = transforms.jvp(loss_gradient, (logits,), (pushed,))
        return pull_back(curved)[0]

    return call


def two_backwards(own: Fit, params: Any, x: Any, y: Any, direction: Any) -> Call:
    """Call torch.autograd: the Jacobian's product by its transpose's derivative."""
    net, leaves = own.tracked(params)
    values = list(leaves.values())

    def call() -> dict[str, Tensor]:
        logits = net(x)
        dummy = torch.ones_like(logits, requires_grad=True)
        pulled = torch.autograd.grad(logits, values, dummy, create_graph=True)
        (pushed,) = torch.autograd.grad(
            pulled, dummy, list(direction.values()), retain_graph=True
        )
        free = logits.detach().requires_grad_()
        loss = nn.functional.cross_entropy(free, y)
        (grad,) = torch.autograd.grad(loss, free, create_graph=True)
        (curved,) = torch.autograd.grad(grad, free, pushed)
        out = torch.autograd.grad(logits, values, curved)
        return dict(zip(leaves, out, strict=True))

    return call


def backpack(own: Fit, params: Any, x: Any, y: Any, direction: Any) -> Call:
    """Call BackPACK's product."""
    net, leaves = own.tracked(params)
    multiply = optional("backpack.hessianfree.ggnvp").ggn_vector_product

    def call() -> dict[str, Tensor]:
        logits = net(x)
        loss = nn.functional.cross_entropy(logits, y)
        out = multiply(loss, logits, net, list(direction.values()))
        return dict(zip(leaves, out, strict=True))

    return call


def workloads(size: str) -> list[Workload]:
    """Return one product."""
    widths, batch = {
        "tiny": ((6, 5, 3), 4),
        "cpu": ((64, 128, 128, 10), 128),
        "gpu": ((784, 512, 512, 10), 512),
    }[size]
    own = Fit(widths, batch, 0)
    slow = functools.partial(two_backwards, own)
    operator = functools.partial(curvature, "GGNLinearOperator", own)
    contenders = {
        **transformed(functools.partial(product, own)),
        "double backward": Contender(slow),
        "BackPACK": Contender(functools.partial(backpack, own), "backpack"),
        "curvlinops": Contender(operator, "curvlinops"),
    }
    return [
        Workload(
            "ggn-1", own.title, own.inputs, contenders, reference=slow, tolerance=1e-3
        )
    ]


def test_ggn(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
