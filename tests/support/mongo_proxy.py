"""A TCP proxy in front of a MongoDB server: it can be away, and can lose the answer to a command that was obeyed."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bson import decode, encode

from storage.mongo.documents import Collections


class Command(NamedTuple):
    """A command on its way: its name and its collection."""

    name: str
    collection: str


WRITES = {"insert", "update", "delete", "bulkWrite"}
LOSABLE = set(Collections._fields) - {"lease", "nodes", "lanes", "leases", "announced", "divisions"}
"""What commits write, but for what they only announce."""


class MongoProxy:
    """Forwards whole wire messages. ``lose`` is asked for each command whether its answer is to be lost.

    ``pass_on`` is asked before, whether the server gets it at all; where not, the connection is cut. ``held`` may give
    something to wait for before the server gets it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = 0
        self.lose: Callable[[Command], bool]
        self.lose_nothing()
        self.pass_on: Callable[[Command], bool] = lambda command: True
        self.held: Callable[[], Awaitable[object] | None] = lambda: None
        self.lost: list[Command] = []
        self.lose_retries = True
        """Whether the answer is lost again when the driver sends the same write again, which it does where it can."""
        self._lost_writes: set[str] = set()
        self.router = False
        """The server passes itself off as a mongos, but for what only one can do."""
        self.older = False
        """The server passes itself off as one before MongoDB 8, which has no command for several collections: what a group
        writes to the store and to the inboxes comes as two."""
        self.unknown = ""
        """A command that the server does not know."""
        self.bodies: list[dict[str, Any]] | None = None
        """Set to a list to have the body of every command, which has all but the documents of a write."""

    async def start(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            links = list(self._links)
            for link in links:
                link.cancel()
            await asyncio.gather(*links, return_exceptions=True)
            await server.wait_closed()

    def lose_nothing(self) -> None:
        """Whatever was asked for and has not happened does not happen any more."""
        self.lose = lambda command: False

    def lose_next_write(self) -> None:
        """Lose the answer to the next write that is not a beat."""
        self.lose_write(1)

    def lose_write(self, number: int, collection: str = "") -> None:
        """Lose the answer to the ``number``-th such write from now on, of one collection or of any."""
        left = number

        def lose(command: Command) -> bool:
            nonlocal left
            if command.name in WRITES and command.collection in ((collection,) if collection else LOSABLE):
                left -= 1
                return left == 0
            return False

        self.lose = lose

    def _loses(self, command: Command, body: dict[str, Any]) -> bool:
        write = f"{body.get('lsid')} {body['txnNumber']}" if "txnNumber" in body else ""
        if self.lose_retries and write in self._lost_writes:
            return True
        if not self.lose(command):
            return False
        self.lost.append(command)
        if write:
            self._lost_writes.add(write)
        return True

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = writer
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            del self._links[task]
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        losing: set[int] = set()

        async def requests() -> None:
            while True:
                data, request_id, _ = await _message(reader)
                if (command := _command(data)) is not None:
                    body = decode(data[21 : 21 + int.from_bytes(data[21:25], "little")])
                    if self.bodies is not None:
                        self.bodies.append(body)
                    if not self.pass_on(command):
                        return
                    if self._loses(command, body):
                        losing.add(request_id)
                if (held := self.held()) is not None:
                    await held
                if self.unknown and data.startswith(self.unknown.encode() + b"\0", 26):
                    data = data[:26] + b"?" + data[27:]
                server_writer.write(data)
                await server_writer.drain()

        async def answers() -> None:
            while True:
                data, _, response_to = await _message(server_reader)
                if response_to in losing:
                    return
                writer.write(_as(data, self.router, self.older) if self.router or self.older else data)
                await writer.drain()

        both = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            server_writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, int, int]:
    header = await reader.readexactly(16)
    length, request_id, response_to, _ = struct.unpack("<iiii", header)
    return header + await reader.readexactly(length - 16), request_id, response_to


def _as(data: bytes, router: bool, older: bool) -> bytes:
    """An answer to ``hello`` as a mongos gives it, or a server of MongoDB 7; any other as it is."""
    op_msg = int.from_bytes(data[12:16], "little") == 2013
    at = 21 if op_msg else 36  # the first ``hello`` of a connection may come and be answered in the old form
    body = decode(data[at:])
    if "maxWireVersion" not in body:
        return data
    if older:
        body["maxWireVersion"] = 21
    if router:
        body["msg"] = "isdbgrid"
        for name in ("setName", "setVersion", "hosts", "primary", "me"):
            body.pop(name, None)
    answer = data[16:at] + encode(body)
    return struct.pack("<i", len(answer) + 16) + data[4:16] + answer


def _command(data: bytes) -> Command | None:
    """The name and the string value of the first element of an OP_MSG's body. What inserts into the store and then into the
    inboxes is an insert into the store."""
    if int.from_bytes(data[12:16], "little") != 2013 or data[20] != 0:
        return None
    end = data.index(b"\0", 26)
    name = data[26:end].decode()
    if name == "bulkWrite":
        return Command("insert", "store")
    if data[25] != 2:
        return Command(name, "")
    length = int.from_bytes(data[end + 1 : end + 5], "little")
    return Command(name, data[end + 5 : end + 4 + length].decode())
