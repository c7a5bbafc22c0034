"""Law 5: what a device has not read costs the broker no memory, however much it is."""

from __future__ import annotations

import socket
import subprocess
import sys
from io import BufferedReader
from pathlib import Path

import pytest

from broker.packets.encoder import encode
from broker.packets.model import Connect, Publish
from tests.support import laws_check as law
from tests.support.laws_backlog import NAME, TOPIC, USER, WIDTH
from tests.support.laws_process import ROOT, BrokerProcess, broker_process

GROWTH = 50 << 20
FRAME = len(encode(Publish(TOPIC, b" " * WIDTH, 1, False, False, 1), 4))
CONNACK = 4


def fill(url: str, count: int) -> None:
    subprocess.run([sys.executable, "-m", "tests.support.laws_backlog", url, str(count)], cwd=ROOT, check=True)


def drain(broker: BrokerProcess, count: int) -> int:
    """Read all of it as fast as it comes, and acknowledge it; by how many bytes the broker grew meanwhile."""
    before, most, received = broker.rss, 0, 0
    with socket.create_connection(("127.0.0.1", broker.port), 30) as device:
        device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connect = Connect(NAME, 4, False, 0, username=USER, password=USER.encode())
        device.sendall(encode(connect, 4))
        with device.makefile("rb") as stream:
            assert stream.read(CONNACK) == b"\x20\x02\x01\x00"  # the session was there
            while received < count:
                acks = bytearray()
                for frame in _frames(stream):
                    at = frame.index(TOPIC.encode()) + len(TOPIC)
                    assert int(frame[at + 2 : at + 2 + WIDTH]) == received, "out of order"
                    acks += b"\x40\x02" + frame[at : at + 2]
                    received += 1
                device.sendall(acks)
                if received % 8192 < 600:
                    most = max(most, broker.rss)
        most = max(most, broker.rss)
        device.sendall(b"\xe0\x00")
    return most - before


def _frames(stream: BufferedReader) -> list[bytes]:
    """What has come, in whole frames; waits for the first."""
    data = stream.read1(1 << 16)
    if rest := len(data) % FRAME:
        data += stream.read(FRAME - rest)
    return [data[at : at + FRAME] for at in range(0, len(data), FRAME)]


def unread_messages_drain(folder: Path, url: str, count: int) -> None:
    fill(url, count)
    with broker_process(folder, url) as broker:
        grown = drain(broker, count)
        broker.stop()
    assert grown < GROWTH, f"the broker grew by {grown >> 20} MiB"
    kept = law.read_devices(url)[f"u/{USER}", NAME]
    assert (kept.offset, kept.inflight) == (count, [])


def test_a_hundred_thousand_unread_messages_drain_in_order(tmp_path: Path) -> None:
    unread_messages_drain(tmp_path, f"sqlite:///{tmp_path}/laws.db", 100_000)


def test_unread_messages_in_mongodb_drain_in_order(tmp_path: Path, mongo_url: str) -> None:
    unread_messages_drain(tmp_path, mongo_url, 3_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_unread_messages_drain_in_order(tmp_path: Path) -> None:
    unread_messages_drain(tmp_path, f"sqlite:///{tmp_path}/laws.db", 1_000_000)
