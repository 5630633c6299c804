"""Normal forms as text, for people: ``0.5 * W[a,b] x[b] [a==c] -> [a,c]``."""

from itertools import count
from typing import Any

from jaxtorch.staging.multilinear.form import (
    Atom,
    Axes,
    Call,
    Factor,
    Form,
    Label,
    Term,
    Window,
)

DEPTH = 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Names:
    """Letters for labels, in the order in which they are met."""

    def __init__(self) -> None:
        self.given: dict[Label, str] = {}
        self.next = count()

    def of(self, label: Label) -> str:
        """Return the name of a label."""
        if label not in self.given:
            turn, place = divmod(next(self.next), len(LETTERS))
            self.given[label] = LETTERS[place] + (str(turn) if turn else "")
        return self.given[label]

    def axes(self, axes: Axes) -> str:
        """Return axes as they are written in an index."""
        parts = ["".join(self.of(x) for x in axis) or "1" for axis in axes]
        return ",".join(parts)


def source_text(source: Any, depth: int = DEPTH) -> str:
    """Return a source as an expression, down to some depth: calls share arguments."""
    if isinstance(source, Call):
        if not depth:
            return "..."
        name = str(source.target).removeprefix("aten.").partition(".")[0]
        return f"{name}({', '.join(source_text(a, depth - 1) for a in source.args)})"
    return str(source)


def factor_text(factor: Factor, names: Names) -> str:
    """Return one factor."""
    if isinstance(factor, Atom):
        return f"{source_text(factor.source)}[{names.axes(factor.axes)}]"
    if isinstance(factor, Window):
        shift = f"+{factor.offset}" if factor.offset else ""
        return f"[{names.of(factor.big)}=={names.axes((factor.small,))}{shift}]"
    return f"[{names.of(factor.label)}=={factor_text(factor.index, names)}]"


def term_text(term: Term) -> str:
    """Return a term."""
    names = Names()
    axes = names.axes(term.axes)
    parts = [factor_text(f, names) for f in term.factors]
    if term.coef != 1 or not parts:
        parts.insert(0, f"{term.coef:g}")
    return f"{' '.join(parts)} -> [{axes}]"


def form_text(form: Form) -> str:
    """Return a form."""
    return " + ".join(term_text(term) for term in form) or "0"
