from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker.clock import Wheel
from broker.config.settings import Listener
from broker.counters import Counters
from broker.net.listeners import Listeners
from tests.support.asyncio_loop import pytest_asyncio_loop_factories
from tests.support.certificates import Certificates

__all__ = ["pytest_asyncio_loop_factories"]

TIMEOUT = 5


class Echo:
    """Sends back what it gets, and remembers what happened to it. ``close`` as data closes, ``abort`` aborts, ``pause`` has
    it read no more."""

    def __init__(self, listener: str) -> None:
        self.listener = listener
        self.got = b""
        self.events: list[str] = []
        self.lost = asyncio.Event()
        self.made = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.events.append("made")
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.got += data
        if data == b"close":
            self.transport.write(b"bye")
            self.transport.close()
        elif data == b"abort":
            self.transport.abort()
        elif data == b"pause":
            self.transport.pause_reading()
        else:
            self.transport.writelines([b"<", data, b">"])

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set()

    def broken(self, why: str, *, too_large: bool) -> None:
        self.events.append(f"{'too large' if too_large else 'broken'}: {why}")

    def write_failed(self, rest: asyncio.Transport) -> None:
        self.events.append("write failed")
        self.transport = rest

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Running:
    """Open listeners, the connections that they made, and where they listen."""

    def __init__(self, listeners: Listeners, counters: Counters) -> None:
        self.listeners = listeners
        self.counters = counters
        self.echoes: list[Echo] = []
        self.peers: list[str] = []
        self.certified: list[str] = []
        self.addresses: dict[str, list[tuple[str, int]]] = {}
        self._more = asyncio.Event()

    def make(self, name: str, peer: str, certified: str = "") -> Echo:
        echo = Echo(name)
        self.peers.append(peer)
        self.certified.append(certified)
        self.echoes.append(echo)
        self._more.set()
        return echo

    async def echo(self, index: int = 0) -> Echo:
        """The connection that was made as the index-th."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.echoes) <= index:
                self._more.clear()
                await self._more.wait()
            await self.echoes[index].made.wait()
        return self.echoes[index]

    @property
    def address(self) -> tuple[str, int]:
        return next(iter(self.addresses.values()))[0]


async def start(
    *settings: dict[str, Any], max_packet_size: int = 1 << 20, connect_timeout: float = 5.0, **more: Any
) -> Running:
    """Open listeners on free ports of the loopback."""
    counters = Counters()
    clock = Wheel(asyncio.get_running_loop())
    clock.start()
    made = Listeners(max_packet_size=max_packet_size, connect_timeout=connect_timeout, clock=clock, counters=counters, **more)
    server = Running(made, counters)
    listeners = [
        Listener.model_validate({"name": f"l{index}", "bind": "127.0.0.1:0", **values}) for index, values in enumerate(settings)
    ]
    server.addresses = await server.listeners.open(listeners, server.make)
    return server


@pytest.fixture
async def running() -> AsyncIterator[Callable[..., Any]]:
    """`start`, with what it started closed at the end."""
    opened: list[Running] = []

    async def begin(*settings: dict[str, Any], **limits: Any) -> Running:
        opened.append(await start(*settings, **limits))
        return opened[-1]

    yield begin
    for server in opened:
        async with asyncio.timeout(TIMEOUT):
            await server.listeners.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))
