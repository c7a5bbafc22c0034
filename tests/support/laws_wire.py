"""Raw clients for a broker in a process of its own: they do what a test says, at full speed, and nothing by themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.packets.model import PingReq, PingResp, PubAck, Publish
from tests.support.laws_process import BrokerProcess
from tests.support.until import until
from tests.support.wire import Client, Closed

PATIENCE = 60.0


async def enter(
    broker: BrokerProcess, user: str, name: str, version: int = 4, *, clean: bool = False, **connect: Any
) -> Client:
    """A client of ``user`` whose CONNECT was accepted; its session lasts unless ``clean``."""
    client = await Client.open(("127.0.0.1", broker.port), version)
    if version == 5 and not clean:
        connect.setdefault("expiry", 0xFFFFFFFF)
    ack = await client.connect(name, clean=clean, username=user, password=user.encode(), **connect)
    assert ack.reason == 0, ack
    return client


class Flood:
    """Publishes QoS 1 as fast as its socket takes it, whatever is acknowledged. Payloads: ``<name>:<number>`` and filling."""

    def __init__(self, client: Client, name: str, topic: str, size: int) -> None:
        self.name = name
        self.sent = 0
        self.acked: list[int] = []
        """Numbers, in the order of the acks."""
        self._client = client
        self._topic = topic
        self._filling = b" " * size
        self._halt = False
        work = (self._push(), self._listen(), self._keep_alive())
        self._tasks = [asyncio.create_task(part) for part in work]

    async def _push(self) -> None:
        while not self._halt:
            number = self.sent
            payload = f"{self.name}:{number}".encode() + self._filling
            self._client.send(Publish(self._topic, payload, 1, False, False, number % 65535 + 1))
            self.sent += 1
            await self._client.drained()
            await asyncio.sleep(0)

    async def _listen(self) -> None:
        while True:
            ack = await self._client.receive(timeout=600)
            if isinstance(ack, PingResp):
                continue
            assert isinstance(ack, PubAck), ack
            assert ack.packet_id == len(self.acked) % 65535 + 1, "acknowledged out of order"
            assert ack.reason < 0x80, ack
            self.acked.append(len(self.acked))

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(0.5)  # not a wait: a keep alive
            self._client.send(PingReq())

    def check(self) -> None:
        """Raise what went wrong."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    def halt(self) -> None:
        """Publish nothing new."""
        self._halt = True

    async def finish(self, timeout: float = PATIENCE) -> None:
        """Publish nothing new, and wait until everything is acknowledged."""
        self.halt()

        def done() -> bool:
            self.check()
            return self._tasks[0].done() and len(self.acked) == self.sent

        await until(done, lambda: f"{self.name}: {len(self.acked)} of {self.sent} acknowledged", timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut_off(self) -> None:
        """The broker has closed the connection, and nothing else went wrong."""
        self.halt()
        self._tasks[2].cancel()
        _, heard, _ = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert isinstance(heard, Closed), heard


class Collector:
    """Receives for a device, and acknowledges QoS 1; ``got`` has the payloads, without filling, in the order of arrival."""

    def __init__(self, client: Client) -> None:
        self.got: list[str] = []
        self.sizes = 0
        self._client = client
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        with contextlib.suppress(Closed):
            while True:
                message = await self._client.expect(Publish, timeout=600)
                self.got.append(message.payload.decode().rstrip())
                self.sizes += len(message.payload)
                if message.qos:
                    self._client.send(PubAck(message.packet_id))

    def check(self) -> None:
        """Raise what went wrong."""
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    async def wait(self, count: int, timeout: float = PATIENCE) -> None:
        """Wait until that many messages have come."""

        def enough() -> bool:
            self.check()
            return len(self.got) >= count

        await until(enough, lambda: f"{len(self.got)} of {count} messages", timeout)

    async def until(self, payload: str, timeout: float = PATIENCE) -> None:
        """Wait until the newest message is that one."""

        def there() -> bool:
            self.check()
            return self.got[-1:] == [payload]

        await until(there, lambda: f"{payload!r}, the last of {len(self.got)} is {self.got[-1:]}", timeout)

    async def end(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def dropping(*clients: Client) -> AsyncIterator[None]:
    """Close these connections at the end, whatever happened."""
    try:
        yield
    finally:
        for client in clients:
            await client.drop()
