"""Random programs under random stacks of transforms, the same ones at every run."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.check import MismatchError, check, compare
from tests.fuzz.generate import cases
from tests.fuzz.oracle import expected
from tests.fuzz.program import Input, Op, Program, run_out_of_place
from tests.fuzz.regressions import CASES
from tests.fuzz.stack import Case, Layer


@settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_random_programs(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("name", CASES)
def test_what_failed_once(name: str) -> None:
    assert check(CASES[name]) == ""


def test_a_case_prints_as_a_program_that_runs(capsys: pytest.CaptureFixture) -> None:
    case = CASES["squeeze_ on a view was a write into its base"]
    exec(case.source(), {})
    assert "tensor([[" in capsys.readouterr().out


def test_a_wrong_result_is_seen() -> None:
    """The sine for the cosine, and a write that the out-of-place run would miss."""
    inputs = (Input((3,)),)
    layers = (Layer("jacrev", (0,)),)
    own = Case(Program(inputs, (Op("sin", (0,)),), (1,)), layers)
    other = Case(Program(inputs, (Op("cos", (0,)),), (1,)), layers)
    with pytest.raises(MismatchError):
        compare(own, own.function()(*own.arguments()), expected(other))


def test_the_out_of_place_run_sees_writes_through_views() -> None:
    program = Program(
        (Input((2, 3)),),
        (
            Op("clone", (0,)),
            Op("t", (1,)),
            Op("scale", (0,), (("c", 2.0),)),
            Op("mT", (3,)),
            Op("copy_", (2, 4)),
            Op("select", (1,), (("dim", 0), ("i", 0))),
            Op("zero_", (6,)),
        ),
        (1, 2),
    )
    args = Case(program).arguments()
    for own, plain in zip(
        run_out_of_place(program, args), program.function()(*args), strict=True
    ):
        assert own.equal(plain)
        assert own[0, 0] == 0
