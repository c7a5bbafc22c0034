"""A broker that has few file descriptors: it takes what the hard limit allows, says what it cannot do, and recovers."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import PATIENCE, serving
from tests.support.until import wait_until

CLIENTS = 200
MEMORY = {"TIDELINE__PLUGINS__PERSISTENCE__URL": "memory://", "TIDELINE__PLUGINS__SEARCH": "false"}


def connected(port: int, number: int) -> bool:
    """Whether a new client is let in and stays; its socket is kept by the caller's garbage."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.settimeout(PATIENCE)
    KEPT.append(client)
    try:
        client.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04%04d" % number)
        return client.recv(4) == b"\x20\x02\x00\x00"
    except ConnectionError:
        return False


KEPT: list[socket.socket] = []


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    while KEPT:
        KEPT.pop().close()


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with serving(tmp_path, files=(100, 400), **MEMORY) as broker:
        port = broker.port()
        assert resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE) == (400, 400)
        assert all(connected(port, number) for number in range(CLIENTS))
    assert "max_connections cannot be reached (mqtt 100000, websocket 100000)" in broker.log
    assert "connection refused" not in broker.log


def test_out_of_descriptors_is_said_and_counted_and_over_when_clients_leave(tmp_path: Path) -> None:
    with serving(tmp_path, files=(100, 100), **MEMORY) as broker:
        port = broker.port()
        let_in = [connected(port, number) for number in range(CLIENTS)]
        assert 20 < sum(let_in) < 100
        assert not any(let_in[100:])  # those that were turned away heard it at once
        while KEPT:
            KEPT.pop().close()
        wait_until(lambda: connected(port, 9999))
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0
    assert broker.log.count("connection refused, the process is out of file descriptors") == 1
    assert "Traceback" not in broker.log
