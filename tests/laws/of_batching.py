"""The laws of vmap alone."""

import torch
from torch import Tensor

from tests.law_cases import Case, NotApplicableError
from tests.laws.comparing import close, note, oracle, refused
from tests.laws.library import Tensors
from tests.laws.mapping import batches, loop, mapped


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
