"""Runs a command of the command line again and again, and kills it at one step after the other: ``SIGKILL``, no clean-up.

A step is each call that makes, renames, links or removes a file, or opens a database, as Python's audit hooks tell of them; so
the places are the same on any machine. A program of its own, so that it can fork without threads: see `killed_everywhere`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.support.until import PATIENCE

STEPS = {"os.rename", "os.remove", "os.link", "sqlite3.connect", "shutil.copyfile"}


def killed_everywhere(folder: Path, database: str, *arguments: str, calls: Iterable[str] = ()) -> list[list[str]]:
    """Run ``tideline`` in copies of a folder, killed at its first step, then at its second, until it comes through.

    ``calls``: C functions of whose calls every fourth is a step instead. After each kill the database at this path is opened
    and read: what its conversations are. One list for each run.
    """
    script = [sys.executable, "-m", "tests.transfer.crashing", database, ",".join(calls), *arguments]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def _main(database: str, calls: set[str], arguments: list[str]) -> None:
    from broker.cli import backup, export, import_, restore, verify  # noqa: F401 - once, and not in each child
    from broker.cli.main import main
    from storage.sqlite import SqliteStorage, dump, fill  # noqa: F401

    found: list[list[str]] = []
    for at in range(1, 1000, 1 if not calls else 4):
        copy = Path.cwd().with_name(f"{Path.cwd().name}-{at}")
        shutil.copytree(Path.cwd(), copy)
        child = os.fork()
        if not child:
            os.dup2(2, 1)
            os.chdir(copy)
            _kill_at(at, calls)
            main.main(arguments, standalone_mode=False)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        found.append(_conversations(copy / database))
        if status == 0:
            print(json.dumps(found))
            return
        assert os.WIFSIGNALED(status), f"it ended with {status} at step {at}"


def _kill_at(at: int, calls: set[str]) -> None:
    passed = 0

    def step() -> None:
        nonlocal passed
        passed += 1
        if passed == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, details: tuple[object, ...]) -> None:
        if event in STEPS:
            step()

    def profile(frame: object, event: str, called: object) -> None:
        if event == "c_call" and getattr(called, "__name__", "") in calls:
            step()

    if calls:
        sys.setprofile(profile)
    else:
        sys.addaudithook(hook)


def _conversations(database: Path) -> list[str]:
    """What a broker finds that starts there now; nothing where there is no database."""
    import asyncio

    from storage.factory import open_url
    from tests.transfer.sample import conversations

    async def read() -> list[str]:
        storage = open_url(f"sqlite:///{database}")
        await storage.open()
        await storage.close()
        return await conversations(database)

    return asyncio.run(read()) if database.exists() else []


if __name__ == "__main__":
    _main(sys.argv[1], set(filter(None, sys.argv[2].split(","))), sys.argv[3:])
