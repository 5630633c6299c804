"""The laws of derivatives under vmap, and of vmap under a derivative."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.law_cases import Case, NotApplicableError, differentiable
from tests.laws.comparing import (
    close,
    close_where_known,
    note,
    oracle,
    random_like,
    refused,
)
from tests.laws.library import LIBRARY, Tensors
from tests.laws.mapping import batches, loop, loop_of, mapped
from tests.laws.slopes import (
    autograd_vjp,
    our_vjp,
    partial_call,
    random_cotangents,
    real_function,
)


def with_cotangents(case: Case, args: Sequence[Tensor]) -> tuple[Any, Tensors, Tensors]:
    """Split the arguments into those of the case and the cotangents."""
    count = len(case.examples[0])
    example = args[:count]
    inputs = [example[i] for i in case.wanted]
    return (
        functools.partial(partial_call, case, example),
        inputs,
        list(args[count:]),
    )


def compare_mapped(case: Case, ours: Any, theirs: Any, cotangents: bool) -> None:
    """Compare ``vmap(ours)`` with the loop of ``theirs`` for each way to batch."""
    func, inputs = real_function(case, case.examples[0])
    keep, likes = [1.0] * len(inputs), inputs
    if cotangents:
        likes = oracle(random_cotangents, func, inputs, 9)
        keep = [float(like.any()) for like in likes]
    seen = False
    for name, args, dims in batches(case)[:3]:
        size = next(
            a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None
        )
        extra = random_like([like.expand(size, *like.shape) for like in likes], 9)
        extra = [e * k for e, k in zip(extra, keep, strict=True)]
        full, full_dims = [*args, *extra], [*dims, *[0] * len(extra)]
        try:
            expected = oracle(loop, theirs, full, full_dims)
        except NotApplicableError:
            continue
        try:
            compare = close_where_known if cotangents else close
            compare(mapped(case, ours, full_dims)(*full), expected)
        except Exception as error:
            if refused(case, error):
                continue
            note(error, f"batched: {name}")
            raise
        seen = True
    if not seen:
        raise NotApplicableError("the oracle has no answer")


def law_vmap_vjp(case: Case) -> None:
    """``vmap(vjp)`` equals a loop of ``torch.autograd.grad``."""

    def ours(*args: Tensor) -> Tensors:
        func, inputs, cotangents = with_cotangents(case, args)
        return our_vjp(func, inputs, cotangents)

    def theirs(*args: Tensor) -> Tensors:
        func, inputs, cotangents = with_cotangents(case, args)
        return autograd_vjp(func, inputs, cotangents)

    compare_mapped(case, ours, theirs, cotangents=True)


def law_vmap_pull(case: Case) -> None:
    """``vmap`` of a pull-back, as in ``jacrev``: only the cotangents are batched."""
    func, inputs = real_function(case, case.examples[0])
    cotangents = oracle(random_cotangents, func, inputs, 12)
    _, pull = LIBRARY.vjp(func, *inputs)
    for dim in (0, -1):
        several = [torch.stack([c, -2 * c], dim) for c in cotangents]
        rows = [pull([c.select(dim, i) for c in several]) for i in range(2)]
        found = LIBRARY.vmap(lambda *cs: pull(list(cs)), in_dims=dim)(*several)
        close(list(found), [torch.stack(column) for column in zip(*rows, strict=True)])


def law_vmap_jvp(case: Case) -> None:
    """``vmap(jvp)`` equals a loop of ``jvp``."""

    def push(*args: Tensor) -> Tensors:
        func, inputs, tangents = with_cotangents(case, args)
        outs, pushed = LIBRARY.jvp(func, tuple(inputs), tuple(tangents))
        return [*outs, *pushed]

    push(*case.examples[0], *random_like(real_function(case, case.examples[0])[1], 0))
    compare_mapped(case, push, push, cotangents=False)


def law_vjp_vmap(case: Case) -> None:
    """``vjp(vmap)`` equals torch.autograd through the loop."""
    real_function(case, case.examples[0])
    seen = False
    for name, args, dims in batches(case)[:2]:
        whole = dataclasses.replace(case, examples=(tuple(args),))
        places = whole.wanted

        def run(batched: Any, *inputs: Tensor) -> Tensors:
            full = list(args)
            for place, value in zip(places, inputs, strict=True):
                full[place] = value
            return [out for out in batched(*full) if differentiable(out)]

        inputs = [args[i] for i in places]
        by_loop = functools.partial(run, functools.partial(loop_of, case, dims))
        try:
            cotangents = oracle(random_cotangents, by_loop, inputs, 10)
            expected = oracle(autograd_vjp, by_loop, inputs, cotangents)
        except NotApplicableError:
            continue
        try:
            by_vmap = functools.partial(run, mapped(case, case.func, dims))
            close_where_known(our_vjp(by_vmap, inputs, cotangents), expected)
        except Exception as error:
            if refused(case, error):
                continue
            note(error, f"batched: {name}")
            raise
        seen = True
    if not seen:
        raise NotApplicableError("the oracle has no answer")


def law_autograd_vmap(case: Case) -> None:
    """torch.autograd through ``vmap`` equals torch.autograd through the loop."""
    func, _ = real_function(case, case.examples[0])
    name, args, dims = batches(case)[1]
    whole = dataclasses.replace(case, examples=(tuple(args),))
    inputs = [args[i] for i in whole.wanted]

    def run(batched: Any, *inputs: Tensor) -> Tensors:
        own = dataclasses.replace(whole, func=batched)
        return partial_call(own, args, *inputs)

    by_loop = functools.partial(run, functools.partial(loop_of, case, dims))
    cotangents = oracle(random_cotangents, by_loop, inputs, 11)
    expected = oracle(autograd_vjp, by_loop, inputs, cotangents)
    by_vmap = functools.partial(run, mapped(case, case.func, dims))
    close_where_known(autograd_vjp(by_vmap, inputs, cotangents), expected)
