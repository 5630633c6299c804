"""Derivatives of a case: by the library, by torch.autograd, by differences."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.law_cases import Case, NotApplicableError, differentiable
from tests.laws.comparing import oracle, random_like
from tests.laws.library import LIBRARY, Tensors

STEP = 1e-6
FLAT = 1e-3


def real_function(case: Case, example: Sequence[Tensor]) -> tuple[Any, Tensors]:
    """Return the differentiable part of a case: a function and where to take it."""
    if not case.wanted:
        raise NotApplicableError("no differentiable input")
    inputs = [example[i] for i in case.wanted]
    outs = oracle(case.func, *example)
    if any(o.layout is not torch.strided for o in outs):
        raise NotApplicableError("sparse output")
    if not any(differentiable(o) and o.numel() for o in outs):
        raise NotApplicableError("no differentiable output")
    return functools.partial(partial_call, case, example), inputs


def partial_call(case: Case, example: Sequence[Tensor], *inputs: Tensor) -> Tensors:
    """Call a case on its differentiable inputs; return its differentiable outputs."""
    full = list(example)
    for place, value in zip(case.wanted, inputs, strict=True):
        full[place] = value
    return [out for out in case.func(*full) if differentiable(out)]


def random_cotangents(
    func: Callable[..., Tensors], inputs: Sequence[Tensor], seed: int
) -> Tensors:
    """Draw a cotangent for each output that torch.autograd tracks; others get zeros."""
    outs = func(*[x.detach().clone().requires_grad_() for x in inputs])
    if not any(o.requires_grad for o in outs):
        raise NotApplicableError("torch.autograd has no derivative")
    return [
        c if o.requires_grad else torch.zeros_like(c)
        for o, c in zip(outs, random_like(outs, seed), strict=True)
    ]


def autograd_vjp(
    func: Callable[..., Tensors],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    create_graph: bool = False,
) -> Tensors:
    """Return the cotangents of the inputs by torch.autograd; zeros where none."""
    if not create_graph:
        inputs = [x.detach().clone().requires_grad_() for x in inputs]
    outs = func(*inputs)
    pairs = [(o, c) for o, c in zip(outs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(
        [o for o, _ in pairs],
        inputs,
        [c for _, c in pairs],
        create_graph=create_graph,
        materialize_grads=True,
    )
    return [g if g.layout is torch.strided else g.to_dense() for g in found]


def our_vjp(func: Any, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Any:
    """Return the cotangents of the inputs by jaxtorch."""
    return list(LIBRARY.vjp(func, *inputs)[1](list(cotangents)))


def has_oracle(case: Case) -> bool:
    """Tell whether PyTorch has a derivative of a case, or needs none."""
    try:
        func, inputs = real_function(case, case.examples[0])
        cotangents = random_cotangents(func, inputs, 0)
        autograd_vjp(func, inputs, cotangents)
    except Exception:
        return not case.wanted
    return True


def shifted(
    inputs: Sequence[Tensor], directions: Sequence[Tensor], h: float
) -> Tensors:
    """Return ``inputs + h * directions``."""
    return [x + h * d for x, d in zip(inputs, directions, strict=True)]


def smooth_slope(
    func: Callable[..., Tensors], inputs: Tensors, directions: Tensors
) -> tuple[Tensors, Tensors]:
    """Return central differences, and where the function is smooth enough for them."""
    here = func(*inputs)
    ahead = func(*shifted(inputs, directions, STEP))
    back = func(*shifted(inputs, directions, -STEP))
    slopes, smooth = [], []
    for a, h, b in zip(ahead, here, back, strict=True):
        slope = (a - b) / (2 * STEP)
        jump = ((a - h) - (h - b)).abs() / STEP
        slopes.append(slope)
        fine = torch.isfinite(slope.abs()) & (jump <= FLAT * (1 + slope.abs()))
        smooth.append(fine)
    return slopes, smooth


def second_order(case: Case) -> tuple[Any, Tensors, Tensors, Tensors]:
    """Return ``g(x, w) = J(x)^T w`` by torch.autograd, x, w, and directions."""
    func, inputs = real_function(case, case.examples[0])
    cotangents = oracle(random_cotangents, func, inputs, 6)
    return func, inputs, cotangents, random_like(inputs, 7)


def autograd_hessian(
    func: Any, inputs: Tensors, cotangents: Tensors, tangents: Tensors
) -> Tensors:
    """Return the second derivative ``H_w v`` by torch.autograd, or by differences."""
    try:
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        pulled = autograd_vjp(func, leaves, cotangents, create_graph=True)
        return autograd_vjp(
            lambda *_: list(pulled), leaves, tangents, create_graph=True
        )
    except (RuntimeError, NotImplementedError):
        slopes, smooth = smooth_slope(
            lambda *xs: autograd_vjp(func, xs, cotangents), inputs, tangents
        )
        if not all(s.all() for s in smooth):
            raise
        return slopes
