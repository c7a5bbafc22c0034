"""A TCP balancer in front of several brokers, as any in production: it knows who is up, and nothing of MQTT."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

_PATIENCE = 30.0


class Balance(Protocol):
    """What stands in front of the brokers, at ``port``. One that has health checks of its own is deaf to marks."""

    port: int

    def mark_down(self, node: int) -> None: ...

    def mark_up(self, node: int) -> None: ...

    def stop(self) -> None: ...


class Balancer:
    """Listens on ``port`` and gives each connection to one of the ``nodes`` (ports) that are up, drawn by ``dice``."""

    def __init__(self, nodes: Iterable[int], dice: random.Random) -> None:
        self.port = 0
        self._up = set(nodes)
        self._dice = dice
        self._links: dict[int, set[asyncio.Task[None]]] = {}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer", daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_PATIENCE)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Close everything."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        self._drop([task for tasks in self._links.values() for task in tasks])
        await asyncio.gather(*(task for tasks in self._links.values() for task in tasks), return_exceptions=True)

    def mark_down(self, node: int) -> None:
        """A health check failed: the node gets no connections, and those that it has are cut."""
        self._loop.call_soon_threadsafe(self._mark_down, node)

    def _mark_down(self, node: int) -> None:
        self._up.discard(node)
        self._drop(list(self._links.get(node, ())))

    def mark_up(self, node: int) -> None:
        """It answers again."""
        self._loop.call_soon_threadsafe(self._up.add, node)

    def _drop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for node in self._dice.sample(sorted(self._up), len(self._up)):
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    far = await asyncio.open_connection("127.0.0.1", node)
                link = asyncio.create_task(self._link(reader, writer, *far))
                links = self._links.setdefault(node, set())
                links.add(link)
                link.add_done_callback(links.discard)
                return
        writer.transport.abort()

    async def _link(
        self,
        near_in: asyncio.StreamReader,
        near_out: asyncio.StreamWriter,
        far_in: asyncio.StreamReader,
        far_out: asyncio.StreamWriter,
    ) -> None:
        pumps = [asyncio.create_task(_pump(near_in, far_out)), asyncio.create_task(_pump(far_in, near_out))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for writer in (near_out, far_out):  # what one side said last still reaches the other
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(0.5):
                        await writer.drain()
                writer.close()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in (near_out, far_out):
                writer.transport.abort() if not writer.is_closing() else None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
