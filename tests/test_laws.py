"""The laws over PyTorch's operator database, and which records they reach."""

import zlib

import pytest
import torch

from tests.expected_failures import EXPECTED
from tests.law_cases import NAMES, NotApplicableError
from tests.laws import LAWS, QUICK, check
from tests.reach import UNREACHED, unreached

FULL_SAMPLES = 8
REACHING_SAMPLES = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per operator and law, of the chosen shard."""
    if "law" not in metafunc.fixturenames:
        return
    mode = metafunc.config.getoption("laws")
    laws = {"quick": QUICK, "full": tuple(LAWS), "off": ()}[mode]
    part, count = map(int, metafunc.config.getoption("laws_shard").split("/"))
    pairs = [
        pytest.param(name, law, id=f"{name}-{law}")
        for name in NAMES
        if zlib.crc32(name.encode()) % count == part
        for law in laws
    ]
    metafunc.parametrize(("name", "law"), pairs)


def test_law(name: str, law: str, pytestconfig: pytest.Config) -> None:
    """Each law holds for each operator, but for the table of expected failures."""
    reason = EXPECTED.get((name, law))
    quick = pytestconfig.getoption("laws") == "quick" and reason is None
    try:
        check(name, law, 1 if quick else FULL_SAMPLES)
    except NotApplicableError as error:
        if reason is not None:
            pytest.fail(f"delete the row: the law says nothing here ({error})")
        pytest.skip(str(error))
    except Exception:
        if reason is None:
            raise
        pytest.xfail(reason)
    else:
        if reason is not None:
            pytest.fail(f"delete the row of expected failures: {reason}")


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="some came with torch 2.13")
def test_expected_failures_name_operators_and_laws() -> None:
    """Every row of the table is about a case that exists."""
    unknown = [row for row in EXPECTED if row[0] not in NAMES or row[1] not in LAWS]
    assert not unknown


def test_every_record_is_reached(pytestconfig: pytest.Config) -> None:
    """Each overload with a record runs in some case, but for the table of reasons."""
    part = pytestconfig.getoption("laws_shard").split("/")[0]
    if pytestconfig.getoption("laws") == "off" or part != "0":
        pytest.skip("runs with the first shard of the laws")
    assert unreached(REACHING_SAMPLES) == sorted(UNREACHED)
