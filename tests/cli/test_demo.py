"""`tideline demo` works, and would say so if it did not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from broker.cli.demo_parts import Story
from tests.cli.processes import command, environment


def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = subprocess.run(
        command("demo", "--keep", str(kept)), env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n  yes  ") == 3
    assert "killed: " in done.stdout
    assert (kept / "data" / "tideline.db").exists()


@pytest.mark.parametrize(
    "got",
    [["message 1", "message 3"], ["message 1", "message 2", "message 2", "message 3"], ["message 1", "message 3", "message 2"]],
    ids=["lost", "twice", "disordered"],
)
def test_the_demos_verdict_can_be_no(tmp_path: Path, got: list[str]) -> None:
    said: list[str] = []
    story = Story(tmp_path, said.append, 0)
    story.sent = ["message 1", "message 2", "message 3"]
    story.phone.received = list(story.sent)
    story.laptop.received = got
    story.before_leaving = 1
    assert story.verdict() is False
    assert any(line.startswith("  NO ") for line in said)


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = subprocess.run(
        command("demo", "--keep", str(tmp_path)), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "must be new or empty" in done.stderr


def test_make_demo_installs_its_client_and_no_test_tools(tmp_path: Path) -> None:
    """What `make` would do on a fresh clone."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path}/venv", "demo"], cwd=root, capture_output=True, text=True, check=True
    )
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert any("paho-mqtt" in line for line in installs)
    assert not any("-r requirements/test.txt" in line for line in installs)
