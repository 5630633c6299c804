"""The code in README.md and docs/, and the package's doctests, do what they say."""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path

import pytest

import jaxtorch

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```\n)?", re.M | re.S)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
SECTION = re.compile(r"^(\w+):\n(.*?)(?=^\S|\Z)", re.M | re.S)
FUNCTIONS = [n for n in jaxtorch.__all__ if inspect.isfunction(getattr(jaxtorch, n))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jaxtorch.__path__, "jaxtorch.")
    if not module.name.startswith("jaxtorch.kernels")
)


def run_blocks(text: str) -> list[tuple[str, str]]:
    """Run the code blocks of a page in one namespace; (printed, promised) for each."""
    names = {"__name__": "__page__"}
    results = []
    for code, promised in BLOCK.findall(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "<page>", "exec"), names)
        results.append((printed.getvalue(), promised))
    return results


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_prints_what_the_page_says(page: Path) -> None:
    for printed, promised in run_blocks(page.read_text()):
        assert printed == promised


def test_readme_has_a_block_with_output() -> None:
    assert all(printed for printed, _ in run_blocks((ROOT / "README.md").read_text()))
    assert run_blocks("```python\nprint(1)\n```\n\n```text\n2\n```\n") == [
        ("1\n", "2\n")
    ]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    outcome = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert outcome.failed == 0


@pytest.mark.parametrize("name", jaxtorch.__all__)
def test_public_functions_have_an_example(name: str) -> None:
    documented = getattr(jaxtorch, name).__doc__
    assert documented is not None
    assert "Examples:\n" in documented
    assert ">>>" in documented


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_document_their_arguments(name: str) -> None:
    function = getattr(jaxtorch, name)
    sections = dict(SECTION.findall(inspect.cleandoc(function.__doc__)))
    named = re.findall(r"^    \*{0,2}(\w+): ", sections.get("Args", ""), re.M)
    assert named == list(inspect.signature(function).parameters)
    assert "Raises" in sections
    is_context = inspect.isgeneratorfunction(inspect.unwrap(function))
    assert is_context or "Returns" in sections


def test_public_names_are_on_the_api_page() -> None:
    entries = re.findall(
        r"^::: jaxtorch\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.M
    )
    assert sorted(set(entries) - {"errors"}) == sorted(jaxtorch.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target
