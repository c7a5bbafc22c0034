"""A wheel in an environment of its own: what it holds is enough to run, away from the sources."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.support.until import wait_until

ROOT = Path(__file__).parents[2]
ROOMS = ("broker", "plugins", "storage")
UV = Path(sys.executable).with_name("uv")


def run(*arguments: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TIDELINE", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(arguments, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied(sources: Path) -> Path:
    """What the wheel is built from, and what may not be in it."""
    for name in ROOMS:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "compiler.py"):
        shutil.copy(ROOT / name, sources / name)
    shutil.copytree(ROOT / "requirements", sources / "requirements")
    (sources / "tests").mkdir()
    (sources / "tests" / "test_it.py").touch()  # setuptools takes such a file by itself
    return sources


def build(kind: str, folder: Path) -> None:
    """Of a copy of the sources."""
    python = ("--no-build-isolation", "--python", sys.executable)
    run(UV, "build", "--quiet", kind, *python, "--out-dir", folder, copied(folder / "sources"), cwd=folder)


def test_what_is_given_away_as_sources_can_be_compiled(tmp_path: Path) -> None:
    build("--sdist", tmp_path)
    (archive,) = tmp_path.glob("tideline-*.tar.gz")
    with tarfile.open(archive) as inside:
        names = {name.partition("/")[2] for name in inside.getnames()}
    assert {"setup.py", "compiler.py", "requirements/zig.txt", "requirements/core.txt", "LICENSE", "broker/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "build"))]


def test_it_runs_in_an_empty_environment(tmp_path: Path) -> None:
    build("--wheel", tmp_path)
    (wheel,) = tmp_path.glob("tideline-*.whl")
    with zipfile.ZipFile(wheel) as inside:
        tops = {name.partition("/")[0] for name in inside.namelist()}
        assert {top for top in tops if not top.startswith("tideline-")} == set(ROOMS)
        for folder in ("plugins/console/static", "plugins/http/page"):
            files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
            assert files == {name for name in inside.namelist() if name.startswith(f"{folder}/")}
        assert {f"{room}/py.typed" for room in ROOMS} <= set(inside.namelist())
        assert not [name for name in inside.namelist() if name.endswith((".c", ".h", ".so", ".pyc"))]
        assert [name for name in inside.namelist() if name.endswith("licenses/LICENSE")]
    run(UV, "venv", "--quiet", "--python", sys.executable, "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    locked = ROOT / "requirements" / "core.txt"
    run(UV, "pip", "install", "--quiet", "--python", python, "--constraint", locked, wheel, cwd=tmp_path)
    tideline = tmp_path / "fresh" / "bin" / "tideline"
    assert run(tideline, "--version", cwd=tmp_path).startswith("tideline ")
    ports = {f"TIDELINE__LISTENERS__{place}__BIND": "127.0.0.1:0" for place in (0, 1)}
    ports["TIDELINE__PLUGINS__HTTP__BIND"] = "127.0.0.1:0"
    log = tmp_path / "log"
    with log.open("wb") as errors:
        broker = subprocess.Popen(
            [tideline, "serve"], cwd=tmp_path, env={"PATH": os.environ["PATH"], **ports}, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        assert broker.stdout is not None
        lines = [broker.stdout.readline().decode() for _ in range(3)]
        assert lines[2] == "storing sqlite:///data/tideline.db\n", log.read_text()
        wait_until(lambda: (tmp_path / "data" / "operator.json").exists(), log.read_text)
        assert "reindex" in run(tideline, "--help", cwd=tmp_path)
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(60) == 0
    finally:
        broker.kill()
        broker.wait()
        assert broker.stdout is not None
        broker.stdout.close()
