"""A wrong folder or a wrong argument: told in a line, and nothing is left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.processes import PATIENCE, command, environment

ROOT = str(Path(__file__).resolve().parents[2])


def tideline(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(PYTHONPATH=ROOT, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "-d", ""], "Invalid value for '-d' / '--data': it is empty"),
        (["reindex", "--data="], "Invalid value for '-d' / '--data': it is empty"),
        (["check", "-c", ""], "Invalid value for '-c' / '--config': it is empty"),
        (["demo", "--keep", ""], "Invalid value for '--keep': it is empty"),
        (["passwd", "", "alice", "--stdin"], "Invalid value for 'FILE': it is empty"),
        (["demo", "--pace", "-1"], "--pace -1: must be 0 to 60 seconds"),
        (["demo", "--pace", "nan"], "--pace nan: must be 0 to 60 seconds"),
        (["inspect", "messages", "a", "--after", "-5"], "-5 is not in the range x>=0"),
        (["inspect", "inbox", "a", "--after", "-5"], "-5 is not in the range x>=0"),
        (["inspect", "devices", "-d", "a", "-u", "sqlite:///b/t.db"], "--data and --url both say where the messages are"),
        (["inspect", "devices", "-u", ""], "the storage url has no scheme"),
        (["inspect", "devices", "-u", "memory://"], "memory:// keeps nothing that could be looked at"),
    ],
)
def test_a_wrong_argument_is_told_in_a_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    done = tideline(tmp_path, *arguments)
    assert done.returncode in (2, 3), done.stdout + done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["reindex"],
        ["jobs"],
        ["jobs", "run", "retention"],
        ["jobs", "run", "nothing"],
        ["inspect", "conversations"],
        ["inspect", "messages", "a"],
    ],
)
@pytest.mark.parametrize("source", [["-d", "wrong"], []])
def test_a_command_on_what_there_is_makes_nothing(tmp_path: Path, arguments: list[str], source: list[str]) -> None:
    done = tideline(tmp_path, *arguments, *source)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "tideline.db: there is no database" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []
