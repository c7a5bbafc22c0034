"""Which C compiler `make compile` uses. None is run here, and none is fetched."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from pathlib import Path

import pytest

import compiler


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where zig is kept; not there yet."""
    return tmp_path / "a place" / "zig"


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without a compiler: whatever is put into this folder is all that it has. Its Python has its headers."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: {"CC": "x86_64-linux-gnu-gcc -pthread"}[name])
    return programs


def test_the_one_that_this_python_was_built_with_comes_first(system: Path, folder: Path) -> None:
    for name in ("gcc", "x86_64-linux-gnu-gcc"):
        program(system / name)
    assert compiler.environment(folder) == {"CC": "x86_64-linux-gnu-gcc -pthread"}
    assert not folder.exists()


@pytest.mark.parametrize("name", ["cc", "gcc", "clang"])
def test_else_it_is_another_that_is_there(name: str, system: Path, folder: Path) -> None:
    program(system / name)
    assert compiler.environment(folder) == {"CC": name}


def test_cc_says_which(system: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cc", "mine"):
        program(system / name)
    monkeypatch.setenv("CC", "mine --fast")
    assert compiler.environment(folder) == {"CC": "mine --fast"}
    monkeypatch.setenv("CC", "theirs")
    with pytest.raises(SystemExit, match="CC=theirs is no command that is there"):
        compiler.environment(folder)


def test_where_there_is_none_it_is_zigs_for_any_processor(folder: Path) -> None:
    folder.mkdir(parents=True)  # as it was fetched
    (folder / "zig.txt").write_text(compiler.LOCK.read_text())
    found = compiler.environment(folder)
    command = [str(folder / "ziglang" / "zig"), "cc", "-mcpu=baseline", "-fno-sanitize=undefined"]
    assert shlex.split(found["CC"]) == command
    assert shlex.split(found["LDSHARED"]) == [*command, "-shared"]
    assert found["ZIG_GLOBAL_CACHE_DIR"] == str(folder / "cache")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip was asked for, a line for each time."""
    told = tmp_path / "told"
    pip = f'echo "$@" >> {told}\nwhile [ "$1" != --target ]; do shift; done\n/bin/mkdir -p "$2/ziglang"'
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python", pip)))
    return told


def test_zigs_is_fetched_once(folder: Path, told: Path) -> None:
    for _ in range(2):
        compiler.environment(folder)
    (line,) = told.read_text().splitlines()
    assert line.startswith("-m pip install ")
    assert line.endswith(f"--requirement {compiler.LOCK}")
    assert list(folder.parent.iterdir()) == [folder]
    assert "ziglang==" in compiler.LOCK.read_text()


def test_another_version_of_the_lock_is_fetched_in_place_of_it(
    folder: Path, told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.environment(folder)
    (folder / "ziglang" / "of the old one").touch()
    lock = tmp_path / "zig.txt"
    lock.write_text(compiler.LOCK.read_text() + "# newer\n")
    monkeypatch.setattr(compiler, "LOCK", lock)
    for _ in range(2):
        compiler.environment(folder)
    assert len(told.read_text().splitlines()) == 2
    assert not (folder / "ziglang" / "of the old one").exists()


def test_what_earlier_sources_fetched_is_fetched_again(folder: Path, told: Path) -> None:
    """It does not say which version it is."""
    folder.mkdir(parents=True)
    compiler.environment(folder)
    assert (folder / "ziglang").exists()


def test_where_it_cannot_be_fetched_that_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python", "exit 1")))
    with pytest.raises(SystemExit, match="nor could zig's be fetched: install one"):
        compiler.environment(folder)
    assert not folder.exists()


def test_without_pythons_headers_nothing_is_fetched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include" / "Python.h").unlink()
    monkeypatch.setattr(sys, "executable", "/not/asked")
    with pytest.raises(SystemExit, match=r"headers are missing \(.*/include/Python.h\): install them"):
        compiler.environment(folder)


def test_the_command_is_told(system: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(system / "cc")
    become: list[tuple[str, tuple[str, ...], dict[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda *given: become.append(given))
    compiler.main(str(folder), "pip", "install", ".")
    ((name, words, told),) = become
    assert (name, words) == ("pip", ("pip", "install", "."))
    assert told == {**os.environ, "CC": "cc", "TIDELINE_COMPILE": "1"}
