"""The set-up script: what it installs exists, and it says how it is used."""

import configparser
from pathlib import Path

import pytest

import dev

ROOT = Path(__file__).parent.parent


def test_extras_are_those_of_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    known = set(config["options.extras_require"])
    assert {e for extras in dev.EXTRAS.values() for e in extras.split(",")} <= known


def test_torch_is_pinned() -> None:
    assert dev.pinned("torch").startswith("torch==")
    with pytest.raises(LookupError, match="does not pin"):
        dev.pinned("no-such-package")


def test_without_a_command_it_prints_its_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dev.main([]) == 2
    assert dev.main(["nonsense"]) == 2
    assert "dev.py test" in capsys.readouterr().out
