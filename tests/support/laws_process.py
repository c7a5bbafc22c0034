"""The broker as a process of its own, that tests kill, freeze and start again at the same address."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker.cli.demo_parts import free_port as free_port  # for the tests that start a broker
from tests.support.preloaded import Preloaded
from tests.support.until import wait_until

PATIENCE = 60.0
"""Seconds after which a test gives up waiting for what must come."""
_START = 90.0
"""The same for a process that starts: on a busy machine its imports alone take half a minute."""
ROOT = Path(__file__).resolve().parents[2]
_NAMES: dict[str, dict[str, object]] = {
    "tests.support.laws_auth.NameIsPassword": {},
    "tests.support.laws_auth.ForbiddenTopics": {},
}


def rss(pid: int) -> int:
    """Bytes of memory that a process has resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} has no memory any more")


class BrokerProcess:
    """``tideline serve`` on ``url``, with verified names; ``sections`` are further sections of its configuration.

    ``arguments`` are more of the command's. Every start listens at the same port; ``listeners`` are further ones. The log of
    all runs is in one file.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        persistence: dict[str, Any] | None = None,
        arguments: tuple[str, ...] = (),
        **sections: Any,
    ) -> None:
        self.port = free_port()
        self._arguments = arguments
        self.process: Preloaded | None = None
        self._folder = folder
        self._log = folder / f"broker-{self.port}.log"
        self._config = folder / f"broker-{self.port}.yaml"
        plugins = {"persistence": {"url": url, **(persistence or {})}, "sync": {}, **_NAMES, **sections.pop("plugins", {})}
        listener = {"name": "mqtt", "type": "tcp", "bind": f"127.0.0.1:{self.port}"}
        listeners = [listener, *sections.pop("listeners", [])]
        binds = [*(one["bind"] for one in listeners), plugins.get("http", {}).get("bind", "")]
        self._ports = [int(port) for host, _, port in (bind.rpartition(":") for bind in binds) if host == "127.0.0.1"]
        self._config.write_text(json.dumps({"listeners": listeners, "plugins": plugins, **sections}))  # JSON is YAML

    def spawn(self) -> None:
        """Start the process and don't wait for it."""
        assert self.process is None
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TIDELINE__")}
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        with self._log.open("ab") as log:
            arguments = ("serve", "--config", str(self._config), *self._arguments)
            self.process = Preloaded(arguments, cwd=self._folder, env=environ, log=log)

    def start(self) -> None:
        """Start the process; returns once it accepts connections, over MQTT and HTTP."""
        self.spawn()
        self.ready()

    def ready(self) -> None:
        """Returns once the process accepts connections."""
        wait_until(self._listens, lambda: f"the broker listens; its log:\n{self.log[-3000:]}", _START)

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the broker ended with {self.process.returncode}; its log:\n{self.log[-3000:]}")
        return all(map(_accepts, filter(None, self._ports)))

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """SIGTERM; the process must end by itself, and well."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        self.process = None
        assert code == 0, f"the broker ended with {code}; its log:\n{self.log[-3000:]}"

    def restart(self) -> None:
        """SIGKILL and start again."""
        self.kill()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def limit_file_size(self, size: int | None) -> None:
        """Let the process write no file beyond ``size`` bytes: a disk that is full for it. None: as much as there is."""
        assert self.process is not None
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    @property
    def rss(self) -> int:
        """Bytes of memory that the broker has resident."""
        assert self.process is not None
        return rss(self.process.pid)

    @property
    def log(self) -> str:
        """What all runs logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def complaints(self) -> list[str]:
        """The log's tracebacks, and its lines about bugs of ours."""
        return [line for line in self.log.splitlines() if "Traceback" in line or "internal error" in line]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def broker_process(folder: Path, url: str, **options: Any) -> Iterator[BrokerProcess]:
    """A started broker that is gone at the end; it must have met no bug of its own."""
    broker = BrokerProcess(folder, url, **options)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
    assert broker.complaints == [], broker.log[-6000:]
