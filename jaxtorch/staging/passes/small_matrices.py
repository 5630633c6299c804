"""A pass: stacks of small matrices are factored and solved by kernels.

Rules reach the kernels by themselves (rules/small_matrices.py); here come the calls
that no transform saw, and those of derivatives.
"""

from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import fx

from jaxtorch.kernels import OPERATORS
from jaxtorch.kernels.operator import Operator, runs_on
from jaxtorch.staging.passes.rewriting import emit, item, shape_of, value_of

aten = torch.ops.aten
CHOLESKY = OPERATORS["small_cholesky"]
LU = OPERATORS["small_lu"]
LU_SOLVE = OPERATORS["small_lu_solve"]
SOLVE = OPERATORS["small_solve"]
TRIANGULAR = OPERATORS["small_triangular"]
Results = list[fx.Node] | None


def lower_matrices(graph: fx.Graph) -> int:
    """Replace calls on small matrices; returns how many."""
    lowered = 0
    for node in list(graph.nodes):
        write = WRITERS.get(node.target)
        if write is None or not runs_on(node.meta["device"]):
            continue
        results = write(node, *node.args, **node.kwargs)
        if results is not None:
            replace(node, results)
            lowered += 1
    return lowered


def replace(node: Any, results: list[fx.Node]) -> None:
    """Let the readers of each result read what was emitted."""
    if isinstance(node.meta["val"], torch.Tensor):
        node.replace_all_uses_with(results[0])
        return
    for user in list(node.users):
        if user.target is getitem:
            user.replace_all_uses_with(results[user.args[1]])


def run(node: Any, operator: Operator, operands: list[Any], *rest: Any) -> Results:
    """Emit a kernel's call on stacks with one leading dim; None where it has none.

    The others are repeated to the leading dims of the first.
    """
    lead = shape_of(operands[0])[:-2]
    count = torch.Size(lead).numel()
    shapes = [[*lead, *shape_of(x)[-core_of(x) :]] for x in operands]
    pairs = list(zip(operands, shapes, strict=True))
    if any(not fits(shape_of(x), shape) for x, shape in pairs):
        return None
    flat = [[count, *shape[len(lead) :]] for shape in shapes]
    values = [
        value_of(x).expand(s).reshape(f) for (x, s), f in zip(pairs, flat, strict=True)
    ]
    if not operator.supports(*values, *rest):
        return None
    stacks = [
        emit(node, aten.view.default, emit(node, aten.expand.default, x, s), f)
        for (x, s), f in zip(pairs, flat, strict=True)
    ]
    out = emit(node, operator.overload, *stacks, *rest)
    single = isinstance(out.meta["val"], torch.Tensor)
    outs = (
        [out] if single else [item(node, out, i) for i in range(len(out.meta["val"]))]
    )
    return [emit(node, aten.view.default, o, [*lead, *shape_of(o)[1:]]) for o in outs]


def core_of(x: fx.Node) -> int:
    """Return how many dims behind the leading ones a matrix has, or a row of pivots."""
    return 1 if value_of(x).dtype is torch.int32 else 2


def fits(shape: list[int], wanted: list[int]) -> bool:
    """Tell whether a shape can be expanded to another one."""
    own = [1] * (len(wanted) - len(shape)) + shape
    return len(own) == len(wanted) and all(
        s in (1, w) for s, w in zip(own, wanted, strict=True)
    )


def turned(node: Any, x: fx.Node) -> fx.Node:
    """Emit the transposed matrices."""
    return emit(node, aten.transpose.int, x, -2, -1)


def lower_cholesky(
    node: Any, x: Any, *, upper: bool = False, check_errors: bool = False
) -> Results:
    """The factor and a status."""
    return None if check_errors else run(node, CHOLESKY, [x], upper)


def lower_lu(
    node: Any, x: Any, *, pivot: bool = True, check_errors: bool = False
) -> Results:
    """The packed factors, the pivots and a status."""
    return run(node, LU, [x]) if pivot and not check_errors else None


def lower_solve(
    node: Any, a: Any, b: Any, *, left: bool = True, check_errors: bool = False
) -> Results:
    """The solution, the packed factors, the pivots and a status."""
    if not left or check_errors:
        return None
    if shape_of(b) != shape_of(a)[:-1]:
        return run(node, SOLVE, [a, b])
    column = emit(node, aten.unsqueeze.default, b, -1)
    outs = run(node, SOLVE, [a, column])
    return outs and [emit(node, aten.squeeze.dim, outs[0], -1), *outs[1:]]


def lower_lu_solve(
    node: Any, packed: Any, pivots: Any, b: Any, *, left: bool = True,
    adjoint: bool = False,
) -> Results:  # fmt: skip
    """Solve with the factors; on the right of X it is the transposed that solves."""
    operands = [packed, pivots, b if left else turned(node, b)]
    outs = run(node, LU_SOLVE, operands, adjoint == left)
    return outs if left or outs is None else [turned(node, outs[0])]


def lower_triangular(
    node: Any, a: Any, b: Any, *, upper: bool, left: bool = True,
    unitriangular: bool = False,
) -> Results:  # fmt: skip
    """Solve with a triangle; on the right of X it is the transposed that solves."""
    operands = [a, b] if left else [turned(node, a), turned(node, b)]
    outs = run(node, TRIANGULAR, operands, upper == left, unitriangular)
    return outs if left or outs is None else [turned(node, outs[0])]


def lower_cholesky_solve(node: Any, b: Any, a: Any, upper: bool = False) -> Results:
    """Solve with a triangle and with its transpose."""
    first, second = (turned(node, a), a) if upper else (a, turned(node, a))
    outs = run(node, TRIANGULAR, [first, b], False, False)
    return outs and run(node, TRIANGULAR, [second, *outs], True, False)


def lower_inverse(node: Any, a: Any, *, check_errors: bool = False) -> Results:
    """The inverse and a status: solve for the columns of the identity."""
    if check_errors or not is_small(a):
        return None
    eye = emit(node, aten.eye.default, shape_of(a)[-1], dtype=value_of(a).dtype)
    outs = run(node, SOLVE, [a, emit(node, aten.expand.default, eye, shape_of(a))])
    return outs and [outs[0], outs[3]]


def is_small(a: fx.Node) -> bool:
    """Tell whether there is a kernel that factors these matrices."""
    return LU.supports(value_of(a).reshape([-1, *shape_of(a)[-2:]]))


def factored(node: Any, a: Any) -> Any:
    """Emit the factors: packed, the pivots, the diagonal, and the sign of the swaps."""
    outs = run(node, LU, [a])
    if outs is None:
        return None
    packed, pivots, _ = outs
    pivot = emit(node, aten.diagonal.default, packed, 0, -2, -1)
    places = emit(node, aten.arange.start, 1, shape_of(a)[-1] + 1)
    swaps = emit(node, aten.ne.Tensor, pivots, places)
    odd = emit(node, aten.sum.dim_IntList, swaps, [-1])
    odd = emit(node, aten.remainder.Scalar, odd, 2)
    parity = emit(node, aten.rsub.Scalar, emit(node, aten.mul.Tensor, odd, 2), 1)
    return packed, pivots, pivot, parity


def lower_det(node: Any, a: Any) -> Results:
    """The determinant, the packed factors and the pivots."""
    found = factored(node, a)
    if found is None:
        return None
    packed, pivots, pivot, parity = found
    size = emit(node, aten.prod.dim_int, pivot, -1)
    return [emit(node, aten.mul.Tensor, size, parity), packed, pivots]


def lower_slogdet(node: Any, a: Any) -> Results:
    """Sign and logarithm of the determinant, the packed factors, the pivots."""
    found = factored(node, a)
    if found is None:
        return None
    packed, pivots, pivot, parity = found
    signs = emit(node, aten.prod.dim_int, emit(node, aten.sign.default, pivot), -1)
    logs = emit(node, aten.log.default, emit(node, aten.abs.default, pivot))
    total = emit(node, aten.sum.dim_IntList, logs, [-1])
    return [emit(node, aten.mul.Tensor, signs, parity), total, packed, pivots]


WRITERS: dict[Any, Callable[..., Results]] = {
    aten.linalg_cholesky_ex.default: lower_cholesky,
    aten.linalg_lu_factor_ex.default: lower_lu,
    aten._linalg_solve_ex.default: lower_solve,
    aten.linalg_lu_solve.default: lower_lu_solve,
    aten.linalg_solve_triangular.default: lower_triangular,
    aten.cholesky_solve.default: lower_cholesky_solve,
    aten.linalg_inv_ex.default: lower_inverse,
    aten._linalg_det.default: lower_det,
    aten._linalg_slogdet.default: lower_slogdet,
}
