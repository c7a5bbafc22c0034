"""What systemd is told: a socket of the test's own stands in its place, as the sd_notify protocol has it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import PATIENCE, serving
from tests.support import mongo_server
from tests.support.until import wait_until

QUIET = {"TIDELINE__PLUGINS__PERSISTENCE__URL": "memory://"}


class Systemd:
    """Hears what a service says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE)

    def hears(self, beginning: str) -> str:
        """The next message that begins like this; a watchdog's are passed by."""
        while True:
            message = self._socket.recv(4096).decode()
            if message.startswith(beginning):
                return message
            assert message == "WATCHDOG=1", message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def test_it_hears_of_a_life(tmp_path: Path, systemd: Systemd) -> None:
    with serving(tmp_path, NOTIFY_SOCKET=str(systemd.path), WATCHDOG_USEC="200000", **QUIET) as broker:
        assert systemd.hears("READY=1") == "READY=1\nSTATUS=serves"
        for _ in range(3):
            systemd.hears("WATCHDOG=1")
        broker.signal(signal.SIGHUP)
        assert systemd.hears("RELOADING=1").startswith("RELOADING=1\nMONOTONIC_USEC=")
        systemd.hears("READY=1")
        broker.signal(signal.SIGTERM)
        systemd.hears("STOPPING=1")
        assert broker.wait() == 0


def test_a_broker_that_stands_by_is_ready(tmp_path: Path, systemd: Systemd) -> None:
    with serving(tmp_path) as first:
        first.line("storing")
        with serving(tmp_path, "--standby", NOTIFY_SOCKET=str(systemd.path)) as second:
            assert "standing by" in systemd.hears("READY=1")
            first.signal(signal.SIGTERM)
            assert systemd.hears("READY=1") == "READY=1\nSTATUS=serves"
            second.signal(signal.SIGTERM)
            assert second.wait() == 0


def test_workers_are_ready_when_all_of_them_serve_and_reload_when_told_to(tmp_path: Path, systemd: Systemd) -> None:
    url = mongo_server.url(mongo_server.new_database(), "tideline_lease_ms=2000")
    with serving(tmp_path, "--workers", "2", NOTIFY_SOCKET=str(systemd.path), TIDELINE__PERSISTENCE__URL=url) as broker:
        assert systemd.hears("READY=1") == "READY=1\nSTATUS=serves with 2 workers"
        (tmp_path / "config.yaml").write_text("limits: {page_entries: 7}")
        broker.signal(signal.SIGHUP)
        wait_until(lambda: broker.log.count("changed, but needs a restart: limits.page_entries") == 2)
        broker.signal(signal.SIGTERM)
        systemd.hears("STOPPING=1")
        assert broker.wait() == 0
