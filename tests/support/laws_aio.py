"""The same two kinds of client on aiomqtt, on a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.laws_clients import FOR_EVER, Plan, PublisherRecord, Pulse, Recorder, Sent
from tests.support.until import until

RECONNECT = 0.05
"""Seconds until it connects again."""
PATIENCE = 10.0
"""Seconds that it waits for an answer. Who gives up sooner than a busy machine answers reconnects for nothing."""


class AioDevice(Recorder):
    """A durable session on aiomqtt."""

    def __init__(self, pulse: Pulse, port: int, user: str, name: str, filters: dict[str, int], version: int = 4) -> None:
        super().__init__(pulse, user, name, filters)
        self._port = port
        self._version = version
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._leaving.set()
        if self._thread.ident is not None:  # else the run failed before it was started, which is what is to be told
            self._thread.join()
        self.connected.clear()

    def _client(self, port: int, version: int) -> aiomqtt.Client:
        record = self

        class Recording(asyncio.Queue[Any]):
            """aiomqtt's queue of messages, which are acknowledged as they go in."""

            def _put(self, item: aiomqtt.Message) -> None:
                record.take(str(item.topic), item.payload, item.qos, item.properties)
                super()._put(item)

        who: dict[str, Any] = {"identifier": self.name, "username": self.user, "password": self.user}
        if version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = FOR_EVER
            session: dict[str, Any] = {"clean_start": False, "properties": properties, "protocol": aiomqtt.ProtocolVersion.V5}
        else:
            session = {"clean_session": False, "protocol": aiomqtt.ProtocolVersion.V311}
        return aiomqtt.Client("127.0.0.1", port, timeout=PATIENCE, queue_type=Recording, **who, **session)

    def _live(self) -> None:
        while not self._leaving.wait(RECONNECT):
            # A loop and a client of its own for each connection: what aiomqtt has still scheduled for the socket of a lost
            # connection must not meet another one with the same number.
            asyncio.run(self._connect_once())

    async def _connect_once(self) -> None:
        met = False
        client = self._client(self._port, self._version)
        try:
            async with client:
                met = True
                await client.subscribe(list(self.filters.items()))
                self.connected.set()
                await self._until_one_ends(self._listen(client), self._work(client), self._left())
        except aiomqtt.MqttError:
            if met:
                self.dropped()
        finally:
            why = client._disconnected  # asked, or it is told of as an error of the test in which it is collected
            if why.done() and not why.cancelled():
                why.exception()

    async def _left(self) -> None:
        await until(self._leaving.is_set, patience=float("inf"))

    @staticmethod
    async def _until_one_ends(*work: Awaitable[Any]) -> None:
        """Wait for the first, end the others, and raise what went wrong."""
        tasks = [asyncio.ensure_future(one) for one in work]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _listen(self, client: aiomqtt.Client) -> None:
        """Ends by an exception when the connection does."""
        async for _ in client.messages:
            pass  # recorded when it was acknowledged

    async def _work(self, client: aiomqtt.Client) -> None:
        await self._left()


class AioPublisher(AioDevice, PublisherRecord):
    """Publishes by its plan, one message at a time."""

    def __init__(
        self, pulse: Pulse, port: int, user: str, name: str, plan: Plan, seed: int, version: int = 5, pace: float = 0.02
    ) -> None:
        AioDevice.__init__(self, pulse, port, user, name, {f"quiet/{name}": 0}, version)
        PublisherRecord.__init__(self, plan, seed, pace)
        self._open: Sent | None = None

    async def _work(self, client: aiomqtt.Client) -> None:
        while self._open is not None or not self.halt.is_set():
            if self._open is None:
                self._open = self.next(self.name)
            message = self._open  # the same again, where the connection ended before its ack
            properties = self.properties(message)
            await client.publish(message.topic, message.payload, message.qos, properties=properties, timeout=60)
            self._open = None
            message.acked = True
            self.pulse.beat(ack=True)
            await asyncio.sleep(self.dice.uniform(0, self.pace))  # not a wait: the publisher's pace
        await super()._work(client)

    def dropped(self) -> None:
        super().dropped()
        if self._open is not None:
            self._open.risks += 1

    def finish(self) -> None:
        """Publish no more."""
        self.halt.set()
