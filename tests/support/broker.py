"""A real broker in the test's own process, on ephemeral ports, and what a test needs to know of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from broker.clock import ServerTime
from broker.config.settings import Settings
from broker.server import Server
from storage.records import Operation
from tests.support.until import until
from tests.support.wire import Client

ANONYMOUS = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


def settings(url: str = "memory://", *, plugins: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Settings:
    """Settings with a TCP and a WebSocket listener on free ports, ``url`` as storage, and these sections' values changed."""
    data: dict[str, Any] = {
        "listeners": [
            {"name": "tcp", "type": "tcp", "bind": "127.0.0.1:0"},
            {"name": "ws", "type": "ws", "bind": "127.0.0.1:0"},
        ],
        "plugins": {"persistence": {"url": url}, "sync": {}, **ANONYMOUS, **(plugins or {})},
        **sections,
    }
    return Settings.model_validate(data)


class Broker:
    """A started server, and the clients that a test has connected to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._clients: list[Client] = []

    @property
    def address(self) -> tuple[str, int]:
        return self.server.addresses["tcp"]

    @property
    def websocket(self) -> tuple[str, int]:
        return self.server.addresses["ws"]

    async def socket(self, version: int = 4, **options: int) -> Client:
        """A client that has sent nothing; ``options`` are those of `Client.open`."""
        client = await Client.open(self.address, version, **options)
        self._clients.append(client)
        return client

    async def client(self, client_id: str, version: int = 4, **connect: Any) -> Client:
        """A client whose CONNECT was accepted; see `Client.connect`."""
        client = await self.socket(version)
        ack = await client.connect(client_id, **connect)
        assert ack.reason == 0
        return client

    async def durable(self, client_id: str, version: int = 4, **connect: Any) -> Client:
        """A client with a session that lasts, in either version; it continues the one that there is."""
        if version == 5:
            connect.setdefault("expiry", 3600)
        return await self.client(client_id, version, clean=False, **connect)

    async def lose(self, client: Client, client_id: str) -> None:
        """The client goes without a DISCONNECT, and the broker has noticed."""
        sessions = self.server.sessions
        await client.drop()
        await until(lambda: all(session.connection is None for session in sessions.named(client_id)))

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Commits]:
        """While entered, each commit waits to be let through; what waits at the end goes through."""
        commits = Commits(self.server.storage.commit)
        self.server.storage.commit = commits.commit  # type: ignore[method-assign]
        try:
            yield commits
        finally:
            commits.open = True
            commits.let(1000)
            self.server.storage.commit = commits.real  # type: ignore[method-assign, assignment]

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.drop()


class Commits:
    """Stands in front of a storage's commit, so that a test says when a group becomes durable."""

    def __init__(self, real: Callable[[Sequence[Operation]], Coroutine[Any, Any, None]]) -> None:
        self.real = real
        self.open = False
        self.waiting: list[Operation] = []
        """The group that waits; empty if none does."""
        self._gate = asyncio.Semaphore(0)

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._gate.release()

    async def arrived(self) -> list[Operation]:
        """Wait for a group to be ready to commit."""
        await until(lambda: bool(self.waiting))
        return self.waiting

    async def commit(self, group: Sequence[Operation]) -> None:
        if not self.open:
            self.waiting = list(group)
            await self._gate.acquire()
            self.waiting = []
        await self.real(group)


class Loud(logging.Handler):
    """Collects what the broker or the event loop reports as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += f" {record.exc_info[1]!r}"
        self.lines.append(f"{record.name}: {text}")


@asynccontextmanager
async def running(
    url: str = "memory://", *, errors: bool = False, time: ServerTime | None = None, **overrides: Any
) -> AsyncIterator[Broker]:
    """A broker with the `settings` given, stopped at the end. An error in the log fails the test unless ``errors``.

    ``time`` are clocks that a test sets.
    """
    loud = Loud()
    loggers = [logging.getLogger(name) for name in ("broker", "storage", "plugins", "asyncio")]
    for logger in loggers:
        logger.addHandler(loud)
    server = Server(settings(url, **overrides), time)
    try:
        await server.start()
        broker = Broker(server)
        try:
            yield broker
        finally:
            await broker.close_clients()
            async with asyncio.timeout(20):
                await server.stop()
    finally:
        for logger in loggers:
            logger.removeHandler(loud)
    if not errors:
        assert loud.lines == []
