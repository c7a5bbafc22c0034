"""A small server that keeps everything in plain containers: what a plugin asks for can be looked up afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from broker.amqtt.api import ConnectedDevices, ServerStatus, SessionState
from broker.counters import Counters
from storage.records import Message

T = TypeVar("T")


class PlainServer:
    """Implements `broker.amqtt.api.BrokerApi`."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.now = ServerStatus()
        self.states: dict[str, SessionState] = {}
        self.filters: list[tuple[str, str, int]] = []
        self.kept: dict[str, Message] = {}
        self.published: list[tuple[str, bytes, int, bool, bool]] = []
        self.news = asyncio.Event()

    def plugin(self, kind: type[T]) -> T | None:
        """It has loaded none."""
        return None

    def status(self) -> ServerStatus:
        return self.now._replace(retained=len(self.kept))

    async def connected_devices(self) -> ConnectedDevices:
        return ConnectedDevices({})

    def sessions(self) -> Iterable[SessionState]:
        return list(self.states.values())

    def session(self, client_id: str) -> SessionState | None:
        return self.states.get(client_id)

    def subscriptions(self) -> Iterable[tuple[str, str, int]]:
        return list(self.filters)

    def retained(self) -> Iterable[Message]:
        return list(self.kept.values())

    def retained_message(self, topic: str) -> Message | None:
        return self.kept.get(topic)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, durable: bool = True) -> None:
        self.published.append((topic, payload, qos, retain, durable))
        if retain and payload:
            self.kept[topic] = Message(1, topic, "b/test", "", 0, qos, payload, True)
        elif retain:
            self.kept.pop(topic, None)
        self.news.set()

    async def add_subscription(self, client_id: str, filter: str, qos: int) -> int:
        if client_id not in self.states:
            self.states[client_id] = SessionState(f"c/{client_id}", client_id, False, False)
        self.filters.append((filter, client_id, qos))
        return qos

    async def until(self, topic: str) -> bytes:
        """The payload that was published to a topic last, once there is one."""
        async with asyncio.timeout(30):
            while True:
                for name, payload, *_ in reversed(self.published):
                    if name == topic:
                        return payload
                self.news.clear()
                await self.news.wait()
