"""The rooms keep their doors: who may import what, and no setting without documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import BaseModel

from broker.config import settings as config
from broker.config.plugins import ALIASES

ROOT = Path(__file__).resolve().parents[1]
DRIVERS = {"sqlite3", "aiosqlite", "pymongo", "bson", "motor", "mongomotor", "mongoengine", "redis"}
SANS_IO = ["broker/packets", "broker/routing"]
SANS_IO += [f"broker/delivery/{name}.py" for name in ("machine", "shared_machine", "frames")]
SANS_IO += [f"broker/sessions/{name}.py" for name in ("window", "cursor", "timeline", "session")]
IO = {"asyncio", "socket", "ssl", "selectors", "threading", "subprocess", "concurrent", "uvloop", "websockets", "logging"}
STORAGE_FOR_BROKER = {
    "storage",
    "storage.records",
    "storage.interface",
    "storage.errors",
    "storage.ending",
    "storage.factory",
    "storage.cluster",
    "storage.sharding",
    "storage.shared_inboxes",
    "storage.transfer",
    "storage.verify",
}
SERVICES = {"fastapi", "starlette", "uvicorn", "meilisearch", "apscheduler"}


def modules(*rooms: str) -> list[Path]:
    found: list[Path] = []
    for room in rooms:
        path = ROOT / room
        found += [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    assert found, f"nothing in {rooms}"
    return found


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """(full module name, line) of every import, also those inside functions and under TYPE_CHECKING."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            yield f"{base}{node.module or ''}".rstrip("."), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from ((str(name.value), node.lineno) for name in node.args[:1] if isinstance(name, ast.Constant))


def offenders(paths: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imports(path)
        if name in forbidden or name.partition(".")[0] in forbidden
    ]


def test_the_broker_knows_no_database_driver() -> None:
    assert offenders(modules("broker"), DRIVERS) == []


def test_others_ask_a_search_and_know_no_engine() -> None:
    paths = [path for path in modules("broker", "plugins") if "search" not in path.relative_to(ROOT).parts]
    named = {name for path in paths for name, _ in imports(path) if name.startswith("plugins.search.")}
    assert named == {"plugins.search.service"}


def test_the_broker_names_plugins_and_never_imports_them() -> None:
    assert offenders(modules("broker"), {"plugins"} | SERVICES) == []


def test_the_broker_sees_only_the_face_of_storage() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("broker")
        for name, line in imports(path)
        if name.partition(".")[0] == "storage" and name not in STORAGE_FOR_BROKER
    ]
    assert found == []


def test_storage_knows_neither_broker_nor_plugins() -> None:
    assert offenders(modules("storage"), {"broker", "plugins", "amqtt", "tests"} | SERVICES) == []


def test_plugins_leave_the_databases_to_storage() -> None:
    """The search index is a database of its own, derived; everything else goes through storage's interface."""
    paths = [path for path in modules("plugins") if "search" not in path.relative_to(ROOT).parts]
    assert offenders(paths, DRIVERS) == []


def test_the_sans_io_parts_do_no_io() -> None:
    """Those that must, and whatever file says of itself that it does none."""
    say_so = [p for p in modules("broker", "storage") if "No I/O" in (ast.get_docstring(ast.parse(p.read_text())) or "")]
    assert len(say_so) > 20
    assert offenders([*modules(*SANS_IO), *say_so], IO) == []


def test_the_rooms_never_import_tests_or_benchmarks() -> None:
    assert offenders(modules("broker", "storage", "plugins"), {"tests", "bench", "pytest", "hypothesis", "nx_27017"}) == []


def test_benchmarks_drive_the_broker_from_outside() -> None:
    """Peers are measured with one generator that knows none of them. What fills a database, or measures storage or search
    by themselves, goes inside."""
    paths = [path for path in modules("bench") if not path.name.startswith(("prefill", "search", "storage"))]
    assert offenders(paths, {"broker", "plugins", "storage", "tests"}) == []


def test_an_offender_would_be_found(tmp_path: Path) -> None:
    """The finder sees every way in which a module can be imported."""
    source = ROOT / "broker" / "cli" / "serve.py"
    assert "broker.cli.check" in {name for name, _ in imports(source)}
    text = "def f():\n    import sqlite3\nfrom pymongo import x\nimport importlib\nimportlib.import_module('bson')\n"
    names = {name for name, _ in imports_of(text)}
    assert {"sqlite3", "pymongo", "bson"} <= names


def imports_of(text: str) -> list[tuple[str, int]]:
    class Source(type(ROOT)):  # type: ignore[misc]
        def read_text(self, *args: object, **kwargs: object) -> str:
            return text

    return list(_imports(Source(ROOT / "broker" / "invented.py")))


def test_every_third_party_import_is_declared() -> None:
    """What the rooms import is in pyproject.toml by name."""
    declared = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools]")[0].lower()
    packages = {"yaml": "pyyaml", "paho": "paho-mqtt", "mongoengine": "mongomotor", "bson": "pymongo", "argon2": "argon2-cffi"}
    packages |= {
        "jsonpath_rfc9535": "jsonpath-rfc9535",
        "jwt": "pyjwt",
        "prometheus_client": "prometheus-client",
        "opentelemetry": "opentelemetry-sdk",
    }
    packages |= {
        "cryptography": "pyjwt[crypto]",
        "starlette": "fastapi",
        "pwdlib": "amqtt",
        "mypy_extensions": "mypy-extensions",
    }
    ours = {"broker", "plugins", "storage"}
    for path in modules("broker", "plugins", "storage"):
        for name, line in imports(path):
            top = name.partition(".")[0]
            if top not in ours and top not in sys.stdlib_module_names:
                assert f'"{packages.get(top, top)}' in declared, (
                    f"{path.relative_to(ROOT)}:{line} imports {name}, which is not declared"
                )


def test_rooms_are_entered_by_their_doors() -> None:
    """What others may use of a package of the broker is what its ``__init__`` names."""
    inside = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("broker", "plugins")
        for name, line in imports(path)
        if name.startswith("broker.") and name.count(".") > 1 and not name.startswith("broker.cli.")
        if name.split(".")[:2] != list(path.relative_to(ROOT).parts[:2])
    ]
    assert inside == []


def test_a_door_names_nothing_that_is_not_there() -> None:
    named = 0
    for path in modules("broker", "plugins", "storage"):
        if path.name == "__init__.py":
            package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
            names = getattr(package, "__all__", [])
            assert [name for name in names if not hasattr(package, name)] == [], path
            named += len(names)
    assert named


def test_each_package_says_what_it_keeps_true() -> None:
    """Below the line that says what it is."""
    paths = [path for path in modules("broker", "plugins", "storage") if path.name == "__init__.py"]
    silent = [
        str(path.relative_to(ROOT))
        for path in paths
        if not (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[2].startswith("Kept true: ")
    ]
    assert silent == []


def test_a_long_file_says_why_it_is_long() -> None:
    long = [
        path for path in modules("broker", "plugins", "storage") if len(path.read_text(encoding="utf-8").splitlines()) > 300
    ]
    assert long, "the limit is checked"
    silent = [
        str(path.relative_to(ROOT))
        for path in long
        if "Over 300 lines: " not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert silent == []


def test_what_a_compiled_class_extends_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else mypyc fails, or knows nothing of what the class inherits. It needs a C compiler, so few would see it."""
    monkeypatch.setattr("setuptools.setup", lambda **given: None)
    compiled = set(runpy.run_path(str(ROOT / "setup.py"))["CORE"])
    for path in sorted(compiled):
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for kind in vars(module).values():
            if not isinstance(kind, type) or kind.__module__ != module.__name__ or issubclass(kind, BaseException):
                continue
            for base in kind.__mro__:
                if base.__module__.partition(".")[0] in ("broker", "storage"):
                    assert base.__module__.replace(".", "/") + ".py" in compiled, f"{kind} extends {base}"


def test_no_test_sleeps_to_wait() -> None:
    """`tests.support.until` asks until something is there; any other sleep says what it is instead."""
    sleeps = re.compile(r"\bsleep\((?!0\))")
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in modules("tests")
        if path.name not in ("until.py", "test_rooms.py", "mutants.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if sleeps.search(line) and "not a wait: " not in line
    ]
    assert found == []


def test_files_that_the_docs_name_are_there() -> None:
    """`docs/architecture.md` says where what is decided: a short name is in the folder of the file named before it."""
    missing: list[str] = []
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        folder = ROOT
        for name in re.findall(r"`([\w/]+\.(?:py|toml))`", line):
            path = ROOT / name if "/" in name else folder / name
            folder = path.parent
            missing += [] if path.is_file() else [f"architecture.md: {name}"]
    tests = {path.name for path in modules("tests")}
    for name in re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")):
        missing += [] if name in tests else [f"laws.md: {name}"]
    assert missing == []


# --- settings ------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, type[BaseModel]] = {
    "listeners": config.Listener,
    "tls": config.Tls,
    "mqtt": config.Mqtt,
    "limits": config.Limits,
}
SECTIONS |= {"hooks": config.Hooks, "log": config.Log}


def documented(section: str) -> set[str]:
    """The fields in the first table below a section's heading."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    body = re.split(rf"^##+ {section}$", text, flags=re.MULTILINE)[1]
    body = re.split(r"^##+ ", body, flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `(\w+)` \|", body, flags=re.MULTILINE))


def described(model: type[BaseModel]) -> set[str]:
    """The fields with a docstring below them."""
    definition = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target)
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_and_nothing_else(section: str) -> None:
    model = SECTIONS[section]
    assert documented(section) == set(model.model_fields)
    assert described(model) == set(model.model_fields)


def test_every_section_and_plugin_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for section in config.Settings.model_fields:
        assert f"\n## {section}\n" in text
    for alias, path in ALIASES.items():
        assert f"| `{alias}` | `{path}` |" in text
