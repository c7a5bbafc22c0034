"""No import goes in a circle: between modules none that Python carries out, between packages none at all.

`import-linter` holds the order of the packages of `broker/` (pyproject.toml). This holds what it does not look at: modules
of one package, `plugins/` and `storage/`. Within a package two modules may name each other's types.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ("broker", "plugins", "storage")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imported(module: str, tree: ast.AST, *, types: bool) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it; without ``types``, none for the type checker alone."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            names = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys() or {base} & MODULES.keys()
            yield from names
        else:
            yield from imported(module, node, types=types)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def graph(*, types: bool) -> dict[str, set[str]]:
    return {module: set(imported(module, parsed(path), types=types)) - {module} for module, path in MODULES.items()}


def circle(of: dict[str, set[str]]) -> Iterable[str]:
    try:
        TopologicalSorter(of).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_modules_import_each_other_in_no_circle() -> None:
    assert circle(graph(types=False)) == []


def test_packages_know_each_other_in_no_circle() -> None:
    """Not even by the name of a type."""
    packages: dict[str, set[str]] = {}
    for module, names in graph(types=True).items():
        package = ".".join(module.split(".")[:2])
        packages.setdefault(package, set()).update({".".join(name.split(".")[:2]) for name in names} - {package})
    assert circle(packages) == []


def test_a_circle_would_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = {f"storage.{name}": tmp_path / f"{name}.py" for name in ("one", "two", "three")}
    monkeypatch.setattr(f"{__name__}.MODULES", made)
    made["storage.one"].write_text("from storage import two")
    made["storage.two"].write_text("def later():\n    import storage.one")
    made["storage.three"].write_text("import storage.one")
    assert set(circle(graph(types=False))) == {"storage.one", "storage.two"}
