"""Counts what goes to a database and comes back: `python -m bench.cluster.proxy HOST PORT COUNT`.

A process of its own, so that counting costs the nodes nothing. It listens on COUNT ports of 127.0.0.1, prints them as a JSON
list, and answers each line on stdin with one line: for each port the `Tally` of every command since the start. Bytes are passed
on as they come; what is counted is read off a copy. Nothing of a message is kept.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys

OP_MSG = 2013
PROBE = ", linearizable"
_ANSWERS_KEPT = 10_000

Tally = dict[str, list[int]]
"""By ``command collection``: operations, documents that it writes, bytes there, bytes back."""


class Counter:
    """Reads the wire messages of one connection."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._there = bytearray()
        self._back = bytearray()
        self._asked: dict[int, list[int]] = {}

    def there(self, data: bytes) -> None:
        """Bytes on their way to the database."""
        for message in _messages(self._there, data):
            request, _, code = struct.unpack_from("<iii", message, 4)
            if code != OP_MSG or message[20] != 0:
                continue
            counts = self._tally.setdefault(command(message), [0, 0, 0, 0])
            counts[0] += 1
            counts[1] += documents(message)
            counts[2] += len(message)
            if len(self._asked) < _ANSWERS_KEPT:
                self._asked[request] = counts

    def back(self, data: bytes) -> None:
        """Bytes on their way to the node; of an answer to nothing that was asked (a stream of hellos) nothing is counted."""
        for message in _messages(self._back, data):
            counts = self._asked.pop(struct.unpack_from("<i", message, 8)[0], None)
            if counts is not None:
                counts[3] += len(message)


def _messages(held: bytearray, data: bytes) -> list[bytes]:
    """The messages that are whole with these bytes."""
    held += data
    found: list[bytes] = []
    at = 0
    while len(held) - at >= 16 and len(held) - at >= (length := int.from_bytes(held[at : at + 4], "little")):
        found.append(bytes(held[at : at + length]))
        at += length
    del held[:at]
    return found


def command(message: bytes) -> str:
    """Name and collection of an OP_MSG's command; a linearizable read says so too."""
    end = message.index(b"\0", 26)
    name = message[26:end].decode()
    if message[25] != 2:
        return name
    length = int.from_bytes(message[end + 1 : end + 5], "little")
    probe = PROBE if name == "find" and b"linearizable" in message else ""
    return f"{name} {message[end + 5 : end + 4 + length].decode()}{probe}"


def documents(message: bytes) -> int:
    """How many documents follow the command of an OP_MSG: what an insert inserts, the statements of an update or a delete."""
    at, count = 21 + int.from_bytes(message[21:25], "little"), 0
    while at + 5 <= len(message) and message[at] == 1:
        end = at + 1 + int.from_bytes(message[at + 1 : at + 5], "little")
        at = message.index(b"\0", at + 5) + 1
        while at < end:
            at += int.from_bytes(message[at : at + 4], "little")
            count += 1
    return count


class _Side(asyncio.Protocol):
    """One end of a connection that is passed on."""

    def __init__(self) -> None:
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self.early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def count(self, data: bytes) -> None:
        """Bytes came in at this end."""

    def data_received(self, data: bytes) -> None:
        self.count(data)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.early += data

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class _Node(_Side):
    """The node's end: the database's is opened when it connects."""

    def __init__(self, host: str, port: int, tally: Tally, opening: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._target = (host, port)
        self._counter = Counter(tally)
        self._opening = opening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        task = asyncio.get_running_loop().create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        database = _Side()
        database.other = self
        database.count = self._counter.back  # type: ignore[method-assign]
        try:
            await asyncio.get_running_loop().create_connection(lambda: database, *self._target)
        except OSError:
            assert self.transport is not None
            self.transport.close()
            return
        self.other = database
        assert database.transport is not None
        database.transport.write(bytes(self.early))
        self.early.clear()

    def count(self, data: bytes) -> None:
        self._counter.there(data)


async def serve(host: str, port: int, count: int) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    opening: set[asyncio.Task[None]] = set()
    tallies: dict[int, Tally] = {}
    for _ in range(count):
        tally: Tally = {}
        server = await loop.create_server(lambda tally=tally: _Node(host, port, tally, opening), "127.0.0.1", 0)  # type: ignore[misc]
        tallies[server.sockets[0].getsockname()[1]] = tally
    print(json.dumps(list(tallies)), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(tallies), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
