"""What recalling a message costs that is in very many inboxes: beside what publishing it cost, and until its bytes are gone."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from typing import NamedTuple

from bench import process
from bench.bystander import Bystander
from bench.filled import Kept
from bench.prefill import ROOM
from bench.rounds import say
from bench.table import columns
from bench.wire import V5, connect, varint

_MARK = b"to-be-recalled-"
_PATIENCE = 600.0


class Step(NamedTuple):
    """Until something is acknowledged: seconds, seconds of the broker's processor, and the longest that the PUBACK of somebody
    else, and a PINGRESP, took meanwhile (ms)."""

    seconds: float
    cpu: float
    others: float
    pings: float


class Cost(NamedTuple):
    """A message, one more, the recall of the first one; and seconds from then until no file has its bytes. ``grown``: MiB."""

    inboxes: int
    published: Step
    again: Step
    recalled: Step
    wiped: float
    grown: float


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
    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=_PATIENCE) as sender,
        Bystander(broker.port) as others,
        Bystander(broker.port, pings=True) as pings,
    ):
        sender.sendall(connect("sender", version=V5))
        sender.recv(1024)
        _publish(sender, 1, b"", b"warm-up")
        memory = process.resident(broker.pid)

        def step(packet_id: int, properties: bytes, payload: bytes) -> Step:
            others.waits()
            pings.waits()
            used = process.cpu_seconds(broker.pid)
            seconds = _publish(sender, packet_id, properties, payload)
            return Step(seconds, process.cpu_seconds(broker.pid) - used, max(others.waits()), max(pings.waits()))

        say(f"publishing to {count:,} inboxes, and recalling that")
        published = step(2, b"", _MARK * 64)
        with sqlite3.connect(f"file:{broker.home}/tideline.db?mode=ro", uri=True) as database:
            query = "SELECT max(store.id) FROM store JOIN conversations ON conversations.id = conversation WHERE topic = ?"
            ((message_id,),) = database.execute(query, (ROOM,)).fetchall()
        database.close()
        again = step(3, b"", b"again")
        recalled = step(4, b"\x26" + _text(b"tideline-recalls") + _text(b"%016x" % message_id), b"")
        began = time.monotonic()
        while any(_MARK in file.read_bytes() for file in broker.home.glob("tideline.db*")):
            if time.monotonic() - began > _PATIENCE:
                raise RuntimeError("the bytes are still in a file")
            time.sleep(0.02)
        wiped = time.monotonic() - began
        return Cost(count, published, again, recalled, wiped, (process.resident(broker.pid) - memory) / (1 << 20))


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
    rows = [
        ["inboxes", "", "s until PUBACK", "s of CPU", "others' PUBACK ms at most", "PINGRESP", "bytes gone after s", "MiB more"]
    ]
    for one in found:
        steps = (
            ("a message of 960 bytes", one.published),
            ("another message", one.again),
            ("the first one's recall", one.recalled),
        )
        for what, step in steps:
            rest = (f"{one.wiped:.2f}", f"{one.grown:.0f}") if step is one.recalled else ("", "")
            rows.append(
                [
                    f"{one.inboxes:,}",
                    what,
                    f"{step.seconds:.2f}",
                    f"{step.cpu:.2f}",
                    f"{step.others:.0f}",
                    f"{step.pings:.0f}",
                    *rest,
                ]
            )
    title = "Recalling a message that is in many inboxes; its recall goes to the same. Nobody is connected but who publishes"
    return f"{title}\n\n{columns(rows)}"
