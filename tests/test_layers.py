"""The house rules: which folder imports which, and how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxtorch

ROOT = Path(jaxtorch.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py") if "__pycache__" not in p.parts)

LEAVES = {"errors", "settings", "typing", "pytree"}
MAY_IMPORT = {
    "transforms": {"transforms", "staging", "core"},
    "nn": {"nn", "transforms", "staging", "core"},
    "staging": {"staging", "core", "rules", "kernels"},
    "core": {"core", "rules", "linear"},
    "rules": {"rules", "linear", "kernels"},
    "linear": {"linear"},
    "kernels": {"kernels"},
    **dict.fromkeys(LEAVES, LEAVES),
}
LOOK_UP = {
    f"jaxtorch.rules.{name}"
    for name in (
        "table",
        "record",
        "likeness",
        "masked_reads",
        "strides",
    )
}
FORBIDDEN = ("torch.func", "functorch", "torch._functorch")
MOST_LINES = 500
MOST_FUNCTION_LINES = 60


def tree_of(path: Path) -> ast.Module:
    """Parse one file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def folder_of(path: Path) -> str:
    """Return the folder of a file in the package, or the name of a file at its top."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def target_of(name: str) -> str | None:
    """Return the folder of the package that an import reaches."""
    parts = name.split(".")
    return parts[1] if parts[0] == "jaxtorch" and len(parts) > 1 else None


def where(path: Path, line: int) -> str:
    """Name a place."""
    return f"{path.relative_to(ROOT.parent)}:{line}"


def is_family(module: str) -> bool:
    """Tell whether a module of the rules is a family: it has a table of records."""
    path = ROOT / "rules" / f"{module}.py"
    if not path.exists():
        return False
    names = [
        target.id
        for node in tree_of(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    return "RECORDS" in names and module != "table"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    """An import goes only along an arrow of the table."""
    folder = folder_of(path)
    if folder == "__init__":
        return
    allowed = MAY_IMPORT[folder] | LEAVES
    wrong = [
        f"{where(path, line)} imports {name}"
        for line, name in imports_of(tree_of(path))
        if (target := target_of(name)) is not None and target not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ["core", "staging"])
def test_rules_are_only_looked_up(folder: str) -> None:
    """From above only the table and the type of its records are seen."""
    wrong = [
        f"{where(path, line)} imports {name}"
        for path in FILES
        if folder_of(path) == folder
        for line, name in imports_of(tree_of(path))
        if target_of(name) == "rules"
        and not any(f"{name}.".startswith(f"{module}.") for module in LOOK_UP)
    ]
    assert not wrong


def test_families_do_not_import_each_other() -> None:
    """What two families share lives in a file that is no family."""
    wrong = [
        f"{where(path, line)} imports {name}"
        for path in FILES
        if folder_of(path) == "rules" and is_family(path.stem)
        for line, name in imports_of(tree_of(path))
        if name.startswith("jaxtorch.rules.") and is_family(name.split(".")[2])
    ]
    assert not wrong


def test_one_file_of_the_rules_reaches_the_kernels() -> None:
    """Kernels are reached through one helper."""
    users = {
        path.name
        for path in FILES
        if folder_of(path) == "rules"
        for _, name in imports_of(tree_of(path))
        if target_of(name) == "kernels"
    }
    assert len(users) <= 1


def test_only_the_kernels_import_triton() -> None:
    """Everything else runs without it."""
    wrong = [
        where(path, line)
        for path in FILES
        if folder_of(path) != "kernels"
        for line, name in imports_of(tree_of(path))
        if name.split(".")[0] == "triton"
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_torch_func(path: Path) -> None:
    """``torch.func`` is an oracle of the tests, never a part of the package."""
    wrong = [
        f"{where(path, line)} imports {name}"
        for line, name in imports_of(tree_of(path))
        if any(f"{name}.".startswith(f"{root}.") for root in FORBIDDEN)
    ]
    named = [
        where(path, node.lineno)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node).startswith(("torch.func.", "torch._functorch."))
    ]
    assert not wrong + named


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file(path: Path) -> None:
    """No import inside a function, no print, nothing too long; a docstring on top."""
    tree = tree_of(path)
    assert ast.get_docstring(tree), "say in one line what lives here"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            wrong += [
                f"{where(path, line)}: import of {name} inside {node.name}"
                for line, name in imports_of(node)
            ]
            if (length := code_lines(node)) > MOST_FUNCTION_LINES:
                wrong.append(f"{where(path, node.lineno)}: {node.name} has {length}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            wrong.append(f"{where(path, node.lineno)}: print")
    assert not wrong


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    body = node.body
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = body[0]
    if ast.get_docstring(node) and isinstance(first, ast.Expr):
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_public_names_are_listed() -> None:
    """What the package offers is one explicit list, and all of it has a docstring."""
    assert sorted(jaxtorch.__all__) == list(jaxtorch.__all__)
    bare = [
        name
        for name in jaxtorch.__all__
        if callable(getattr(jaxtorch, name)) and not getattr(jaxtorch, name).__doc__
    ]
    assert not bare


def test_every_family_is_in_the_table() -> None:
    """A family that the table does not list would never be used."""
    missing = [
        path.stem
        for path in FILES
        if folder_of(path) == "rules"
        and is_family(path.stem)
        and f"{path.stem}.RECORDS" not in (ROOT / "rules/table.py").read_text()
    ]
    assert not missing
