"""How fast a ``vmap`` can be: ``strict`` and ``vmap_report``."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from typing_extensions import Self

from jaxtorch.core.fallback import STRICTNESS
from jaxtorch.core.opaque import opaque
from jaxtorch.core.watching import WATCH, Notes, Row
from jaxtorch.transforms.vmap import vmap


class strict:  # noqa: N801 - a context manager reads as a function
    """Make it an error that an operator runs once per example, in every ``vmap``.

    An operator without a batching rule is looped over the examples with one warning.
    Within ``with strict():`` it raises instead, in every ``vmap`` of this thread, those
    inside ``jacrev``, ``jacfwd`` and ``hessian`` as well. ``vmap(..., strict=True)``
    says the same of one ``vmap``. A function that ``jit`` has traced before is not
    traced anew.

    Raises:
        MissingRuleError: (a NotImplementedError) at such an operator. It names the
            operator, the level of the ``vmap``, and the file to add a rule to.

    Examples:
        >>> import torch, jaxtorch
        >>> with jaxtorch.strict():
        ...     jaxtorch.vmap(torch.sin)(torch.zeros(3))
        tensor([0., 0., 0.])
    """

    def __enter__(self) -> Self:
        STRICTNESS.strict += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        STRICTNESS.strict -= 1


class Report:
    """The operators that a ``vmap`` met, and by which way each ran; prints as a table.

    Attributes:
        rows: a ``Row`` (``operator, way, level, calls, file``) for each operator, way
            and level; loops come first.
    """

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows

    @property
    def loops(self) -> tuple[Row, ...]:
        """The operators that run once per example."""
        return tuple(row for row in self.rows if row.way == "loop")

    def __repr__(self) -> str:
        lines = [("operator", "way", "level", "calls", "add a rule to")]
        if not self.loops:
            lines = [(*lines[0][:-1], "")]
        lines += [
            (r.operator, r.way, f"{r.level}", f"{r.calls}", r.file) for r in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


@opaque
def vmap_report(
    func: Callable[..., Any], *args: Any, in_dims: Any = 0, randomness: str = "error"
) -> Report:
    """Run ``vmap(func)`` once and tell by which way each of its operators ran.

    Args:
        func: a function of one example.
        *args: the arguments of ``vmap(func)``.
        in_dims: as for ``vmap``.
        randomness: as for ``vmap``.

    Returns:
        A table of the ATen operators that reached the batching of this ``vmap`` and of
        those inside it. The way is ``rule`` (all examples at once), ``decomposition``
        (as other operators, which have lines of their own), ``loop`` (once per example:
        slow) or ``shared`` (once, for arguments that are not batched). The level is the
        depth of the transform that ran it; 1 is the outermost.

    Raises:
        ArgumentError: (a ValueError) as ``vmap``, for ``in_dims`` that do not fit.

    Examples:
        >>> import torch, jaxtorch
        >>> x = torch.ones(3, 2)
        >>> jaxtorch.vmap_report(lambda x, w: (x * w).sum() + w.sum(), x, torch.ones(2),
        ...                      in_dims=(0, None))
        operator          way     level  calls
        aten.mul.Tensor   rule    1      1
        aten.sum.default  rule    1      1
        aten.add.Tensor   rule    1      1
        >>> jaxtorch.vmap_report(torch.sin, x).loops
        ()
    """
    outer = WATCH.notes
    notes = WATCH.notes = Notes()
    STRICTNESS.silent += 1
    try:
        vmap(func, in_dims, randomness=randomness)(*args)
    finally:
        WATCH.notes = outer
        STRICTNESS.silent -= 1
    return Report(notes.rows())
