"""What recalling a message costs that is in very many inboxes: beside what publishing it cost, and until its bytes are gone."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from typing import NamedTuple

from bench.filled import Kept
from bench.prefill import ROOM
from bench.rounds import say
from bench.table import columns
from bench.wire import V5, connect, varint

_MARK = b"to-be-recalled-"
_PATIENCE = 600.0


class Cost(NamedTuple):
    """In seconds: until a message is acknowledged, until its recall is, and from then until no file has its bytes."""

    inboxes: int
    published: float
    recalled: float
    wiped: float


class _Recalling(Kept):
    """Tideline with the plugin."""

    def more_plugins(self) -> str:
        return "  recall: {}\n"


def measure(counts: tuple[int, ...]) -> list[Cost]:
    """One broker for each number of inboxes; nobody is connected but the sender."""
    found = []
    for count in counts:
        broker = _Recalling()
        try:
            say(f"filling a database with a group of {count:,}")
            command = [sys.executable, "-m", "bench.prefill", broker.storage_url, f"--members={count}"]
            subprocess.run(command, check=True, stdout=sys.stderr)
            broker.start()
            found.append(_cost(broker, count))
        finally:
            broker.stop()
            broker.discard()
    return found


def _cost(broker: _Recalling, count: int) -> Cost:
    with socket.create_connection(("127.0.0.1", broker.port), timeout=_PATIENCE) as sender:
        sender.sendall(connect("sender", version=V5))
        sender.recv(1024)
        _publish(sender, 1, b"", b"warm-up")
        published = _publish(sender, 2, b"", _MARK * 64)
        with sqlite3.connect(f"file:{broker.home}/tideline.db?mode=ro", uri=True) as database:
            ((message_id,),) = database.execute("SELECT max(id) FROM store").fetchall()
        database.close()
        named = b"\x26" + _text(b"tideline-recalls") + _text(b"%016x" % message_id)
        recalled = _publish(sender, 3, named, b"")
        began = time.monotonic()
        while any(_MARK in file.read_bytes() for file in broker.home.glob("tideline.db*")):
            if time.monotonic() - began > _PATIENCE:
                raise RuntimeError("the bytes are still in a file")
            time.sleep(0.02)
        return Cost(count, published, recalled, time.monotonic() - began)


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _publish(sender: socket.socket, packet_id: int, properties: bytes, payload: bytes) -> float:
    body = _text(ROOM.encode()) + packet_id.to_bytes(2, "big") + varint(len(properties)) + properties + payload
    began = time.monotonic()
    sender.sendall(b"\x32" + varint(len(body)) + body)
    answer = sender.recv(1024)
    if answer[0] != 0x40 or (len(answer) > 4 and answer[4] >= 0x80):
        raise RuntimeError(f"message {packet_id} was not taken: {answer.hex()}")
    return time.monotonic() - began


def table(found: list[Cost]) -> str:
    """The figures."""
    rows = [["inboxes", "publish, s", "recall, s", "bytes gone after, s"]]
    rows += [[f"{c.inboxes:,}", f"{c.published:.2f}", f"{c.recalled:.2f}", f"{c.wiped:.2f}"] for c in found]
    title = "Recalling a message of 960 bytes, whose recall goes to the same inboxes, nobody connected"
    return f"{title}\n\n{columns(rows)}"
