"""``$SYS/broker/…``: the figures that mosquitto's users know, and Tideline's own below ``$SYS/broker/tideline/``.

Values are retained, live, kept in memory only, and published every ``interval`` seconds where they changed. They are so
while storage is away, which is one of the things that they tell.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amqtt.plugins.base import BasePlugin

from broker import build
from broker.amqtt import ServerStatus
from broker.counters import Counters
from plugins.search.service import Search, SearchUnavailable

if TYPE_CHECKING:
    from broker.amqtt import TidelineContext

logger = logging.getLogger(__name__)

ROOT = "$SYS/broker/"

_LOADS = {
    "load/messages/received": "messages_received",
    "load/messages/sent": "messages_sent",
    "load/publish/received": "publish_received",
    "load/publish/sent": "publish_sent",
    "load/publish/dropped": "publish_dropped",
    "load/bytes/received": "bytes_received",
    "load/bytes/sent": "bytes_sent",
    "load/sockets": "connections_total",
    "load/connections": "clients_connected",
}
_MINUTES = (1, 5, 15)


class Load:
    """A counter's rise per minute, as moving averages over 1, 5 and 15 minutes that start at 0, as a machine's load does."""

    __slots__ = ("_last", "averages")

    def __init__(self) -> None:
        self._last = 0
        self.averages = [0.0] * len(_MINUTES)

    def update(self, value: int, elapsed: float) -> None:
        """``elapsed`` seconds after the last time the counter stands at ``value``."""
        rate = (value - self._last) * 60 / elapsed
        self._last = value
        for index, minutes in enumerate(_MINUTES):
            kept = math.exp(-elapsed / (60 * minutes))
            self.averages[index] = rate + kept * (self.averages[index] - rate)


class Figures:
    """What there is to tell, as topic → text. No I/O."""

    def __init__(self) -> None:
        self._loads = {name: Load() for name in _LOADS}
        self._published: dict[str, str] = {}

    def changed(
        self, counters: Counters, status: ServerStatus, uptime: int, elapsed: float, more: Iterable[tuple[str, object]] = ()
    ) -> Iterator[tuple[str, str]]:
        """(topic, value) of what is not what it was last time, ``elapsed`` seconds ago; ``more`` values are among them."""
        for name, load in self._loads.items():
            load.update(getattr(counters, _LOADS[name]), elapsed)
        for name, value in (*self._all(counters, status, uptime), *more):
            text = str(value)
            if self._published.get(name) != text:
                self._published[name] = text
                yield ROOT + name, text

    def _all(self, counters: Counters, status: ServerStatus, uptime: int) -> Iterator[tuple[str, object]]:
        yield "uptime", f"{uptime} seconds"
        yield from _clients(counters, status)
        yield from _traffic(counters, status)
        for name, load in self._loads.items():
            for minutes, average in zip(_MINUTES, load.averages, strict=True):
                yield f"{name}/{minutes}min", f"{average:.2f}"
        yield from _own(counters, status)


def _clients(counters: Counters, status: ServerStatus) -> Iterator[tuple[str, object]]:
    yield "clients/connected", status.clients_connected
    yield "clients/active", status.clients_connected  # mosquitto's old names, still in many dashboards
    yield "clients/disconnected", status.clients_disconnected
    yield "clients/inactive", status.clients_disconnected
    yield "clients/total", status.clients_connected + status.clients_disconnected
    yield "clients/maximum", status.clients_maximum
    yield "clients/expired", counters.clients_expired
    yield "subscriptions/count", status.subscriptions
    yield "shared_subscriptions/count", status.shared_subscriptions
    yield "retained messages/count", status.retained


def _traffic(counters: Counters, status: ServerStatus) -> Iterator[tuple[str, object]]:
    yield "messages/received", counters.messages_received
    yield "messages/sent", counters.messages_sent
    yield "messages/stored", counters.messages_stored
    yield "messages/dropped", counters.publish_dropped
    yield "publish/messages/received", counters.publish_received
    yield "publish/messages/sent", counters.publish_sent
    yield "publish/messages/dropped", counters.publish_dropped
    yield "publish/bytes/received", counters.publish_bytes_received
    yield "publish/bytes/sent", counters.publish_bytes_sent
    yield "bytes/received", counters.bytes_received
    yield "bytes/sent", counters.bytes_sent


def _own(counters: Counters, status: ServerStatus) -> Iterator[tuple[str, object]]:
    own = "tideline/"
    yield own + "storage/state", "available" if status.storage_available else "unavailable"
    yield own + "storage/errors", counters.storage_errors
    yield own + "pending/messages", status.pending_messages
    yield own + "pending/bytes", status.pending_bytes
    yield own + "groups/count", counters.groups
    yield own + "groups/messages", counters.group_messages
    yield own + "connections/total", counters.connections_total
    yield own + "connections/refused", counters.connections_refused
    yield own + "handshakes/failed", counters.handshakes_failed
    yield own + "clients/refused", counters.clients_refused
    yield own + "clients/slow", counters.slow_disconnects
    yield own + "acl/denied", counters.acl_denied
    yield own + "protocol/errors", counters.protocol_errors
    yield own + "retention/removed", counters.messages_removed
    yield own + "retention/unacknowledged", counters.entries_lost
    yield own + "inboxes/trimmed", counters.entries_trimmed
    yield own + "hooks/errors", counters.hook_errors
    yield own + "events/dropped", counters.events_dropped


def _search(plugin: Search | None) -> Iterator[tuple[str, object]]:
    """How far the search index trails the store."""
    if plugin is None:
        return
    try:
        lag, errors = plugin.lag(), plugin.failures()
    except SearchUnavailable:
        return  # not open yet, or no longer
    yield "tideline/search/lag/messages", lag.messages
    yield "tideline/search/lag/milliseconds", lag.milliseconds
    yield "tideline/search/errors", errors


def version() -> str:
    """What ``$SYS/broker/version`` says."""
    number = build.version()
    return f"Tideline version {number}" if number else "Tideline, not installed"


class SysTopicsPlugin(BasePlugin):
    """Publishes the figures while the broker runs."""

    context: TidelineContext

    @dataclass
    class Config:
        """Settings under ``plugins: sys:``."""

        interval: float = 10.0
        """Seconds between two looks; 0 publishes the version and nothing else."""

        def __post_init__(self) -> None:
            if self.interval < 0:
                raise ValueError(f"interval {self.interval:g} must be 0 or more seconds")

    def __init__(self, context: TidelineContext) -> None:
        super().__init__(context)
        self._task: asyncio.Task[None] | None = None

    async def on_broker_post_start(self) -> None:
        await self._publish(ROOT + "version", version())
        if self.config.interval:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="$SYS")

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        figures, started = Figures(), time.monotonic()
        last = started
        while True:
            await asyncio.sleep(self.config.interval)
            now = time.monotonic()
            server = self.context.server
            search = _search(server.plugin(Search))
            for topic, text in figures.changed(server.counters, server.status(), int(now - started), now - last, search):
                await self._tell(topic, text)
            last = now

    async def _tell(self, topic: str, text: str) -> None:
        try:
            await self._publish(topic, text)
        except Exception:  # one value that could not be told must not end the others
            logger.exception("%s could not be published", topic)

    async def _publish(self, topic: str, text: str) -> None:
        await self.context.server.publish(topic, text.encode(), retain=True, durable=False)
