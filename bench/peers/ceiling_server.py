"""The process behind `bench.peers.ceiling`: `python -m bench.peers.ceiling_server PORT`.

It acknowledges whole runs of QoS 1 frames and copies them to whoever subscribed to exactly their topic, or to all below one.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys

from bench import wire
from bench.reactor import Link, Reactor

_topics: dict[bytes, list[_Session]] = {}


class _Session:
    """One client."""

    def __init__(self, reactor: Reactor, connected: socket.socket) -> None:
        self._version = wire.V311
        self._link = Link(reactor, connected, self)

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        first, at, head, stride, count = run
        body = at + head
        if first & 0xF0 == wire.PUBLISH:
            self._link.write(wire.pubacks(buffer, run))
            length = int.from_bytes(buffer[body : body + 2], "big")
            topic = bytes(buffer[body + 2 : body + 2 + length])
            frames = memoryview(buffer)[at : at + count * stride]
            below = topic.rpartition(b"/")[0] + b"/+"
            for other in (*_topics.get(topic, ()), *_topics.get(below, ())):
                other._link.write(frames)
        elif first == 0x10:
            self._version = buffer[body + 6]
            self._link.write(b"\x20\x03\0\0\0" if self._version == wire.V5 else b"\x20\x02\0\0")
        elif first == 0x82:
            start = body + (3 if self._version == wire.V5 else 2)
            length = int.from_bytes(buffer[start : start + 2], "big")
            _topics.setdefault(bytes(buffer[start + 2 : start + 2 + length]), []).append(self)
            granted = b"\0\1" if self._version == wire.V5 else b"\1"
            self._link.write(bytes([0x90, 2 + len(granted)]) + buffer[body : body + 2] + granted)

    def lost(self, why: str) -> None:
        for sessions in _topics.values():
            with contextlib.suppress(ValueError):
                sessions.remove(self)


def main(port: int) -> None:
    """Serve until killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    reactor = Reactor()
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    listening.setblocking(False)

    def accept() -> None:
        connected, _ = listening.accept()
        _Session(reactor, connected)

    reactor.listen(listening, accept)
    while True:
        reactor.step(1.0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
