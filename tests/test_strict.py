"""Strict mode, the warning of the loop, and the report of the ways."""

import threading
import warnings

import pytest
import torch
from torch.testing import assert_close

import jaxtorch
from jaxtorch import grad, jacrev, strict, vmap, vmap_report
from jaxtorch.core import fallback
from jaxtorch.errors import DataDependentError, MissingRuleError
from jaxtorch.rules.likeness import likely_family, likely_file
from jaxtorch.rules.table import FAMILIES, TABLE

aten = torch.ops.aten

LIBRARY = torch.library.Library("jaxtorch_test_strict", "DEF")
LIBRARY.define("triple(Tensor x, *, Tensor? y=None) -> Tensor")
LIBRARY.impl("triple", lambda x, *, y=None: x * 3, "CPU")
triple = torch.ops.jaxtorch_test_strict.triple
X = torch.ones(3, 2)


@pytest.fixture
def unwarned(monkeypatch):
    """Forget which operators have been warned of."""
    monkeypatch.setattr(fallback, "_warned", set())


def looped():
    """Run a vmap whose operator has no rule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vmap(triple)(X)


def test_refuses_a_loop_and_says_what_to_do():
    with strict(), pytest.raises(MissingRuleError) as caught:
        vmap(lambda x: vmap(triple)(x))(X)
    text = str(caught.value)
    for part in (
        "jaxtorch_test_strict.triple.default",
        "vmap within jaxtorch.strict()",
        "level 2",
        "jaxtorch/rules/jaxtorch_test_strict.py",
        "CONTRIBUTING.md",
        "once per example",
    ):
        assert part in text


def test_option_of_vmap_says_the_same_of_one_vmap():
    with pytest.raises(MissingRuleError, match=r"vmap\(strict=True\), level 1: .*trip"):
        vmap(triple, strict=True)(X)
    assert_close(looped(), X * 3)


def test_what_has_a_rule_or_a_decomposition_passes():
    with strict():
        assert_close(vmap(torch.sin)(X), X.sin())
        assert_close(vmap(torch.block_diag)(X).shape, torch.Size([3, 1, 2]))
        assert jacrev(torch.tanh)(torch.ones(2)).shape == (2, 2)


def test_nests_and_ends_after_an_error():
    with strict():
        with pytest.raises(ValueError, match="mine"), strict():
            raise ValueError("mine")
        with strict():
            pass
        with pytest.raises(MissingRuleError):
            vmap(triple)(X)
    assert_close(looped(), X * 3)


def test_one_object_may_be_entered_twice():
    mode = strict()
    with mode, mode, pytest.raises(MissingRuleError):
        vmap(triple)(X)
    assert_close(looped(), X * 3)


def test_another_thread_is_not_strict():
    results = []
    looped()
    with strict():
        thread = threading.Thread(target=lambda: results.append(vmap(triple)(X)))
        thread.start()
        thread.join()
    assert_close(results[0], X * 3)


def test_reaches_the_vmap_inside_other_transforms():
    func = jaxtorch.custom_vjp(lambda x: x * 3)
    func.defvjp(lambda x: (x * 3, ()), lambda _, g: (triple(g),))
    with strict(), pytest.raises(MissingRuleError):
        jacrev(func)(torch.ones(3))


def test_warning_names_operator_reason_and_file(unwarned):
    with pytest.warns(UserWarning, match="performance drop because") as caught:
        vmap(lambda x: triple(triple(x)))(X)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "jaxtorch_test_strict.triple.default has no batching rule" in text
    assert "Add a rule to jaxtorch/rules/jaxtorch_test_strict.py" in text


@pytest.mark.parametrize(
    ("overload", "family"),
    [
        (aten.segment_reduce.default, "scattering"),
        (aten._segment_reduce_backward.default, "scattering"),
        (aten.max_pool3d_with_indices.default, "pooling"),
        (aten.linalg_eigvals.out, "factorization"),
        (aten.upsample_bicubic2d.default, "resampling"),
        (aten.special_hermite_polynomial_he.default, "polynomials"),
        (aten.stft.default, None),
    ],
)
def test_the_file_is_that_of_the_likely_family(overload, family):
    if family is None:
        assert likely_file(overload).startswith("a new file of jaxtorch/rules/")
    else:
        assert likely_file(overload) == f"jaxtorch/rules/{family}.py"


def test_an_overload_of_a_known_operator_goes_where_the_others_are():
    homes = {r.overload: f for f, records in FAMILIES.items() for r in records}
    assert all(overload in homes for overload in TABLE)
    shared = {}
    for overload, family in homes.items():
        shared.setdefault(overload._schema.name.strip("_"), set()).add(family)
    for overload, family in homes.items():
        if len(shared[overload._schema.name.strip("_")]) == 1:
            assert likely_family(overload) == family


def test_report_tells_the_way_of_each_operator(unwarned):
    def func(x, w):
        return triple(x * w).sum() + torch.block_diag(x).sum()

    report = vmap_report(func, X, torch.ones(2), in_dims=(0, None))
    ways = {row.operator: row.way for row in report.rows}
    assert ways["jaxtorch_test_strict.triple.default"] == "loop"
    assert ways["aten.mul.Tensor"] == "rule"
    assert [row.calls for row in report.rows if "sum" in row.operator] == [2]
    assert [row.operator for row in report.loops] == [report.rows[0].operator]
    assert str(report).splitlines()[1].split() == [
        *("jaxtorch_test_strict.triple.default", "loop", "1", "1"),
        *("jaxtorch/rules/jaxtorch_test_strict.py", "(a", "new", "file)"),
    ]


def test_report_shows_decompositions_and_their_parts():
    rows = vmap_report(torch.count_nonzero, X).rows
    assert ("aten.count_nonzero.default", "decomposition") in {r[:2] for r in rows}
    assert any(row.way == "rule" for row in rows)


def test_report_sees_the_vmap_inside_and_through_grad():
    rows = vmap_report(grad(lambda x: vmap(torch.sin)(x).sum()), X).rows
    assert {row.level for row in rows if row.operator == "aten.sin.default"} >= {1, 3}
    assert ("aten.cos.default", "rule") in {row[:2] for row in rows}


def test_report_says_what_is_shared():
    def func(x):
        one = torch.ones(2)
        return x + (one + one)

    rows = vmap_report(func, X).rows
    assert {row.way for row in rows} == {"rule", "shared"}


def test_report_ends_after_an_error_and_raises_it():
    with pytest.raises(DataDependentError):
        vmap_report(lambda x: x[0].item(), X)
    rows = vmap_report(torch.sin, X).rows
    vmap(torch.cos)(X)
    assert [row.operator for row in rows] == ["aten.sin.default"]


def test_report_within_strict_raises():
    with strict(), pytest.raises(MissingRuleError):
        vmap_report(triple, X)


def test_report_of_dims_and_randomness():
    func = torch.nn.functional.dropout
    with pytest.raises(jaxtorch.errors.RandomnessError):
        vmap_report(func, X, in_dims=1)
    rows = vmap_report(func, X, in_dims=1, randomness="different").rows
    assert not any(row.way == "loop" for row in rows)
