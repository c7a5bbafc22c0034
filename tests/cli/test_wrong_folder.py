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
