"""docs/coverage.md is not regenerated here; it must have a row for every record."""

import pytest
import torch

import jaxtorch
from jaxtorch.rules.table import TABLE
from tests import law_cases
from tests.coverage import FILE, Pick, finished, overload_case, rows_of
from tests.laws.library import LIBRARY
from tests.ways import CHECKS, LAWS_OF, NO_WORD, TRANSFORMS, WORDS, our_way, worst

aten = torch.ops.aten
ROWS = rows_of(FILE.read_text(encoding="utf-8"))


def test_every_record_has_a_row() -> None:
    names = [o.name() for o in TABLE if o.namespace != "jaxtorch"]
    missing = [name for name in names if name not in ROWS]
    assert not missing, "python -m tests.coverage writes the file anew"


def test_every_operator_has_a_row() -> None:
    assert set(ROWS) >= set(law_cases.OPS)


def test_rows_hold_the_words() -> None:
    known = {*WORDS, NO_WORD, "not met"}
    assert all(len(r) == len(TRANSFORMS) and set(r) <= known for r in ROWS.values())
    assert {name for names in LAWS_OF.values() for name in names} <= set(CHECKS)


def case_of(overload: torch._ops.OpOverload, *args: object) -> law_cases.Case:
    """Make a case of a call, as the command does."""
    with Pick() as pick:
        overload(*args)
    return overload_case(overload, pick.calls[overload])


def test_a_rule_is_seen() -> None:
    case = case_of(aten.sin.default, torch.rand(3, dtype=torch.float64))
    assert {our_way(case, t)[0] for t in TRANSFORMS} == {"rule"}


def function_case(func: object, *args: torch.Tensor) -> law_cases.Case:
    """Make a case of a function of tensors."""
    return finished("own", lambda *x: [func(*x)], (args, args))


def test_a_decomposition_is_seen() -> None:
    overload = aten.trace.default
    assert TABLE[overload].batch is None
    case = case_of(overload, torch.randn(3, 3, dtype=torch.float64))
    assert our_way(case, "vmap") == ("decomposition", "")


def test_a_wrong_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(aten.sin.default, torch.rand(3, dtype=torch.float64))
    right = jaxtorch.vmap

    def wrong(func: object, **options: object) -> object:
        mapped = right(func, **options)
        return lambda *args: [out + 1 for out in mapped(*args)]

    monkeypatch.setattr(LIBRARY, "vmap", wrong)
    word, reason = our_way(case, "vmap")
    assert word == "no"
    assert "not close" in reason


def test_a_loop_is_seen() -> None:
    case = function_case(
        torch.ops.jaxtorch_coverage.double, torch.rand(3, dtype=torch.float64)
    )
    assert our_way(case, "vmap") == ("loop", "")
    word, reason = our_way(case, "vjp")
    assert word == "no"
    assert "no derivative is known" in reason


@torch.library.custom_op("jaxtorch_coverage::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    """Run what no record and no decomposition knows."""
    return x * 2


def test_the_worst_word_is_told() -> None:
    outcomes = [(word, "") for word in (NO_WORD, *WORDS)]
    assert worst(outcomes) == ("no", "")
    assert worst(outcomes[:2]) == ("rule", "")
    assert worst(outcomes[:1]) == (NO_WORD, "")
