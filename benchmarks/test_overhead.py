"""What does a transform cost beside the work itself, on chains of tiny operations?

The time of a call is ``fixed + per_op * operations``; the report reads both off chains
of three lengths.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import (
    Array,
    Contender,
    Library,
    Workload,
    data,
    transformed,
)
from benchmarks.timing import Call


def chain(lib: Library, length: int) -> Callable[[Array], Array]:
    """Return a function that runs ``length`` tiny operations in a row."""

    def run(x: Array) -> Array:
        for index in range(length):
            x = x * x if index % 2 else lib.np.sin(x)
        return x

    return run


def mapped(lib: Library, length: int) -> Any:
    """Map over 8 rows of 3."""
    return lib.transforms.vmap(chain(lib, length))


def gradient(lib: Library, length: int) -> Any:
    """Differentiate a sum of 24."""
    run = chain(lib, length)
    return lib.transforms.grad(lambda x: run(x).sum())


def mapped_gradient(lib: Library, length: int) -> Any:
    """Differentiate 8 sums at once."""
    return lib.transforms.vmap(gradient(lib, length))


def pushed(lib: Library, length: int) -> Any:
    """Push one tangent forward."""
    run = chain(lib, length)
    return lambda x: lib.transforms.jvp(run, (x,), (x,))


def mapped_jacobian(lib: Library, length: int) -> Any:
    """Make 8 Jacobians of 3 x 3."""
    return lib.transforms.vmap(lib.transforms.jacrev(chain(lib, length)))


def mapped_hessian(lib: Library, length: int) -> Any:
    """Make 8 Hessians of 3 x 3."""
    run = chain(lib, length)
    return lib.transforms.vmap(lib.transforms.hessian(lambda x: run(x).sum()))


TRANSFORMS = {
    "vmap": mapped,
    "grad": gradient,
    "vmap-grad": mapped_gradient,
    "jvp": pushed,
    "vmap-jacrev": mapped_jacobian,
    "vmap-hessian": mapped_hessian,
}


def slow(transform: str, length: int, x: Tensor) -> Call:
    """Do the same by torch.autograd.functional, row by row."""
    run = chain(Library(torch, torch), length)
    functional = torch.autograd.functional
    total: Callable[[Tensor], Tensor] = lambda row: run(row).sum()  # noqa: E731
    ways: dict[str, Callable[[Tensor], Any]] = {
        "vmap": run,
        "grad": lambda x: functional.jacobian(total, x),
        "vmap-grad": lambda x: functional.jacobian(total, x),
        "jvp": lambda x: functional.jvp(run, x, x),
        "vmap-jacrev": lambda x: [functional.jacobian(run, row) for row in x],
        "vmap-hessian": lambda x: [functional.hessian(total, row) for row in x],
    }
    way, in_rows = ways[transform], transform in ("vmap-jacrev", "vmap-hessian")
    return lambda: torch.stack(way(x)) if in_rows else way(x)


def workload(transform: str, length: int) -> Workload:
    """Return one transform of one chain, on one thread: no operation fills two."""

    def build(lib: Library) -> Any:
        return TRANSFORMS[transform](lib, length)

    def reference(x: Tensor) -> Call:
        return slow(transform, length, x)

    contenders: dict[str, Contender] = transformed(
        build, inductor=False, compiled=length == 10
    )
    return Workload(
        f"overhead-{transform}-{length}",
        f"{transform.replace('-', ' of ')}, {length} operations on 8 x 3 numbers",
        lambda: (data(8, 3, scale=0.5),),
        contenders,
        reference=reference,
        tolerance=1e-3,
        sweep=(f"operations in {transform}", length),
        counted=False,
        threads=1,
    )


def workloads(size: str) -> list[Workload]:
    """Return every transform at three lengths, or at two."""
    lengths = (1, 3) if size == "tiny" else (1, 10, 50)
    return [workload(name, length) for name in TRANSFORMS for length in lengths]


def test_overhead(entry: Any, record: Any) -> None:
    """Record a contender's time and memory."""
    record(entry)
