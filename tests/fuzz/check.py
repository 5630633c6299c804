"""One case compared with its oracle."""

import warnings

import torch
from torch import Tensor

from tests.fuzz.oracle import expected
from tests.fuzz.parts import Outputs
from tests.fuzz.stack import JACOBIANS, Case

LARGEST_RESULT = 1e6


class MismatchError(AssertionError):
    """jaxtorch and the oracle differ."""


def check(case: Case) -> str:
    """Compare a case with its oracle; return why it says nothing, else nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wanted = expected(case)
        except (RuntimeError, NotImplementedError) as error:
            return f"oracle: {str(error).splitlines()[0][:100]}"
        if not all(tame(w) for w in wanted):
            return "derivatives too large to compare"
        args = case.arguments()
        func = case.function()
        compare(case, func(*args), wanted)
        if case.jit:
            compare(case, func(*args), wanted)
    for number, (own, fresh) in enumerate(zip(args, case.arguments(), strict=True)):
        if not torch.equal(own, fresh):
            raise MismatchError(f"argument {number} was written")
    return ""


def tame(x: Tensor) -> bool:
    """Tell whether a result can be compared."""
    if not x.is_floating_point() or not x.numel():
        return True
    return bool(x.isfinite().all()) and float(x.abs().max()) < LARGEST_RESULT


def compare(case: Case, got: Outputs, wanted: Outputs) -> None:
    """Raise where two results differ in number, shape, dtype or value."""
    if len(got) != len(wanted):
        raise MismatchError(f"{len(got)} outputs, expected {len(wanted)}")
    single = any(x.dtype is torch.float32 for x in wanted) or reads_float32(case)
    jacobian = any(layer.name in JACOBIANS for layer in case.layers)
    for number, (own, other) in enumerate(zip(got, wanted, strict=True)):
        where = f"output {number}"
        if own.shape != other.shape:
            raise MismatchError(
                f"{where}: {list(own.shape)}, expected {list(other.shape)}"
            )
        # The rows of a Jacobian over two dtypes have no dtype of their own.
        if own.dtype is not other.dtype and not (single and jacobian):
            raise MismatchError(f"{where}: {own.dtype}, expected {other.dtype}")
        if not close(own, other, 5e-3 if single else 1e-7):
            raise MismatchError(f"{where}:\n{own}\nexpected:\n{other}")


def reads_float32(case: Case) -> bool:
    """Tell whether a program computes anything in single precision."""
    program = case.program
    return any(own.dtype == "float32" for own in program.inputs) or any(
        op.name in ("to_float", "true_div_mixed", "halve", "tensor")
        for op in program.ops
    )


def close(own: Tensor, other: Tensor, tolerance: float) -> bool:
    """Tell whether two results are equal up to rounding."""
    if not other.is_floating_point():
        return torch.equal(own, other)
    if not other.numel():
        return True
    scale = 1 + other.abs().max()
    return bool(((own - other).abs() <= tolerance * scale).all())
