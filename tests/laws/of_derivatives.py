"""The laws of derivatives alone."""

import math

import torch
from torch import Tensor

from tests.law_cases import Case, NotApplicableError
from tests.laws.comparing import (
    close,
    close_where_known,
    coarseness,
    inner,
    oracle,
    random_like,
)
from tests.laws.library import LIBRARY, Tensors
from tests.laws.slopes import (
    STEP,
    autograd_hessian,
    autograd_vjp,
    our_vjp,
    random_cotangents,
    real_function,
    second_order,
    smooth_slope,
)


def law_vjp(case: Case) -> None:
    """``vjp`` equals ``torch.autograd.grad``, and the output is the function's."""
    for example in case.examples[:1]:
        func, inputs = real_function(case, example)
        outs = func(*inputs)
        cotangents = oracle(random_cotangents, func, inputs, 1)
        expected = oracle(autograd_vjp, func, inputs, cotangents)
        value, pull = LIBRARY.vjp(func, *inputs)
        close(value, outs)
        close_where_known(list(pull(cotangents)), expected)


def law_transpose(case: Case) -> None:
    """``<A v, w> = <v, A^T w>``: forward and reverse mode agree."""
    func, inputs = real_function(case, case.examples[0])
    tangents = random_like(inputs, 2)
    outs, pushed = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
    close(outs, func(*inputs))
    cotangents = random_like(outs, 3)
    pulled = our_vjp(func, inputs, cotangents)
    if not all(torch.isfinite(o).all() for o in [*outs, *inputs]):
        raise NotApplicableError("not finite here")
    left, right = inner(pushed, cotangents), inner(tangents, pulled)
    own = coarseness([*outs, *inputs])
    close([left], [right], rtol=max(1e-7, own), atol=max(1e-8, own))


def law_difference(case: Case) -> None:
    """``jvp`` equals the central difference where the function is smooth."""
    func, inputs = real_function(case, case.examples[0])
    if coarseness([*inputs, *func(*inputs)]):
        raise NotApplicableError("not in float64")
    tangents = random_like(inputs, 4)
    slopes, smooth = oracle(smooth_slope, func, inputs, tangents)
    if not any(s.any() for s in smooth):
        raise NotApplicableError("not smooth here")
    _, pushed = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
    sizes = [float(o.abs().max()) for o in func(*inputs) if o.numel()]
    rounding = 1e-15 * max(filter(math.isfinite, sizes), default=0.0) / STEP
    atol = 2e-5 + rounding
    for own, slope, fine in zip(pushed, slopes, smooth, strict=True):
        close([own[fine]], [slope[fine].to(own.dtype)], rtol=2e-4, atol=atol)


def law_linearize(case: Case) -> None:
    """``linearize`` equals ``jvp``."""
    func, inputs = real_function(case, case.examples[0])
    tangents = random_like(inputs, 5)
    outs, push = LIBRARY.linearize(func, *inputs)
    expected = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
    close(list(outs), list(expected[0]))
    close(list(push(*tangents)), list(expected[1]))


def law_jvp_vjp(case: Case) -> None:
    """``jvp(vjp)``: a pull-back's derivative along ``(v, z)`` is ``H_w v + J^T z``."""
    func, inputs, cotangents, tangents = second_order(case)
    hessian = oracle(autograd_hessian, func, inputs, cotangents, tangents)
    others = oracle(random_cotangents, func, inputs, 8)
    linear = oracle(autograd_vjp, func, inputs, others)
    count = len(inputs)

    def pull(*both: Tensor) -> Tensors:
        return our_vjp(func, both[:count], both[count:])

    _, pushed = LIBRARY.jvp(pull, (*inputs, *cotangents), (*tangents, *others))
    expected = [h.detach() + g for h, g in zip(hessian, linear, strict=True)]
    close_where_known(list(pushed), expected, rtol=1e-5, atol=1e-6)


def law_vjp_vjp(case: Case) -> None:
    """``vjp(vjp)``: the pull-back of a pull-back is ``(H_w v, J v)``."""
    func, inputs, cotangents, tangents = second_order(case)
    hessian = oracle(autograd_hessian, func, inputs, cotangents, tangents)
    count = len(inputs)

    def pull(*both: Tensor) -> Tensors:
        return our_vjp(func, both[:count], both[count:])

    pulled = our_vjp(pull, [*inputs, *cotangents], tangents)
    close_where_known(
        pulled[:count], [h.detach() for h in hessian], rtol=1e-5, atol=1e-6
    )
    _, pushed = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
    close(pulled[count:], list(pushed), rtol=1e-6, atol=1e-7)


def law_autograd_vjp(case: Case) -> None:
    """torch.autograd through ``vjp`` is ``(H_w v, J v)``."""
    func, inputs, cotangents, tangents = second_order(case)
    hessian = oracle(autograd_hessian, func, inputs, cotangents, tangents)
    count = len(inputs)

    def pull(*both: Tensor) -> Tensors:
        return our_vjp(func, both[:count], both[count:])

    pulled = autograd_vjp(pull, [*inputs, *cotangents], tangents)
    close_where_known(
        pulled[:count], [h.detach() for h in hessian], rtol=1e-5, atol=1e-6
    )
    _, pushed = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
    close(pulled[count:], list(pushed), rtol=1e-6, atol=1e-7)
