"""A wrong folder or a wrong argument: told in a line, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli.check import check
from broker.cli.main import main
from storage.errors import StorageUnusable
from storage.sqlite.serving_lock import ServingLock
from tests.cli.processes import PATIENCE, ROOT, command, environment, ran


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "-d", ""], "Invalid value for '-d' / '--data': it is empty"),
        (["reindex", "--data="], "Invalid value for '-d' / '--data': it is empty"),
        (["check", "-c", ""], "Invalid value for '-c' / '--config': it is empty"),
        (["demo", "--keep", ""], "Invalid value for '--keep': it is empty"),
        (["passwd", "", "alice", "--password-stdin"], "Invalid value for 'FILE': it is empty"),
        (["demo", "--pace", "-1"], "--pace -1: must be 0 to 60 seconds"),
        (["demo", "--pace", "nan"], "--pace nan: must be 0 to 60 seconds"),
        (["inspect", "messages", "a", "--after", "-5"], "-5 is not in the range x>=0"),
        (["inspect", "inbox", "a", "--after", "-5"], "-5 is not in the range x>=0"),
        (["inspect", "devices", "-d", "a", "-u", "sqlite:///b/t.db"], "--data and --url both say where the messages are"),
        (["inspect", "devices", "-u", ""], "the storage url has no scheme"),
        (["inspect", "devices", "-u", "memory://"], "memory:// keeps nothing that could be looked at"),
    ],
)
def test_a_wrong_argument_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (2, 3), done.output
    assert told in done.stderr
    assert isinstance(done.exception, SystemExit)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["reindex"],
        ["jobs", "-d", "wrong"],
        ["jobs", "run", "retention"],
        ["jobs", "run", "nothing", "-d", "wrong"],
        ["inspect", "conversations", "-d", "wrong"],
        ["inspect", "messages", "a"],
        ["user", "list"],
        ["user", "delete", "ann"],
    ],
)
def test_a_command_on_what_there_is_makes_nothing(tmp_path: Path, arguments: list[str]) -> None:
    done = ran(tmp_path, *arguments)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "tideline.db: there is no database" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == []


@contextmanager
def another_user() -> Iterator[None]:
    """As a user who is not root: root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


COMMANDS = [["user", "list"], ["acl", "list"], ["jobs"], ["jobs", "run", "retention"], ["inspect", "devices"], ["check"]]


def test_a_file_that_was_given_beats_the_environments(tmp_path: Path) -> None:
    good, shut = tmp_path / "good.yaml", tmp_path / "shut"
    good.write_text(f"persistence: sqlite:///{tmp_path}/none.db\nbad: 1\n")
    for arguments in COMMANDS:
        for named in ("/nosuch", str(tmp_path), str(shut)):
            found = CliRunner().invoke(main, [*arguments, "-c", str(good)], env={"TIDELINE_CONFIG": named})
            assert (found.exit_code, "good.yaml: bad (line 2): unknown" in found.output) == (2, True), found.output
        found = CliRunner().invoke(main, arguments, env={"TIDELINE_CONFIG": str(good)})
        assert "good.yaml: bad (line 2): unknown" in found.output
        found = CliRunner().invoke(main, arguments, env={"TIDELINE_CONFIG": "/nosuch"})
        assert (found.exit_code, found.output) == (2, "tideline: TIDELINE_CONFIG names '/nosuch', which does not exist\n")


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "c.yaml").write_text("{}\n")
    shut.chmod(0)
    with another_user():
        named = CliRunner().invoke(check, [], env={"TIDELINE_CONFIG": str(shut / "c.yaml")})
        given = CliRunner().invoke(check, ["-c", str(shut / "c.yaml")])
        with pytest.raises(StorageUnusable) as refused:
            ServingLock(Path("/dev/tideline-of-another-user.db")).take()
    shut.chmod(0o700)
    assert "TIDELINE_CONFIG names" in named.output
    for found in (named, given):
        assert (found.exit_code, "may not be read by this user" in found.output) == (2, True), found.output
    assert "db.lock cannot be written: Permission denied; /dev belongs to " in str(refused.value)
    assert "run it as " in str(refused.value)


def test_without_a_terminal_it_is_told_how_a_password_is_given(tmp_path: Path) -> None:
    done = subprocess.run(
        command("passwd", "users", "bob"),
        cwd=tmp_path,
        env=environment(PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    told = "tideline: there is no terminal to ask for the password: give --password-stdin or --generate\n"
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(
    "arguments",
    [
        ["acl", "check", "\udcff", "publish", "a"],
        ["trace", "--client", "\udcff"],
        ["retained", "clear", "\udcff"],
        ["inspect", "messages", "a\udcff"],
    ],
)
def test_an_argument_that_is_not_text_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, "\\xff': an argument must be UTF-8 text" in done.output) == (2, True), done.output


def test_what_cannot_be_told_is_a_failure() -> None:
    """As on a full disk."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("completion", "bash"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr) == (1, "tideline: cannot write to standard output: No space left on device\n")
