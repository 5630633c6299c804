"""The laws that every rule obeys, as pure functions of a case, and a command.

To check some operators (names of PyTorch's operator database, ``*`` allowed):

    python -m tests.laws sin cos 'nn.functional.conv*'
    python -m tests.laws --like softmax --laws batch,vjp --samples 6 -v

prints one line per operator and one column per law: ``ok``, ``FAIL``, ``-`` where the
law says nothing; ``-v`` prints the reason of each failure and ``-``, ``--trace`` its
traceback.
``--list WORD`` prints the names that contain WORD, ``--dtype complex128`` tries another
dtype, ``--full`` takes all laws (the default is those marked quick).
"""

import argparse
import dataclasses
import fnmatch
import functools
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import jaxtorch
from jaxtorch.errors import MissingRuleError, MutationError, RandomnessError
from tests.law_cases import NAMES, Case, NotApplicableError, cases, differentiable

FLAT = 1e-3
STEP = 1e-6

Tensors = list[Tensor]


# Pieces of the laws.


def close(actual: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Refuse values that differ; a NaN is expected where the oracle has one."""
    if len(actual) != len(expected):
        raise AssertionError(f"{len(actual)} results, expected {len(expected)}")
    if not expected:
        raise NotApplicableError("no result to compare")
    rtol, atol = max(rtol, coarseness(expected)), max(atol, coarseness(expected) / 10)
    if any(e.layout is not torch.strided for e in expected):
        raise NotApplicableError("sparse output")
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape:
            raise AssertionError(f"shape {list(a.shape)}, expected {list(e.shape)}")
        torch.testing.assert_close(
            a.resolve_conj().resolve_neg(), e, rtol=rtol, atol=atol, equal_nan=True
        )


def close_where_known(
    actual: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-8
) -> None:
    """As ``close``; a NaN of the oracle says nothing."""
    known = [~torch.isnan(e) for e in expected]
    if any(e.numel() for e in expected) and not any(k.any() for k in known):
        raise NotApplicableError("the oracle has only NaN")
    if [a.shape for a in actual] == [e.shape for e in expected]:
        actual = [a[k] for a, k in zip(actual, known, strict=True)]
        expected = [e[k] for e, k in zip(expected, known, strict=True)]
    close(actual, expected, rtol, atol)


COARSENESS = {
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
    torch.complex32: 1e-2,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
}


def coarseness(tensors: Sequence[Tensor]) -> float:
    """Return the relative error that the dtypes allow."""
    return max((COARSENESS.get(t.dtype, 0.0) for t in tensors), default=0.0)


def oracle(func: Callable[..., Any], *args: Any) -> Any:
    """Call what only PyTorch answers for; where it can't, the law says nothing."""
    try:
        return func(*args)
    except NotApplicableError:
        raise
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise NotApplicableError(f"oracle: {type(error).__name__}: {first}") from error


def random_like(tensors: Sequence[Tensor], seed: int) -> Tensors:
    """Draw a direction for each tensor."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, dtype=t.dtype, generator=made) for t in tensors]


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the real inner product of two lists of tensors."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(left, right, strict=True):
        total = total + torch.sum((a * b.conj()).real if a.is_complex() else a * b)
    return total


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
    return list(jaxtorch.vjp(func, *inputs)[1](list(cotangents)))


def refused(case: Case, error: Exception) -> bool:
    """Tell whether an error is a refusal that torch.func shares."""
    if case.rng and isinstance(error, RandomnessError):
        return True
    return case.writes and isinstance(error, MutationError)


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


def stack(column: Sequence[Tensor], dim: int) -> Tensor:
    """Stack examples; a batch that is not contiguous at ``dim`` -1."""
    return torch.stack(list(column), dim)


def batches(case: Case) -> list[tuple[str, Tensors, list[int | None]]]:
    """Return ways to batch the examples: name, batched tensors, in_dims."""
    examples = case.examples
    columns = list(zip(*examples, strict=True))
    count = len(columns)
    if not count:
        raise NotApplicableError("no tensor argument")
    ways: list[tuple[str, Sequence[int], int]] = [
        ("first", [0], 0),
        ("all at -1", range(count), -1),
    ]
    if count > 1:
        ways += [("last", [count - 1], 0), ("all at 0", range(count), 0)]
    out = []
    for name, places, dim in ways:
        args = [stack(c, dim) if i in places else c[0] for i, c in enumerate(columns)]
        dims = [dim if i in places else None for i in range(count)]
        out.append((name, args, dims))
    return out


def example_of(
    args: Sequence[Tensor], dims: Sequence[int | None], index: int
) -> Tensors:
    """Return example ``index`` of batched arguments."""
    return [
        a
        if d is None
        else a.select(d, index).clone(memory_format=torch.contiguous_format)
        for a, d in zip(args, dims, strict=True)
    ]


def loop(func: Any, args: Sequence[Tensor], dims: Sequence[int | None]) -> Tensors:
    """Call once per example and stack: what vmap must equal."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    outs = [func(*example_of(args, dims, i)) for i in range(size)]
    return [torch.stack(column) for column in zip(*outs, strict=True)]


def mapped(case: Case, func: Any, dims: Sequence[Any], strict: bool = False) -> Any:
    """Map a function of tensors with ``jaxtorch.vmap``."""
    return jaxtorch.vmap(
        func,
        in_dims=tuple(dims),
        randomness="same" if case.rng else "error",
        strict=strict,
    )


def note(error: Exception, text: str) -> None:
    """Add a line to an error that goes on; Python 3.10 has no way to."""
    if sys.version_info >= (3, 11):
        error.add_note(text)


# The laws.


def law_batch(case: Case) -> None:
    """``vmap(f)`` equals the loop, whichever arguments are batched at whichever dim."""
    seen = False
    for name, args, dims in batches(case):
        try:
            expected = oracle(loop, case.func, args, dims)
            close(expected, expected)
        except NotApplicableError:
            continue
        try:
            close(mapped(case, case.func, dims)(*args), expected)
        except Exception as error:
            if refused(case, error):
                continue
            note(error, f"batched: {name}")
            raise
        seen = True
    if not seen:
        raise NotApplicableError("no tensor output, or it is sparse")


def law_rule(case: Case) -> None:
    """No operator falls back to a loop over the examples."""
    _, args, dims = batches(case)[1]
    close(outs := oracle(loop, case.func, args, dims), outs)
    mapped(case, case.func, dims, strict=True)(*args)


def law_sizes(case: Case) -> None:
    """``vmap`` works for batches of one example and of none."""
    for _name, args, dims in batches(case)[1:2]:
        one = [
            a if d is None else a.narrow(d, 0, 1)
            for a, d in zip(args, dims, strict=True)
        ]
        none = [
            a if d is None else a.narrow(d, 0, 0)
            for a, d in zip(args, dims, strict=True)
        ]
        expected = oracle(loop, case.func, one, dims)
        close(mapped(case, case.func, dims)(*one), expected)
        empty = mapped(case, case.func, dims)(*none)
        close(empty, [e[:0] for e in expected])


def law_vjp(case: Case) -> None:
    """``vjp`` equals ``torch.autograd.grad``, and the output is the function's."""
    for example in case.examples[:1]:
        func, inputs = real_function(case, example)
        outs = func(*inputs)
        cotangents = oracle(random_cotangents, func, inputs, 1)
        expected = oracle(autograd_vjp, func, inputs, cotangents)
        value, pull = jaxtorch.vjp(func, *inputs)
        close(value, outs)
        close_where_known(list(pull(cotangents)), expected)


def law_transpose(case: Case) -> None:
    """``<A v, w> = <v, A^T w>``: forward and reverse mode agree."""
    func, inputs = real_function(case, case.examples[0])
    tangents = random_like(inputs, 2)
    outs, pushed = jaxtorch.jvp(func, tuple(inputs), tuple(tangents))
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
    _, pushed = jaxtorch.jvp(func, tuple(inputs), tuple(tangents))
    sizes = [float(o.abs().max()) for o in func(*inputs) if o.numel()]
    rounding = 1e-15 * max(filter(math.isfinite, sizes), default=0.0) / STEP
    atol = 2e-5 + rounding
    for own, slope, fine in zip(pushed, slopes, smooth, strict=True):
        close([own[fine]], [slope[fine].to(own.dtype)], rtol=2e-4, atol=atol)


def law_linearize(case: Case) -> None:
    """``linearize`` equals ``jvp``."""
    func, inputs = real_function(case, case.examples[0])
    tangents = random_like(inputs, 5)
    outs, push = jaxtorch.linearize(func, *inputs)
    expected = jaxtorch.jvp(func, tuple(inputs), tuple(tangents))
    close(list(outs), list(expected[0]))
    close(list(push(*tangents)), list(expected[1]))


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


def law_jvp_vjp(case: Case) -> None:
    """``jvp(vjp)``: a pull-back's derivative along ``(v, z)`` is ``H_w v + J^T z``."""
    func, inputs, cotangents, tangents = second_order(case)
    hessian = oracle(autograd_hessian, func, inputs, cotangents, tangents)
    others = oracle(random_cotangents, func, inputs, 8)
    linear = oracle(autograd_vjp, func, inputs, others)
    count = len(inputs)

    def pull(*both: Tensor) -> Tensors:
        return our_vjp(func, both[:count], both[count:])

    _, pushed = jaxtorch.jvp(pull, (*inputs, *cotangents), (*tangents, *others))
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
    _, pushed = jaxtorch.jvp(func, tuple(inputs), tuple(tangents))
    close(pulled[count:], list(pushed), rtol=1e-6, atol=1e-7)


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
    _, pull = jaxtorch.vjp(func, *inputs)
    for dim in (0, -1):
        several = [torch.stack([c, -2 * c], dim) for c in cotangents]
        rows = [pull([c.select(dim, i) for c in several]) for i in range(2)]
        found = jaxtorch.vmap(lambda *cs: pull(list(cs)), in_dims=dim)(*several)
        close(list(found), [torch.stack(column) for column in zip(*rows, strict=True)])


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


def law_vmap_jvp(case: Case) -> None:
    """``vmap(jvp)`` equals a loop of ``jvp``."""

    def push(*args: Tensor) -> Tensors:
        func, inputs, tangents = with_cotangents(case, args)
        outs, pushed = jaxtorch.jvp(func, tuple(inputs), tuple(tangents))
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


def loop_of(case: Case, dims: Sequence[int | None], *args: Tensor) -> Tensors:
    """The loop over a case's examples."""
    return loop(case.func, args, dims)


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
    _, pushed = jaxtorch.jvp(func, tuple(inputs), tuple(tangents))
    close(pulled[count:], list(pushed), rtol=1e-6, atol=1e-7)


def law_vmap_vmap(case: Case) -> None:
    """``vmap(vmap)`` equals two loops, at different dims."""
    if case.rng:
        raise NotApplicableError("random")
    columns = list(zip(*case.examples, strict=True))
    if not columns:
        raise NotApplicableError("no tensor argument")
    grids = []
    for column in columns:
        rows = [
            torch.stack([column[(i + j) % len(column)] for j in range(3)], -1)
            for i in range(2)
        ]
        grids.append(torch.stack(rows))
    inner_dims = [-1] * len(grids)
    if len(grids) > 1:
        grids[-1], inner_dims[-1] = grids[-1][..., 0], None

    def rows_of(*args: Tensor) -> Tensors:
        return loop(case.func, args, inner_dims)

    outer_dims = [0] * len(grids)
    expected = oracle(loop, rows_of, grids, outer_dims)
    both = mapped(case, mapped(case, case.func, inner_dims), outer_dims)
    close(both(*grids), expected)


LAWS: dict[str, Callable[[Case], None]] = {
    "batch": law_batch,
    "rule": law_rule,
    "vjp": law_vjp,
    "transpose": law_transpose,
    "vmap_vjp": law_vmap_vjp,
    "vmap_pull": law_vmap_pull,
    "sizes": law_sizes,
    "difference": law_difference,
    "linearize": law_linearize,
    "jvp_vjp": law_jvp_vjp,
    "vjp_vjp": law_vjp_vjp,
    "vmap_jvp": law_vmap_jvp,
    "vjp_vmap": law_vjp_vmap,
    "vmap_vmap": law_vmap_vmap,
    "autograd_vmap": law_autograd_vmap,
    "autograd_vjp": law_autograd_vjp,
}
BATCHING = ("batch", "rule", "sizes", "vmap_vmap")
QUICK = ("batch", "vjp", "transpose", "vmap_vjp")


def check(name: str, law: str, samples: int, dtype: torch.dtype | None = None) -> str:
    """Check one law on some cases of one operator.

    Returns "ok", or "-" where it says nothing about any case. Raises what the law does.
    """
    held = 0
    reason = "no case"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases(name, samples, dtype):
            try:
                LAWS[law](case)
                held += 1
            except NotApplicableError as error:
                reason = str(error)
            except Exception as error:
                if refused(case, error):
                    reason = "refused, as in torch.func"
                    continue
                unknown = law not in BATCHING and not has_oracle(case)
                if isinstance(error, MissingRuleError) and unknown:
                    reason = "no derivative here, nor in PyTorch"
                    continue
                note(error, f"law {law} on {case.name}")
                raise
    if not held:
        raise NotApplicableError(reason)
    return "ok"


def outcome(
    name: str, law: str, samples: int, dtype: torch.dtype | None
) -> tuple[str, Exception | None]:
    """Return "ok", "-" or "FAIL", and the reason."""
    try:
        return check(name, law, samples, dtype), None
    except NotApplicableError as error:
        return "-", error
    except Exception as error:
        return "FAIL", error


def select(patterns: Sequence[str], like: str | None) -> list[str]:
    """Return the names of operators that match."""
    names = [n for n in NAMES if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    return names + [n for n in NAMES if like and like in n and n not in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of laws of the chosen operators."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--like")
    parser.add_argument("--list")
    parser.add_argument("--laws", default="")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--dtype")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args(argv)
    if options.list is not None:
        print(*[n for n in NAMES if options.list in n], sep="\n")
        return 0
    laws = options.laws.split(",") if options.laws else LAWS if options.full else QUICK
    dtype = getattr(torch, options.dtype) if options.dtype else None
    names = select(options.names, options.like)
    width = max([len(n) for n in names], default=2)
    print(" " * width, *[f"{law:>13}" for law in laws])
    failed = 0
    for name in names:
        results = {law: outcome(name, law, options.samples, dtype) for law in laws}
        failed += any(word == "FAIL" for word, _ in results.values())
        print(f"{name:{width}}", *[f"{word:>13}" for word, _ in results.values()])
        for law, (word, error) in results.items():
            if error is None or not (options.verbose or options.trace):
                continue
            if word == "-":
                print(f"    {law}: {error}")
                continue
            notes = "; ".join(getattr(error, "__notes__", []))
            text = str(error).strip().replace("\n", "\n      ")
            print(f"    {law}: {notes}\n      {type(error).__name__}: {text}")
            if options.trace:
                traceback.print_exception(error)
    print(f"{len(names)} operators, {failed} with failures")
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main())
