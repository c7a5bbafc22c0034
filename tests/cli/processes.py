"""A broker as people run it: a process of its own, started by the command line."""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.preloaded import Preloaded, completed
from tests.support.until import wait_until

T = TypeVar("T")

PATIENCE = 60.0
ROOT = str(Path(__file__).resolve().parents[2])
FREE_PORTS = {
    "TIDELINE__LISTENERS__0__BIND": "127.0.0.1:0",
    "TIDELINE__LISTENERS__1__BIND": "127.0.0.1:0",
    "TIDELINE__PLUGINS__HTTP__BIND": "127.0.0.1:0",
}


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of its own, and with these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDELINE")}
    return {**inherited, **FREE_PORTS, **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "broker.cli", *arguments]


def ran(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``tideline`` with these arguments in a folder, and nothing to read, once it has ended."""
    return completed(arguments, cwd=folder, env=environment(PYTHONPATH=ROOT, **variables), timeout=PATIENCE)


class Process:
    """``tideline serve``; its standard output as it comes, its log once it has ended. ``files``: its limits of open files."""

    def __init__(self, folder: Path, *arguments: str, files: Any = None, **variables: str) -> None:
        self._log = folder / f"log-{time.monotonic_ns()}.txt"
        env = environment(PYTHONPATH=ROOT, **variables)
        self.process: Preloaded | subprocess.Popen[str]
        with self._log.open("wb") as log:
            if files is None:
                self.process = Preloaded(("serve", *arguments), cwd=folder, env=env, log=log, piped=True)
            else:
                self.process = subprocess.Popen(
                    command("serve", *arguments),
                    cwd=folder,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files),
                )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    @property
    def log(self) -> str:
        return self._log.read_text()

    def line(self, beginning: str) -> str:
        """The next line of standard output that begins like this."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"no {beginning!r} line; the log: {self.log}") from None
            if line.startswith(beginning):
                return line

    def port(self, listener: str = "mqtt") -> int:
        return int(self.line(f"listening {listener} ").split(":")[2].split("/")[0])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)


@contextmanager
def serving(folder: Path, *arguments: str, files: Any = None, **variables: str) -> Iterator[Process]:
    """A broker process that is gone at the end."""
    broker = Process(folder, *arguments, files=files, **variables)
    try:
        yield broker
    finally:
        if broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait()
        assert broker.process.stdout is not None
        broker.process.stdout.close()


class Api:
    """The API of a broker process, as its operator."""

    def __init__(self, broker: Process, folder: Path) -> None:
        broker.port()
        broker.line("storing")
        told = json.loads(wait_until(lambda: _text(folder / "data" / "operator.json")))
        self.client = httpx.Client(
            base_url=f"{told['url']}/v1", headers={"Authorization": f"Bearer {told['secret']}"}, timeout=30
        )

    def post(self, topic: str, text: str) -> dict[str, Any]:
        answer = self.client.post(f"/conversations/{topic}/messages", json={"payload": text})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def search(self, **query: Any) -> dict[str, Any]:
        answer = self.client.get("/search", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def state(self) -> dict[str, Any]:
        answer = self.client.get("/search/index")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
