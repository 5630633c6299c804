#!/usr/bin/env python3
"""The project's commands: each makes .venv, installs what it needs, and runs.

    python3 dev.py demo [--tiny]          the main job: examples/digits
    python3 dev.py test [pytest args]     all tests
    python3 dev.py check                  lint, format and types
    python3 dev.py docs                   the site, into site/; a warning is an error

Needs Python 3.10 or newer and nothing else. A second call finds .venv ready.
"""

import hashlib
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = {"demo": "test", "test": "test", "check": "test,dev", "docs": "docs"}


def main(argv: list[str]) -> int:
    """Run one command; the result is its exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036 - the message that an old Python needs
        print(f"jaxtorch needs Python 3.10 or newer; this is {sys.version.split()[0]}.")
        return 1
    if not argv or argv[0] not in EXTRAS:
        print(__doc__)
        return 2
    command, *rest = argv
    try:
        python = prepare(EXTRAS[command])
    except subprocess.CalledProcessError as error:
        print(f"Installing failed: {' '.join(map(str, error.cmd))}")
        return 1
    if command == "demo":
        return run(python, "-m", "examples.digits", *rest)
    if command == "test":
        return test(python, rest)
    if command == "docs":
        return docs(python)
    return check(python)


def prepare(extras: str) -> Path:
    """Make .venv with the package and ``extras`` unless it is there already."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = VENV / f"installed-{extras.replace(',', '-')}"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    if not has_pip(python):
        print(f"Making {VENV}")
        make_environment()
    print("Installing; the first time this takes a few minutes (torch is large)")
    # torch goes first and by its exact version, so that pip takes the build that its
    # index offers for this machine and the second call leaves it alone.
    install(python, pinned("torch"))
    install(python, "-e", f"{ROOT}[{extras}]", "-c", str(CONSTRAINTS))
    stamp.write_text(wanted)
    return python


def make_environment() -> None:
    """Make .venv; say what is missing where this Python can't."""
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        print("This Python has no ensurepip. On Debian: apt-get install python3-venv")
        raise


def has_pip(python: Path) -> bool:
    """Tell whether .venv is there and whole; an interrupted call leaves half of it."""
    if not python.exists():
        return False
    ask = [str(python), "-m", "pip", "--version"]
    return subprocess.run(ask, capture_output=True).returncode == 0


def install(python: Path, *what: str) -> None:
    """Run pip install, quietly but for errors."""
    command = [str(python), "-m", "pip", "install", "--quiet", *what]
    subprocess.run(
        [*command[:4], "--disable-pip-version-check", *command[4:]],
        cwd=ROOT,
        check=True,
    )


def pinned(package: str) -> str:
    """Return the line of constraints.txt that pins ``package``."""
    found = re.search(rf"^{package}==\S+", CONSTRAINTS.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"constraints.txt does not pin {package}")
    return found.group()


def fingerprint() -> str:
    """Return a hash of the files that say what is installed."""
    files = (ROOT / "setup.cfg", ROOT / "pyproject.toml", CONSTRAINTS)
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def run(python: Path, *args: str, **env: str) -> int:
    """Run Python in the repository's root."""
    command = [str(python), *args]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **env}).returncode


def test(python: Path, args: list[str]) -> int:
    """Run pytest on all cores, one thread of torch on each."""
    workers = str(min(os.cpu_count() or 1, 8))
    code = run(python, "-m", "pytest", "-n", workers, *args, OMP_NUM_THREADS="1")
    if code == 5:
        print("pytest found no test to run: that counts as a failure")
    return code


def check(python: Path) -> int:
    """Run every linter, also after one of them has failed."""
    codes = [
        run(python, "-m", "ruff", "check", "."),
        run(python, "-m", "ruff", "format", "--check", "."),
        run(python, "-m", "mypy", "--strict", "jaxtorch"),
    ]
    return max(codes)


def docs(python: Path) -> int:
    """Build the site; the variable silences an announcement of its theme."""
    return run(python, "-m", "mkdocs", "build", "--strict", NO_MKDOCS_2_WARNING="1")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
