"""A command that writes docs/coverage.md: by which way each operator runs.

    python -m tests.coverage [--out docs/coverage.md]

Two tables: the operators of PyTorch's database, and the overloads that have a record.
Nothing is read off the records: each word is seen while a law of ``tests.laws`` is
checked. The calls of an overload are picked up while the database runs.
"""

import argparse
import collections
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import jaxtorch
from jaxtorch.core.level import Wrapper
from jaxtorch.rules.table import TABLE
from tests import law_cases
from tests.law_cases import MAX_NUMEL, Case, NotApplicableError
from tests.laws.slopes import autograd_vjp, our_vjp, random_cotangents, real_function
from tests.ways import NO_WORD, TRANSFORMS, WORDS, Outcome, our_way, row

FILE = Path(__file__).parent.parent / "docs" / "coverage.md"
CALLS = 60
SAMPLES = 2
PICKED = 8
UNSEEN = "not met"
START = "<!-- written by python -m tests.against_torch_func -->"
END = "<!-- end of the comparison -->"

HEAD = """# Which way every operator runs

Written by `python -m tests.coverage`; every word was seen while a law of
`tests/laws` was checked against a Python loop and `torch.autograd`.

- **rule**: each primitive that ran has a rule.
- **decomposition**: some primitive was written with others, ours or PyTorch's.
- **loop**: some primitive ran once per example, with a warning.
- **no**: an error, or another value than the oracle's.
  Where an overload says so and its operator does not, the difference is in what only
  kernels see: saved statistics, the other half of a triangular factor, a pivot, the
  state of a generator.
- **-**: nothing to check: no floating-point input or output, no answer of the oracle,
  or a refusal that torch.func shares.
- **not met**: no operator of the database calls the overload on a CPU; `tests/laws`
  and the tests of its family check it.
"""


class Pick(TorchDispatchMode):
    """Picks up calls of overloads that have a record, with copies of the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[OpOverload, list[Any]] = collections.defaultdict(list)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found = self.calls[func] if func in TABLE else None
        if found is not None and len(found) < CALLS:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            if is_plain(leaves):
                found.append(([copied(leaf) for leaf in leaves], spec))
        return func(*args, **kwargs)


def is_plain(leaves: Sequence[Any]) -> bool:
    """Tell whether a call is small and holds only ordinary tensors."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return sum(t.numel() for t in tensors) <= MAX_NUMEL and not any(
        isinstance(t, Wrapper) or t.layout is not torch.strided for t in tensors
    )


def copied(leaf: Any) -> Any:
    """Copy a tensor."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().resolve_conj().resolve_neg().clone()


def pick_up(case: Case) -> dict[OpOverload, list[Any]]:
    """Run a case and its derivatives; return the calls that plain tensors met."""
    pick = Pick()
    runs: list[Callable[[], Any]] = []
    for example in case.examples:
        runs.append(lambda example=example: case.func(*example))
        runs.append(lambda example=example: derivatives(case, example))
        runs.append(lambda example=example: derivatives(case, example, mapped=True))
    for run in runs:
        try:
            with pick:
                run()
        except Exception:
            continue
    return pick.calls


def derivatives(case: Case, example: Sequence[Tensor], mapped: bool = False) -> None:
    """Run both autograd systems backward; ours also mapped over the cotangents."""
    func, inputs = real_function(case, example)
    cotangents = random_cotangents(func, inputs, 1)
    autograd_vjp(func, inputs, cotangents)
    pull = jaxtorch.vjp(func, *inputs)[1]
    pull(cotangents)
    if mapped:
        our_vjp(lambda *xs: our_vjp(func, list(xs), cotangents), inputs, inputs)
        several = [torch.stack([c, -c]) for c in cotangents]
        jaxtorch.vmap(lambda *cs: pull(list(cs)))(*several)


def signature(call: Any) -> Any:
    """Return what two calls have in common that may be examples of one batch."""
    leaves, spec = call
    own = [(x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves]
    return repr(spec), repr(own)


def numbers_in(call: Any) -> tuple[int, int, int]:
    """Rank a call as a sample: float64 first, none of its tensors empty, some size."""
    tensors = [leaf for leaf in call[0] if isinstance(leaf, Tensor)]
    double = sum(t.dtype in (torch.float64, torch.complex128) for t in tensors)
    return all(t.numel() for t in tensors), double, sum(t.numel() > 1 for t in tensors)


def overload_case(overload: OpOverload, calls: Sequence[Any]) -> Case:
    """Make a case of the best call of an overload, and of another that is alike."""
    best = max(calls, key=numbers_in)
    alike = [c for c in calls if signature(c) == signature(best) and c is not best]
    leaves, spec = best
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def call(*tensors: Tensor) -> list[Tensor]:
        full = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        args, kwargs = pytree.tree_unflatten(full, spec)
        out = overload(*args, **kwargs)
        return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]

    examples = [tuple(c[0][i] for i in places) for c in [best, *alike, best][:2]]
    return finished(overload.name(), call, examples)


def finished(name: str, func: law_cases.Function, examples: Sequence[Any]) -> Case:
    """Make a case; what draws numbers is seeded, what writes is called on copies."""
    first = examples[0]
    rng, writes = law_cases.watch(func, first)
    if writes:
        func = law_cases.on_copies(func)
    if rng:
        func = law_cases.seeded(func)
    wanted = law_cases.wanted_by(func, first) or [
        i for i, t in enumerate(first) if law_cases.differentiable(t)
    ]
    return Case(name, func, tuple(examples), tuple(wanted), rng, writes)


def database() -> Iterator[tuple[str, tuple[Case, ...]]]:
    """Yield the operators of the database with their cases; none of a CUDA operator."""
    for name in law_cases.NAMES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = law_cases.cases(name, PICKED)
            except NotApplicableError:
                found = ()
        yield name, found


Table = dict[str, dict[str, Outcome]]


def compute() -> tuple[Table, Table]:
    """Return the two tables."""
    operators: Table = {}
    calls: dict[OpOverload, list[Any]] = collections.defaultdict(list)
    for name, cases in database():
        if not name.startswith("direct:"):
            operators[name] = row(cases[:SAMPLES], our_way)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for case in cases:
                for overload, found in pick_up(case).items():
                    room = CALLS - len(calls[overload])
                    calls[overload] += found[: min(room, 10)]
    overloads: Table = {}
    for overload in (o for o in TABLE if o.namespace != "jaxtorch"):
        name = overload._schema.name.removeprefix("aten::")
        if name in law_cases.UNDEFINED or name == "new_empty_strided":
            overloads[overload.name()] = dict.fromkeys(TRANSFORMS, (NO_WORD, ""))
        elif calls[overload]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case = overload_case(overload, calls[overload])
            overloads[overload.name()] = row([case], our_way)
        else:
            overloads[overload.name()] = dict.fromkeys(TRANSFORMS, (UNSEEN, ""))
    return operators, overloads


def counts(table: Table) -> list[str]:
    """Return the lines that count the words of a table."""
    words = (*WORDS, NO_WORD, UNSEEN)
    lines = [
        f"| of {len(table)} | {' | '.join(words)} |",
        f"| --- |{' ---: |' * len(words)}",
    ]
    for transform in TRANSFORMS:
        seen = collections.Counter(own[transform][0] for own in table.values())
        numbers = " | ".join(str(seen[word]) for word in words)
        lines.append(f"| {transform} | {numbers} |")
    return lines


def body(table: Table, what: str) -> list[str]:
    """Return the lines of a table, a row for each name."""
    lines = [f"| {what} | {' | '.join(TRANSFORMS)} |", f"| --- |{' --- |' * 5}"]
    for name in sorted(table):
        words = " | ".join(table[name][t][0] for t in TRANSFORMS)
        lines.append(f"| `{name}` | {words} |")
    return lines


def render(operators: Table, overloads: Table) -> str:
    """Return the text of the file."""
    parts = [
        HEAD.rstrip(),
        "## Counts",
        "Operators of PyTorch's database:",
        "\n".join(counts(operators)),
        "Overloads that have a record:",
        "\n".join(counts(overloads)),
        "## Beside torch.func",
        f"{START}\n\n{END}",
        "## Operators of PyTorch's database",
        "\n".join(body(operators, "operator")),
        "## Overloads that have a record",
        "\n".join(body(overloads, "overload")),
    ]
    return "\n\n".join(parts) + "\n"


def with_section(text: str, section: str) -> str:
    """Return a file's text with another comparison to torch.func in it."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n\n{section}\n\n{END}{rest.partition(END)[2]}"


def section_of(text: str) -> str:
    """Return the comparison to torch.func in a file's text."""
    return text.partition(START)[2].partition(END)[0].strip()


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the names in a file's tables, and the words beside them."""
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    return {name: words.split(" | ") for name, words in found}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; print why an operator has "no"."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    section = section_of(FILE.read_text(encoding="utf-8"))
    operators, overloads = compute()
    text = with_section(render(operators, overloads), section)
    options.out.write_text(text, encoding="utf-8")
    for table in (operators, overloads):
        print(*counts(table), sep="\n")
        for name, own in table.items():
            for transform, (word, reason) in own.items():
                if word in ("no", "loop"):
                    print(f"  {name}, {transform}: {word}: {reason}")
    unseen = [n for n, own in overloads.items() if own["vmap"][0] == UNSEEN]
    print(f"{UNSEEN}:", *unseen, sep="\n  ")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
