"""The commands of docs/recall.md that erase, typed in a terminal as they stand there, print what stands there."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli.processes import environment
from tests.http.conftest import Site, site
from tests.support.laws_process import ROOT

_SESSION = re.search(r"```console\n(\$ tideline erase .*?)```", (ROOT / "docs" / "recall.md").read_text(), re.DOTALL)


def typed(command: str, answers: list[str], folder: Path) -> str:
    """What a terminal shows of a command at its end: of a line that is written anew, what was written last."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    terminal, its_end = pty.openpty()
    env = environment(PATH=path, PYTHONPATH=str(ROOT), TERM="xterm", COLUMNS="100")
    with subprocess.Popen(command, shell=True, cwd=folder, env=env, stdin=its_end, stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        try:
            while more := os.read(terminal, 1 << 16):
                shown += more
                if shown.endswith(b": ") and answers:
                    os.write(terminal, f"{answers.pop(0)}\n".encode())
        except OSError:  # which is how a terminal tells that its last process has ended
            pass
        os.close(terminal)
    assert process.returncode == 0, shown
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")
    return "".join(f"{line.rpartition(chr(13))[2].rstrip()}\n" for line in text.removesuffix("\n").split("\n"))


async def said(made: Site, user: str, topic: str, count: int) -> None:
    for first in range(0, count, 50):
        several = [{"topic": topic, "payload": f"{user} {number}"} for number in range(first, min(count, first + 50))]
        answer = await made.caller().post("/messages", json=several, params={"user": user})
        assert {one["status"] for one in answer.json()["results"]} == {201}


async def test_the_recipe_works(tmp_path: Path) -> None:
    assert _SESSION
    calls = [one.partition("\n") for one in _SESSION[1].split("$ ")[1:]]
    counts = [int(told.replace(",", "")) for told in re.findall(r"([\d,]+) messages recalled", _SESSION[1])]
    assert len(calls) == len(counts) == 2
    operator = tmp_path / "data" / "operator.json"
    operator.parent.mkdir()
    http: dict[str, Any] = {"bind": "127.0.0.1:0", "operator_file": str(operator)}
    plugins: dict[str, Any] = {"recall": {}, "accounts": {}, "http": http}
    async with site(f"sqlite:///{tmp_path}/t.db", plugins=plugins, hooks={"timeout": 60}) as made:
        await said(made, "u/alice", "chat/alice", counts[0])
        await said(made, "u/bob", "chat/room", counts[1])
        assert (await made.caller().post("/users", json={"name": "alice", "password": "correct horse"})).status_code == 201
        for command, _, told in calls:
            answers = re.findall(r"\[y/N\]: (\w)", told)
            assert await asyncio.to_thread(typed, command, answers, tmp_path) == told
        for topic in ("chat/alice", "chat/room"):
            assert not any(message.payload for message in await made.server.storage.read_conversation(topic, limit=5000))
