"""The house rules of the source: what may import what, and how large things are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxtorch"
LEAVES = {"errors", "pytree", "typing"}
MAY_IMPORT = {
    "transforms": {"staging", "core"},
    "nn": {"staging", "core", "transforms"},
    "staging": {"core", "rules", "kernels"},
    "core": {"rules", "linear"},
    "rules": {"linear", "kernels"},
    "linear": set(),
    "kernels": set(),
    "errors": set(),
    "pytree": set(),
    "typing": set(),
}
FORBIDDEN = ("torch.func", "functorch", "torch._functorch")
FILES = sorted(PACKAGE.rglob("*.py"))
CODE = [
    *FILES,
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]


def layer_of(path: Path) -> str:
    """Return the folder, or the module's name for a leaf."""
    inner = path.relative_to(PACKAGE).parts
    return inner[0] if len(inner) > 1 else path.stem


def imports(tree: ast.AST) -> list[str]:
    """Return every module that a file imports, by full name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def arrows(path: Path, tree: ast.AST) -> list[str]:
    """Return the imports that the table does not allow."""
    layer = layer_of(path)
    if layer == "__init__":
        return []
    allowed = MAY_IMPORT[layer] | LEAVES | {layer}
    wrong = []
    for name in imports(tree):
        if any(name == f or name.startswith(f"{f}.") for f in FORBIDDEN):
            wrong.append(name)
        if name.startswith("jaxtorch.") and name.split(".")[1] not in allowed:
            wrong.append(name)
        if name.split(".")[0] == "triton" and layer != "kernels":
            wrong.append(name)
    return wrong


def families() -> set[str]:
    """Return the modules of rules that hold records; the others are shared helpers."""
    rules = (PACKAGE / "rules").glob("*.py")
    return {path.stem for path in rules if "\nRECORDS" in path.read_text()}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    assert arrows(path, ast.parse(path.read_text())) == []


def test_families_of_rules_import_no_other_family() -> None:
    known = families()
    assert {"arithmetic", "views"} <= known
    for family in known - {"table"}:
        path = PACKAGE / "rules" / f"{family}.py"
        used = [n.split(".") for n in imports(ast.parse(path.read_text()))]
        others = {n[2] for n in used if n[:2] == ["jaxtorch", "rules"]} & known
        assert not others, f"{family} imports {others}"


def test_a_wrong_arrow_is_found() -> None:
    tree = ast.parse("from jaxtorch.transforms.vmap import vmap\nimport torch.func")
    wrong = arrows(PACKAGE / "core" / "level.py", tree)
    assert wrong == ["jaxtorch.transforms.vmap.vmap", "torch.func"]


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_files_are_small(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 500
    assert not lines or lines[0].startswith(('"""', "#!"))


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_functions_are_short_and_import_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body
        documented = ast.get_docstring(node) is not None
        first = body[1] if documented and len(body) > 1 else body[0]
        length = (node.end_lineno or 0) - first.lineno + 1
        assert length <= 60, f"{node.name} has {length} lines"
        inner = [
            n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))
        ]
        assert not inner, f"{node.name} imports"
